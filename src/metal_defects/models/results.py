"""What stages 04, 06 and 07 write about their models."""

from typing import Literal

from metal_defects.config import FitMode, ImageSchema, Resize
from metal_defects.data.manifest import DataCard
from metal_defects.metrics import SplitMetrics
from metal_defects.records import Record

Kind = Literal["frozen", "from scratch"]
Weights = Literal["ImageNet", "random", "from scratch"]
Value = str | int | float | bool | None
Hyperparameters = dict[str, Value]


class ModelEntry(Record):
    """A model that is trained: an entry of models.json.

    Attributes:
        kind: a head on a frozen backbone, or a network whose every weight is trained.
        weights_file: of the backbone; None where its weights are random or all are trained.
        gmacs: 10^9 multiply-adds per image of 224 px.
    """

    name: str
    title: str
    kind: Kind
    weights: Weights
    weights_file: str | None
    weights_sha256: str | None
    gmacs: float
    parameters: int
    trainable_parameters: int

    @property
    def is_frozen(self) -> bool:
        """Whether a head is trained on the features of a frozen backbone."""
        return self.kind == "frozen"

    @property
    def full_title(self) -> str:
        """With the origin of the weights."""
        return f"{self.title} ({self.weights})"


class ModelList(Record):
    """models.json."""

    data: DataCard
    models: tuple[ModelEntry, ...]
    skipped: tuple[str, ...]

    def find(self, name: str) -> ModelEntry:
        """The entry of that name."""
        return next(entry for entry in self.models if entry.name == name)


class BaseResult(Record):
    """What training one model gave: result.json, and a row of leaderboard.json."""

    data: DataCard
    name: str
    title: str
    kind: Kind
    weights: Weights
    gmacs: float
    parameters: int
    views: int
    fine_tuned: bool
    engine: str
    milliseconds_per_image: float | None
    hyperparameters: Hyperparameters
    epochs: int
    seconds: float
    valid: SplitMetrics
    test: SplitMetrics


class Leaderboard(Record):
    """leaderboard.json: the lowest validation loss first."""

    data: DataCard
    rule: str
    models: tuple[BaseResult, ...]


class BestBase(Record):
    """best_base_model.json: the winner, with the figures that decided."""

    data: DataCard
    name: str
    title: str
    kind: Kind
    weights: Weights
    rule: str
    valid_log_loss: dict[str, float]
    tied: tuple[str, ...]


class Trial(Record):
    """One set of hyperparameters that was tried.

    Attributes:
        score: log loss on the validation images; None where the trial failed.
    """

    number: int
    status: str
    score: float | None
    val_accuracy: float | None
    seconds: float | None
    epochs: float | None
    params: Hyperparameters
    message: str


class LogLosses(Record):
    """Log loss on the validation images, in nats."""

    base: float
    tuned: float


class TunedResult(Record):
    """metrics.json of stage 07: what the search gave, and the one test of its winner."""

    data: DataCard
    name: str
    title: str
    kind: Kind
    weights: Weights
    base_model_kept: bool
    hyperparameters: Hyperparameters
    trials: int
    valid_log_loss: LogLosses
    seconds: float
    valid: SplitMetrics
    test: SplitMetrics

    @property
    def full_title(self) -> str:
        """With the origin of the weights."""
        return f"tuned {self.title} ({self.weights})"


class TunedCard(Record):
    """tuned_model.json: what prediction needs beside the weights."""

    data: DataCard
    model: str
    weights: Weights
    classes: tuple[str, ...]
    image_size: int
    resize: Resize
    fit: FitMode = "stretch"
    limits: ImageSchema
    hyperparameters: Hyperparameters
    sha256: str

"""What stages 04, 06 and 07 write about their models."""

from collections.abc import Sequence
from typing import Literal

from metal_defects.config import FitMode, ImageSchema, Resize, ViewKind
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
    views: tuple[ViewKind, ...]
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


class Gap(Record):
    """How a trial falls behind the one of the lowest loss: means over the images, with their standard errors.

    Attributes:
        loss: that it is higher by, in nats.
        accuracy: that it is lower by.
    """

    loss: float
    loss_error: float
    accuracy: float
    accuracy_error: float


class Trial(Record):
    """One set of hyperparameters that was tried.

    Attributes:
        score: log loss of the images that judged it, in nats; None where the trial failed.
        accuracy: on these images.
        images: how many they were.
        first_look: whether it only decided who is compared.
        damaged_accuracy: on a damaged view of each; None where there is none.
        gmacs: 10^9 multiply-adds that an image costs with it; None where it is that of the model.
        gap: to the trial of the lowest loss, on the same images; None of a first look.
    """

    number: int
    status: str
    score: float | None
    accuracy: float | None
    images: int | None
    first_look: bool = False
    damaged_accuracy: float | None = None
    gmacs: float | None = None
    gap: Gap | None = None
    seconds: float | None
    epochs: float | None
    params: Hyperparameters
    message: str


def find_winner(trials: Sequence[Trial], values: Hyperparameters) -> Trial:
    """The trial whose hyperparameters are among `values`; where there are several, the one of the lowest loss.

    A first look decides nothing, so that it is never the one.
    """
    finished = [trial for trial in trials if trial.score is not None and not trial.first_look]
    return min((trial for trial in finished if trial.params.items() <= values.items()), key=lambda one: one.score or 0)


class LogLosses(Record):
    """Log loss on the validation images, in nats."""

    base: float
    tuned: float


class FineTuning(Record):
    """Whether blocks of the backbone were trained, too, and what it gave.

    Attributes:
        reason: why it was kept, dropped, or not tried, in words.
        kept: whether the fine-tuned network is the tuned model.
        minutes: that it took; this and the like are None where it was not tried.
        epochs: of each training.
        images: of the training split, that judged both, each left out.
        frozen_accuracy, accuracy: of the head on the frozen backbone, and of the fine-tuned network.
        gain, gain_error: by how much the log loss fell, and its standard error (paired).
    """

    reason: str
    kept: bool = False
    minutes: float | None = None
    epochs: int | None = None
    images: int | None = None
    frozen_accuracy: float | None = None
    accuracy: float | None = None
    gain: float | None = None
    gain_error: float | None = None

    @property
    def helps(self) -> bool:
        """Whether the log loss fell at all."""
        return self.gain is not None and self.gain > 0


class TunedResult(Record):
    """metrics.json of stage 07: what the search gave, and the one test of its winner."""

    data: DataCard
    name: str
    title: str
    kind: Kind
    weights: Weights
    base_model_kept: bool
    hyperparameters: Hyperparameters
    trials: tuple[Trial, ...]
    reason: str
    fine_tuning: FineTuning | None
    valid_log_loss: LogLosses
    seconds: float
    valid: SplitMetrics
    test: SplitMetrics

    @property
    def full_title(self) -> str:
        """With the origin of the weights."""
        return f"tuned {self.title} ({self.weights})"

    @property
    def winner(self) -> Trial | None:
        """The trial that won; None where the base model was kept all the same."""
        return None if self.base_model_kept else find_winner(self.trials, self.hyperparameters)

    @property
    def is_fine_tuned(self) -> bool:
        """Whether the fine-tuned network took the place of the head on the frozen backbone."""
        return self.fine_tuning is not None and self.fine_tuning.kept


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
    fine_tuned: bool = False
    sha256: str

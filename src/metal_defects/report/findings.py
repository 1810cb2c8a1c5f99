"""Everything that the report tells, as the stages left it: typed results, and where the pictures are."""

from dataclasses import dataclass
from pathlib import Path

from metal_defects.data.manifest import ImageRow, LeftOut, ManifestRow, SourceCard
from metal_defects.data.validation import ValidationReport
from metal_defects.evaluation.results import Evaluation
from metal_defects.inference.card import BundleCard
from metal_defects.metrics import Metrics
from metal_defects.models.results import Leaderboard, TunedResult


@dataclass(frozen=True)
class StageRecord:
    """A finished stage: how long it took, and when it was done (ISO 8601)."""

    name: str
    seconds: float
    finished: str


@dataclass(frozen=True)
class Findings:
    """What the report and the model card are made of.

    Attributes:
        preprocessed: folder of stage 02; the paths of `images` start there.
        data_plots, evaluation_plots: folders of PNG files.
        base_folders: folder of stage 06, with leaderboard.png and a folder for each model.
        tuning_plots: folder of stage 07.
        predictions: folder of its predictions_<split>.csv.
        command: that repeats the run.
        versions: of libraries, by name.
    """

    source: SourceCard
    validation: ValidationReport
    manifest: tuple[ManifestRow, ...]
    quarantine: tuple[LeftOut, ...]
    images: tuple[ImageRow, ...]
    leaderboard: Leaderboard
    tuned: TunedResult
    evaluation: Evaluation
    bundle: BundleCard
    preprocessed: Path
    data_plots: Path
    base_folders: Path
    tuning_plots: Path
    predictions: Path
    evaluation_plots: Path
    command: str
    seed: int
    versions: dict[str, str]
    made: tuple[StageRecord, ...]

    @property
    def out_of_fold(self) -> Metrics | None:
        """Metrics of the cross-validation; None where a network that is trained as a whole took one fold for it."""
        return self.evaluation.cross_validation.metrics if self.evaluation.protocol.folds > 1 else None

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the models that were trained, by name."""
        return {model.name: model.title for model in self.leaderboard.models}

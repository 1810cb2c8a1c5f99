"""Everything that the report tells, as the stages left it: typed results, and where the pictures are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metal_defects.data.geometry import Geometry
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
        data_plots, tuning_plots, evaluation_plots: folders of PNG files.
        base_plots: folder with one folder of them for each base model.
        predictions: folder of predictions_<split>.csv.
        command: that repeats the run.
    """

    source: SourceCard
    validation: ValidationReport
    manifest: tuple[ManifestRow, ...]
    quarantine: tuple[LeftOut, ...]
    geometry: Geometry
    images: tuple[ImageRow, ...]
    leaderboard: Leaderboard
    tuned: TunedResult
    evaluation: Evaluation
    bundle: BundleCard
    preprocessed: Path
    data_plots: Path
    leaderboard_plot: Path
    base_plots: Path
    tuning_plots: Path
    predictions: Path
    evaluation_plots: Path
    variants_plot: Path
    command: str
    seed: int
    made: tuple[StageRecord, ...]

    @property
    def out_of_fold(self) -> Metrics | None:
        """Metrics of the cross-validation; None where a network trained from scratch took one fold for it."""
        return self.evaluation.cross_validation.metrics if self.evaluation.protocol.folds > 1 else None

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the models that were trained, by name."""
        return {model.name: model.title for model in self.leaderboard.models}

    def list_titles(self, names: Sequence[str]) -> str:
        """Titles of the named models, in one line."""
        return ", ".join(self.titles[name] for name in names)

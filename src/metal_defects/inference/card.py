"""bundle.json: what a model can do, where it comes from, and how its outputs become an answer."""

from typing import Any, Literal

from pydantic import ConfigDict, model_validator

from metal_defects.config import FitMode, ImageSchema, ImageSize, Resize
from metal_defects.data.manifest import DataCard
from metal_defects.metrics import Score, SplitMetrics
from metal_defects.records import Record


class VerdictRules(Record):
    """When an answer is accepted; see `metal_defects.inference.verdict.decide`.

    Attributes:
        unknown_distance: of the guard; beyond it the surface is unknown.
        review_distance: beyond it a person looks; None for no such band.
        min_confidence: below it a person looks; None where no answer may be accepted.
        set_threshold: probability from which a class counts as possible, which is told and decides nothing.
        max_risk: share of the accepted answers that may be wrong; None in bundles of version 0.1.
    """

    unknown_distance: float
    review_distance: float | None
    min_confidence: float | None
    set_threshold: float
    max_risk: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_first_version(cls, values: Any) -> Any:
        """In version 0.1 two possible classes meant review: one threshold that accepts none of what went there."""
        if not isinstance(values, dict) or "max_risk" in values:
            return values
        confidence, threshold = values.get("min_confidence"), values.get("set_threshold")
        if not isinstance(confidence, int | float) or not isinstance(threshold, int | float):
            return values
        return values | {"min_confidence": max(confidence, threshold, 1 - threshold)}


class LocatorCard(Record):
    """How to read the heat map.

    Attributes:
        kind: what the locator was taught by; one that learned from labels shows the place, not the extent.
        threshold: from which a cell counts as part of a defect.
        box_threshold: for boxes; higher, because neighbouring defects melt into one region at the other.
    """

    kind: Literal["boxes", "labels"]
    threshold: float
    box_threshold: float


class InputCard(Record):
    """Which images are accepted, and what becomes of them before the graph.

    Attributes:
        fit: bundles of before there was a choice do not name it.
    """

    image_size: ImageSize
    resize: Resize
    limits: ImageSchema
    fit: FitMode = "stretch"


class Parity(Record):
    """How a graph's answers differ from those of the Keras model on the held-out images."""

    images: int
    labels_equal: int
    verdicts_equal: int
    max_difference: float
    max_differences: dict[str, float]
    tolerance: float
    ok: bool


class Measured(Record):
    """Accuracy and speed of a model file."""

    file: str
    sha256: str
    bytes: int
    valid_accuracy: Score
    test_accuracy: Score
    milliseconds_per_image: float


class Variant(Measured):
    """A graph of the bundle.

    Attributes:
        fault: why it must not be served by default; None where nothing speaks against it.
    """

    parity: Parity
    fault: str | None


class GuardShare(Record):
    """Share of the held-out images that the guard accepts."""

    accepted: float


class VerdictShares(Record):
    """Shares of the images by verdict, and of the accepted ones the share that is wrong."""

    accept: float
    review: float
    unknown: float
    error_among_accepted: float


class TrustCard(Record):
    """The figures of the evaluation that everyone who serves the model should know."""

    images: int
    folds: int
    ece: Score
    coverage: Score
    mean_set_size: float
    guard: GuardShare
    verdicts: VerdictShares


class Provenance(Record):
    """What the model was made of."""

    model: str
    weights: str
    hyperparameters: dict[str, str | int | float | bool | None]
    keras_sha256: str
    manifest_sha256: str
    versions: dict[str, str]


class BundleCard(Record):
    """bundle.json.

    Attributes:
        format: of this file; 1 is the only one so far.
        default: name of the variant that is served.
        verdict_rules, locator, evaluation: None where the model was not evaluated.
        priors: shares of the classes that the answers are given for, in their order; None in bundles of version 0.1.
        metrics: of the .h5 file, by split.
    """

    # What a later version adds at the top is no obstacle, as long as the format is the same.
    model_config = ConfigDict(extra="ignore")
    format: Literal[1]
    name: str
    created: str
    code_version: str
    classes: tuple[str, ...]
    input: InputCard
    default: str
    variants: dict[str, Variant]
    verdict_rules: VerdictRules | None
    locator: LocatorCard | None
    evaluation: TrustCard | None
    data: DataCard
    provenance: Provenance
    metrics: dict[str, SplitMetrics]
    priors: tuple[float, ...] | None = None

"""What stage 08 writes about the tuned model: evaluation.json, and the rules of its answers."""

from metal_defects.data.manifest import DataCard
from metal_defects.evaluation.ensemble import EnsembleTrial
from metal_defects.evaluation.fold_errors import CrossValidation
from metal_defects.evaluation.learning_curve import CurvePoint
from metal_defects.evaluation.robustness import Robustness
from metal_defects.evaluation.significance import ComparedModel
from metal_defects.inference.card import LocatorCard, VerdictRules
from metal_defects.models.results import Weights
from metal_defects.records import Record
from metal_defects.trust.calibration import Calibration, Scaling
from metal_defects.trust.conformal import Coverage
from metal_defects.trust.guard import GuardCard, GuardFindings
from metal_defects.trust.locator_scores import LocatorFindings
from metal_defects.trust.priors import Priors
from metal_defects.trust.selective import RiskCoverage


class ModelTitle(Record):
    """The model that is judged."""

    name: str
    title: str
    weights: Weights


class Protocol(Record):
    """How the answers came about that calibration, possible classes and verdicts rest on.

    Attributes:
        folds: 1 where a network that is trained as a whole answered its validation images instead.
        note: what a reader must know about it.
    """

    images: int
    folds: int
    repeats: int
    note: str | None


class VerdictCounts(Record):
    """Images by verdict, and how many of them were named wrongly."""

    images: int
    accept: int
    review: int
    unknown: int
    wrong_accept: int
    wrong_review: int
    wrong_unknown: int


class Verdicts(Record):
    """The rules, and what they make of the answers; out of fold where there was a cross-validation.

    Out of fold the confidence that is wanted was chosen without the image's own fold.
    """

    rules: VerdictRules
    out_of_fold: VerdictCounts | None
    valid: VerdictCounts
    test: VerdictCounts


class Evaluation(Record):
    """evaluation.json.

    Attributes:
        seconds: that each part took.
        priors: the mix of the classes that the answers are given for.
        locator: None where no held-out image has a box.
        learning_curve, comparison, ensemble: None without a feature bank; the last two with one base model alone, too.
    """

    data: DataCard
    model: ModelTitle
    classes: tuple[str, ...]
    seconds: dict[str, float]
    protocol: Protocol
    cross_validation: CrossValidation
    calibration: Calibration
    conformal: Coverage
    guard: GuardFindings
    priors: Priors
    selection: RiskCoverage
    verdicts: Verdicts
    locator: LocatorFindings | None
    robustness: Robustness
    learning_curve: tuple[CurvePoint, ...] | None
    comparison: tuple[ComparedModel, ...] | None
    ensemble: EnsembleTrial | None


class Decision(Record):
    """decision.json: what turns the graph's outputs into an answer."""

    scaling: Scaling
    verdict_rules: VerdictRules
    locator: LocatorCard
    guard: GuardCard

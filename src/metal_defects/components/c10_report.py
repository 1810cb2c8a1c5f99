"""Stage 10: the report, one page about the whole run, and the model card."""

from metal_defects import artifacts as a
from metal_defects.data.geometry import Geometry
from metal_defects.data.manifest import ImageRow, LeftOut, ManifestRow, SourceCard
from metal_defects.data.validation import ValidationReport
from metal_defects.evaluation.results import Evaluation
from metal_defects.inference.card import BundleCard
from metal_defects.log import logger
from metal_defects.models.results import Leaderboard, TunedResult
from metal_defects.pipeline.context import StageContext
from metal_defects.pipeline.table import COMMAND, HISTORY
from metal_defects.report.document import write_report
from metal_defects.report.findings import Findings, StageRecord


def run(ctx: StageContext) -> None:
    """Write report.html and model_card.md."""
    found = Findings(
        source=ctx.read(a.SOURCE, SourceCard),
        validation=ctx.read(a.VALIDATION, ValidationReport),
        manifest=tuple(ctx.read_rows(a.MANIFEST, ManifestRow)),
        quarantine=tuple(ctx.read_rows(a.QUARANTINE, LeftOut)),
        geometry=ctx.read(a.GEOMETRY, Geometry),
        images=tuple(ctx.read_rows(a.IMAGES, ImageRow)),
        leaderboard=ctx.read(a.LEADERBOARD, Leaderboard),
        tuned=ctx.read(a.TUNED_METRICS, TunedResult),
        evaluation=ctx.read(a.EVALUATION, Evaluation),
        bundle=ctx.read(a.BUNDLE_CARD, BundleCard),
        preprocessed=ctx.path(a.PREPROCESSED),
        data_plots=ctx.path(a.DATA_PLOTS),
        leaderboard_plot=ctx.path(a.LEADERBOARD_PLOT),
        base_plots=ctx.path(a.BASE_PLOTS),
        tuning_plots=ctx.path(a.TUNING_PLOTS),
        predictions=ctx.path(a.PREDICTIONS),
        evaluation_plots=ctx.path(a.EVALUATION_PLOTS),
        variants_plot=ctx.path(a.VARIANTS_PLOT),
        command=ctx.outside(COMMAND),
        seed=ctx.setting("seed"),
        made=tuple(StageRecord(one.stage, one.seconds, one.finished) for one in ctx.outside(HISTORY)),
    )
    write_report(found, ctx.out)
    logger.info("   everything that was found is in report.html")

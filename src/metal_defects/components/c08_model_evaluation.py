"""Stage 08: how far the tuned model's answers can be trusted, and what makes them trustworthy when it is served."""

from functools import partial
from pathlib import Path

import numpy as np

from metal_defects import artifacts
from metal_defects.components.c05_callbacks import build_callbacks, gather_training
from metal_defects.config import ModelEvaluationParams
from metal_defects.data.manifest import ImageRow, ManifestRow, SourceCard
from metal_defects.evaluation.clock import Clock
from metal_defects.evaluation.judged import judge_out_of_fold
from metal_defects.evaluation.judging import Fitted, HeldOut, export_graph, fit_parts, judge_held_out, look_further
from metal_defects.evaluation.results import Decision, Evaluation, ModelTitle
from metal_defects.evaluation.tuned_run import TunedRun, open_tuned_run
from metal_defects.inference.card import LocatorCard
from metal_defects.log import logger
from metal_defects.models.results import ModelList, TunedCard, TunedResult
from metal_defects.pipeline.context import StageContext
from metal_defects.plots.locator import draw_locations
from metal_defects.plots.robustness import draw_learning_curve, draw_noise_curve, draw_robustness_map
from metal_defects.plots.trust import (
    draw_coverage,
    draw_guard_distances,
    draw_reliability,
    draw_risk_coverage,
    draw_verdicts,
)
from metal_defects.records import write_record
from metal_defects.trust.guard import GuardCard

EXAMPLES = 12
# Of drawn images the damage says nothing about real steel: enough to show that it is measured.
DAMAGED_SYNTHETIC = 24


def run(ctx: StageContext) -> None:
    """Write answer.npz, answer.onnx, decision.json, evaluation.json and plots/."""
    params: ModelEvaluationParams = ctx.setting("model_evaluation")
    models, result = ctx.read(artifacts.MODELS, ModelList), ctx.read(artifacts.TUNED_METRICS, TunedResult)
    source, clock = ctx.read(artifacts.SOURCE, SourceCard), Clock()
    tuned = _open(ctx, models, result)
    judged = judge_out_of_fold(tuned, params, clock)
    fitted = fit_parts(tuned, judged, params, clock)
    damaged = _count_damaged(params, source.kind)
    graph = export_graph(tuned, fitted, ctx.out, clock)
    held_out = judge_held_out(tuned, judged, fitted, damaged, graph, clock)
    outlook = look_further(tuned, models, params.folds, clock)
    evaluation = Evaluation(
        data=source.card,
        model=ModelTitle(name=result.name, title=result.title, weights=result.weights),
        classes=tuned.classes,
        seconds=clock.seconds,
        protocol=judged.protocol,
        cross_validation=judged.cross_validation,
        calibration=judged.calibration,
        conformal=judged.conformal,
        guard=held_out.guard,
        priors=judged.priors,
        selection=fitted.chosen.selection,
        verdicts=held_out.verdicts,
        locator=held_out.locator,
        robustness=held_out.robustness,
        learning_curve=outlook.learning_curve,
        comparison=outlook.comparison,
        ensemble=outlook.ensemble,
    )
    write_record(ctx.out / artifacts.DECISION.file, _describe_decision(fitted))
    write_record(ctx.out / artifacts.EVALUATION.file, evaluation)
    _draw_plots(ctx.out / artifacts.EVALUATION_PLOTS.file, tuned, fitted, held_out, evaluation, result.full_title)
    logger.info("   calibration error %.2f points", 100 * evaluation.calibration.after.ece.value)
    chosen = evaluation.selection.chosen
    logger.info(
        "   %.1f of 100 accepted, at most %g %% wrong among them%s",
        100 * chosen.accepted.value,
        100 * chosen.max_risk,
        "" if chosen.is_shown else ": too few answers or too many errors to show it by counting",
    )


def _open(ctx: StageContext, models: ModelList, result: TunedResult) -> TunedRun:
    return open_tuned_run(
        ctx.read(artifacts.TUNED_CARD, TunedCard),
        models.find(result.name),
        gather_training(ctx),
        partial(build_callbacks, ctx.setting("callbacks"), is_trial=True),
        ctx.read_rows(artifacts.MANIFEST, ManifestRow),
        ctx.read_rows(artifacts.IMAGES, ImageRow),
        ctx.path(artifacts.TUNED_H5),
        ctx.path(artifacts.OUT_OF_FOLD),
        ctx.resume,
    )


def _count_damaged(params: ModelEvaluationParams, kind: str) -> int:
    """Images per kind and severity of damage."""
    if kind != "synthetic" or params.robustness_images <= DAMAGED_SYNTHETIC:
        return params.robustness_images
    logger.info("   %d damaged images per cell, because the data is synthetic", DAMAGED_SYNTHETIC)
    return DAMAGED_SYNTHETIC


def _describe_decision(fitted: Fitted) -> Decision:
    locator, guard = fitted.locator, fitted.guard
    return Decision(
        scaling=fitted.scaling,
        verdict_rules=fitted.chosen.rules,
        locator=LocatorCard(kind=locator.kind, threshold=locator.threshold, box_threshold=locator.box_threshold),
        guard=GuardCard(taps=guard.taps, acceptance=guard.acceptance),
    )


def _draw_plots(
    folder: Path, tuned: TunedRun, fitted: Fitted, held_out: HeldOut, evaluation: Evaluation, title: str
) -> None:
    folder.mkdir(parents=True)
    distances = {"training, out of fold": fitted.guard.seen, "held out": held_out.distances}
    distances = {name: values for name, values in distances.items() if len(values)}
    draw_guard_distances(distances, folder / "guard.png", "Distance from the training images")
    verdicts = evaluation.verdicts
    counts = {"out of fold": verdicts.out_of_fold, "valid": verdicts.valid, "test": verdicts.test}
    found = {name: row for name, row in counts.items() if row is not None}
    draw_verdicts(found, folder / "verdicts.png", "Verdicts")
    images = tuned.pixels
    chosen = np.linspace(0, len(images) - 1, min(EXAMPLES, len(images))).round().astype(int)
    draw_locations(
        images[chosen],
        held_out.heat_maps[chosen],
        [tuned.held_out.boxes[index] for index in chosen],
        [tuned.classes[tuned.held_out.labels[index]] for index in chosen],
        fitted.locator.box_threshold,
        folder / "locator_examples.png",
        "Held-out images: true boxes, and heat map with the boxes found",
    )
    if evaluation.learning_curve:
        draw_learning_curve(evaluation.learning_curve, folder / "learning_curve.png", "What labels buy")
    draw_reliability(evaluation.calibration, folder / "reliability.png", "Calibration, out of fold")
    draw_risk_coverage(evaluation.selection, folder / "risk_coverage.png", "What can be accepted, out of fold")
    draw_coverage(evaluation.conformal, folder / "coverage.png", "Coverage, out of fold")
    draw_robustness_map(evaluation.robustness, folder / "robustness.png", title)
    draw_noise_curve(evaluation.robustness, folder / "noise.png", "Sensor noise")

"""The evaluation of a tuned model, step by step; every step takes what the one before gave."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metal_defects.artifacts import ANSWER, ANSWER_GRAPH
from metal_defects.config import ModelEvaluationParams
from metal_defects.data.snapshots import read_images
from metal_defects.evaluation.clock import Clock
from metal_defects.evaluation.comparison import answer_with_all
from metal_defects.evaluation.ensemble import EnsembleTrial, try_ensembles
from metal_defects.evaluation.judged import ChosenRules, Judged, choose_rules
from metal_defects.evaluation.learning_curve import CurvePoint, measure_learning_curve
from metal_defects.evaluation.results import Verdicts
from metal_defects.evaluation.robustness import Robustness, measure_robustness
from metal_defects.evaluation.significance import ComparedModel, compare_models
from metal_defects.evaluation.tuned_run import (
    TunedRun,
    measure_moments,
    read_recipe,
)
from metal_defects.evaluation.verdicts import count_verdicts, give_verdicts
from metal_defects.inference.runtime import open_graph
from metal_defects.log import logger
from metal_defects.models.feature_maps import extract_maps
from metal_defects.models.fine_tuning import EVIDENCE
from metal_defects.models.onnx_export import export_float32, keep_outputs
from metal_defects.models.results import ModelList
from metal_defects.trust.answer import AnswerParts, answer_in_batches, build_answer_model
from metal_defects.trust.calibration import Scaling
from metal_defects.trust.evidence_map import fit_evidence_map
from metal_defects.trust.guard import Guard, GuardFindings, choose_guard_taps, fit_guard
from metal_defects.trust.locator import FEWEST_BOXED, Locator, fit_locator
from metal_defects.trust.locator_findings import judge_locator
from metal_defects.trust.locator_maps import choose_learned, choose_taps
from metal_defects.trust.locator_scores import LocatorFindings, draw_grad_cam


@dataclass(frozen=True)
class Fitted:
    """What is added to the classifier, and the rules of the verdicts.

    Attributes:
        scaling: of the logits, for the mix that is served.
        chosen: rules of the verdicts, and what they rest on.
        known_boxes: of the images that the locator learned from.
        grad_cam: Grad-CAM of these, then of the held-out ones, (images, side, side).
    """

    scaling: Scaling
    guard: Guard
    locator: Locator
    chosen: ChosenRules
    known_boxes: list[np.ndarray]
    grad_cam: np.ndarray

    @property
    def parts(self) -> AnswerParts:
        """For the graph."""
        return AnswerParts(self.scaling, self.guard, self.locator)


@dataclass(frozen=True)
class HeldOut:
    """What the whole answer is worth on images that nothing was fitted to.

    Attributes:
        heat_maps: (images, rows, columns).
        distances: of the guard, (images,).
    """

    heat_maps: np.ndarray
    distances: np.ndarray
    guard: GuardFindings
    locator: LocatorFindings | None
    verdicts: Verdicts
    robustness: Robustness


@dataclass(frozen=True)
class Outlook:
    """What feature banks tell besides; None without a bank, the last two also with one base model alone."""

    learning_curve: tuple[CurvePoint, ...] | None = None
    comparison: tuple[ComparedModel, ...] | None = None
    ensemble: EnsembleTrial | None = None


def fit_parts(run: TunedRun, judged: Judged, params: ModelEvaluationParams, clock: Clock) -> Fitted:
    """Guard, locator, and the rules of the verdicts."""
    with clock.time("guard"):
        taps = choose_guard_taps(tuple(run.opened.maps))
        channels = {tap: run.opened.maps[tap].shape[-1] for tap in taps}
        moments = measure_moments(run, taps)
        train, seed = run.train, run.training.seed
        guard = fit_guard(moments, train.labels, train.groups, params.guard_acceptance, seed, channels)
    with clock.time("locator"):
        locator, known_boxes, grad_cam = _fit_locator(run)
    review = float(np.quantile(guard.seen, params.review_acceptance)) if len(guard.seen) else None
    # A network trained from scratch answers other images than those whose distances are known.
    distances = guard.out_of_fold if run.judged is run.train else None
    chosen = choose_rules(judged, distances, review, run.classes, params)
    return Fitted(
        scaling=judged.calibration.scaling.shift(judged.priors.log_ratio),
        guard=guard,
        locator=locator,
        chosen=chosen,
        known_boxes=known_boxes,
        grad_cam=grad_cam,
    )


def _fit_locator(run: TunedRun) -> tuple[Locator, list[np.ndarray], np.ndarray]:
    """A locator, the boxes of the images that taught it, and Grad-CAM of these and of the held-out ones."""
    train, maps, side = run.train, run.opened.maps, run.training.image_size
    rows = choose_learned(train.boxes, maps, side, len(run.pixels))
    if len(rows) < len(train.labels):
        logger.info("   the locator learns from %d of %d training images", len(rows), len(train.labels))
    images = np.concatenate([read_images(run.training.snapshots, "train")[rows], run.pixels])
    taps = choose_taps({name: one.shape[1] for name, one in maps.items()}, side)
    wanted = {tap: maps[tap] for tap in taps} | ({} if run.opened.evidence is None else {EVIDENCE: run.opened.evidence})
    features = extract_maps(run.opened.pixels, wanted, images, run.scratch / "maps")
    evidence = features.pop(EVIDENCE, None)
    learned = {tap: values[: len(rows)] for tap, values in features.items()}
    labels, boxes = train.labels[rows], [train.boxes[row] for row in rows]
    deepest = list(features.values())[-1]
    grad_cam = draw_grad_cam(deepest[: len(rows)], labels, deepest)
    if evidence is not None and sum(len(each) > 0 for each in boxes) < FEWEST_BOXED:
        return fit_evidence_map(evidence[: len(rows)]), boxes, grad_cam
    return fit_locator(learned, labels, boxes, side, run.training.seed), boxes, grad_cam


def export_graph(run: TunedRun, fitted: Fitted, folder: Path, clock: Clock) -> Path:
    """Write answer.npz and answer.onnx, the graph of the whole answer; returns the latter.

    The graph is made of the parts as they are stored, which rounds them: what is judged is what others can read.
    """
    graph = folder / ANSWER_GRAPH.file
    with clock.time("graph"):
        fitted.parts.save(folder / ANSWER.file)
        parts = AnswerParts.load(folder / ANSWER.file)
        export_float32(build_answer_model(run.model, parts), parts.outputs, graph)
    return graph


def judge_held_out(
    run: TunedRun, judged: Judged, fitted: Fitted, damaged_images: int, graph: Path, clock: Clock
) -> HeldOut:
    """Verdicts, locator scores and robustness of the very graph that is exported.

    Args:
        run: the tuned model.
        judged, fitted: of the steps before.
        damaged_images: per kind and severity of damage.
        graph: of `export_graph`.
        clock: notes the times.
    """
    guard, rules, held_out = fitted.guard, fitted.chosen.rules, run.held_out
    alone = run.scratch / "verdict.onnx"
    with clock.time("answers"):
        # Verdicts need no heat map, and damaged images are many.
        keep_outputs(graph, ("probabilities", "distance"), alone)
        answers = answer_in_batches(open_graph(graph, 1), run.pixels)
    probabilities, distances = answers["probabilities"], answers["distance"]
    verdicts = give_verdicts(probabilities, distances, run.classes, rules)
    wrong, valid = probabilities.argmax(axis=1) != held_out.labels, len(run.valid.labels)
    with clock.time("locator_scores"):
        located = judge_locator(
            fitted.locator, answers["heat_map"], fitted.grad_cam, fitted.known_boxes, held_out.boxes
        )
    infer = open_graph(alone, 1)

    def classify(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = infer(batch)
        return outputs["probabilities"], outputs["distance"]

    with clock.time("robustness"):
        robustness = measure_robustness(
            classify,
            run.pixels,
            held_out.labels,
            lambda shares, distance: give_verdicts(shares, distance, run.classes, rules) == "accept",
            images_per_cell=damaged_images,
            seed=run.training.seed,
        )
    return HeldOut(
        heat_maps=answers["heat_map"],
        distances=distances,
        guard=guard.judge(run.train.groups, distances, held_out.groups),
        locator=located,
        verdicts=Verdicts(
            rules=rules,
            out_of_fold=fitted.chosen.out_of_fold,
            valid=count_verdicts(verdicts[:valid], wrong[:valid]),
            test=count_verdicts(verdicts[valid:], wrong[valid:]),
        ),
        robustness=robustness,
    )


def look_further(run: TunedRun, models: ModelList, folds: int, clock: Clock) -> Outlook:
    """Learning curve, comparison and ensemble of the base models: from the feature banks, where there are any."""
    if run.trainer is None:
        return Outlook()
    train = run.train
    with clock.time("learning_curve"):
        features = run.trainer.examples(read_recipe(run)).features
        curve = measure_learning_curve(features, train.labels, train.groups, seed=run.training.seed)
    frozen = [entry for entry in models.models if entry.is_frozen]
    if len(frozen) == 1:
        return Outlook(curve)
    with clock.time("comparison"):
        answers, costs = answer_with_all(frozen, run.training, train, folds)
        comparison = compare_models(train.labels, answers)
        ensemble = try_ensembles(train.labels, answers, costs)
    return Outlook(curve, comparison, ensemble)

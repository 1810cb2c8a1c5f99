"""Stage 08: how far the tuned model's answers can be trusted, and what makes them trustworthy when it is served."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from metal_defects.evaluation.cross_validation import compare_models, fit_convex_head, out_of_fold
from metal_defects.evaluation.ensemble import try_ensembles
from metal_defects.evaluation.findings import describe_folds, describe_guard, score_locator
from metal_defects.evaluation.learning_curve import measure_learning_curve
from metal_defects.evaluation.robustness import measure_robustness
from metal_defects.evaluation.tuned_run import HELD_OUT, Subject
from metal_defects.files import write_json
from metal_defects.inference.predictor import Infer, open_graph
from metal_defects.inference.verdict import decide
from metal_defects.log import logger
from metal_defects.models.onnx_export import export_float32
from metal_defects.models.trainers import FrozenTrainer, make_trainer
from metal_defects.pipeline.runner import StageContext
from metal_defects.plots.locator import show_locations
from metal_defects.plots.robustness import learning_curve_plot, noise_curve, robustness_map
from metal_defects.plots.trust import coverage_bars, guard_distances, reliability_diagram, verdict_bars
from metal_defects.report.document import write_report
from metal_defects.trust.answer import AnswerParts, build_answer_model
from metal_defects.trust.calibration import calibration_report, cross_fit, fit_temperature
from metal_defects.trust.conformal import coverage_report
from metal_defects.trust.guard import Guard, choose_guard_taps, fit_guard
from metal_defects.trust.locator import Locator, fit_locator
from metal_defects.trust.locator_maps import count_affordable, extract_maps
from metal_defects.trust.locator_scores import draw_grad_cam

VERDICTS = ("accept", "review", "unknown")
EXAMPLES = 12
BATCH = 8


def run(ctx: StageContext) -> None:
    """Write answer.npz, decision.json, evaluation.json, plots, report.html and model_card.md."""
    evaluation = _Evaluation(ctx)
    evaluation.judge_out_of_fold()
    evaluation.fit_parts()
    evaluation.judge_held_out()
    evaluation.look_further()
    evaluation.write()


class _Evaluation:
    """The parts of the evaluation, in their order; each adds to `result`."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.params = ctx.settings.params.model_evaluation
        self.subject = Subject(ctx)
        self.train, self.held_out = self.subject.read("train"), self.subject.read(*HELD_OUT)
        self.title = f"tuned {self.subject.metrics['title']} ({self.subject.metrics['weights']})"
        self.plots = ctx.out / "plots"
        self.plots.mkdir(parents=True)
        self.result: dict[str, Any] = {
            "data": ctx.data_source(),
            "model": {key: self.subject.metrics[key] for key in ("name", "title", "weights")},
            "classes": self.subject.classes,
            "seconds": {},
        }

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.result["seconds"][part] = round(time.monotonic() - start, 1)
        logger.info("   %s: %.0f s", part.replace("_", " "), self.result["seconds"][part])

    def judge_out_of_fold(self) -> None:
        """Cross-validation, calibration and conformal sets."""
        subject, seed = self.subject, self.ctx.settings.params.seed
        with self._timed("cross_validation"):
            found = subject.answer_out_of_fold(self.train)
        judged = self.train if subject.has_bank else subject.read("valid")
        note = None
        if not subject.has_bank:
            note = (
                f"{subject.metrics['title']} is trained as a whole, so cross-validating it would cost as many "
                f"trainings as folds: calibration and possible classes rest on {len(judged.labels)} validation images."
            )
            logger.warning("   %s", note)
        self.result["protocol"] = {
            "images": len(judged.labels),
            "folds": len(np.unique(found.folds)),
            "repeats": len(found.logits),
            "note": note,
        }
        self.result["cross_validation"] = describe_folds(subject, judged, found)
        logits, folds = found.logits.mean(axis=0), found.folds[0]
        self.temperature = fit_temperature(logits, found.labels)
        self.result["calibration"] = calibration_report(logits, found.labels, self.temperature, folds, seed)
        self.probabilities = cross_fit(logits, found.labels, folds)
        self.result["conformal"] = coverage_report(
            self.probabilities, found.labels, folds, self.params.coverage, subject.classes
        )

    def fit_parts(self) -> None:
        """Guard, locator, and the rules of the verdicts."""
        with self._timed("guard"):
            guard = self._fit_guard()
        with self._timed("locator"):
            locator = self._fit_locator()
        seen = guard.out_of_fold[np.isfinite(guard.out_of_fold)]
        self.rules = {
            "unknown_distance": 1.0,
            "review_distance": float(np.quantile(seen, self.params.review_acceptance)) if len(seen) else None,
            "min_confidence": self.params.min_confidence,
            "set_threshold": self.result["conformal"]["threshold"],
        }
        self.parts = AnswerParts(self.temperature, guard, locator)
        self.parts.save(self.ctx.out)

    def _fit_guard(self) -> Guard:
        subject = self.subject
        taps = choose_guard_taps(tuple(subject.opened.maps))
        channels = {tap: subject.opened.maps[tap].shape[-1] for tap in taps}
        return fit_guard(
            subject.moments(taps), self.train.labels, self.train.groups, self.params.guard_acceptance,
            self.ctx.settings.params.seed, channels,
        )  # fmt: skip

    def _fit_locator(self) -> Locator:
        """A locator, taught by as many training images as there is room for; Grad-CAM of the same ones besides."""
        subject, train, side = self.subject, self.train, self.subject.card["image_size"]
        held_out = len(self.held_out.labels)
        room = max(count_affordable(subject.opened.maps, side) - held_out, 1)
        rows = np.linspace(0, len(train.labels) - 1, min(room, len(train.labels))).round().astype(int)
        if len(rows) < len(train.labels):
            logger.info("   the locator learns from %d of %d training images", len(rows), len(train.labels))
        images = [*subject.images("train")[rows], *subject.images(*HELD_OUT)]
        maps = extract_maps(subject.opened.pixels, subject.opened.maps, images, len(images), self.ctx.resume / "maps")
        training = {tap: values[: len(rows)] for tap, values in maps.items()}
        labels = train.labels[rows]
        self.known_boxes = [train.boxes[row] for row in rows]
        deepest = list(maps.values())[-1]
        self.grad_cam = draw_grad_cam(deepest[: len(rows)], labels, deepest)
        return fit_locator(training, labels, self.known_boxes, side, self.ctx.settings.params.seed)

    def judge_held_out(self) -> None:
        """Verdicts, locator scores and robustness of the very graph that is exported."""
        infer = self._open_answer()
        images, truth = self.subject.images(*HELD_OUT), self.held_out.labels
        answers = _answer(infer, images)
        with self._timed("locator_scores"):
            self.result["locator"] = score_locator(
                answers["heat_map"], self.grad_cam, self.known_boxes, self.held_out.boxes, self.parts.locator
            )
        guard = self.parts.guard
        self.result["guard"] = describe_guard(guard, answers["distance"])
        verdicts: dict[str, Any] = {"rules": self.rules}
        if self.subject.has_bank:
            known = np.isfinite(guard.out_of_fold)
            verdicts["out_of_fold"] = self._count_verdicts(
                self.probabilities[known], guard.out_of_fold[known], self.train.labels[known]
            )
        counts = [len(self.subject.read(name).labels) for name in HELD_OUT]
        for name, rows in zip(HELD_OUT, np.split(np.arange(sum(counts)), counts[:1]), strict=True):
            verdicts[name] = self._count_verdicts(
                answers["probabilities"][rows], answers["distance"][rows], truth[rows]
            )
        self.result["verdicts"] = verdicts
        self._draw_held_out(images, answers)
        with self._timed("robustness"):
            self.result["robustness"] = measure_robustness(
                lambda batch: _split_outputs(infer(batch)),
                images,
                truth,
                self._accepts,
                images_per_cell=self.params.robustness_images,
                seed=self.ctx.settings.params.seed,
            )

    def _draw_held_out(self, images: np.ndarray, answers: dict[str, np.ndarray]) -> None:
        """The guard's distances, the verdicts, and where the defect is in images spread over the classes."""
        sets = {"training, out of fold": self.parts.guard.out_of_fold, "held out": answers["distance"]}
        sets = {name: values for name, values in sets.items() if np.isfinite(values).any()}
        guard_distances(sets, self.plots / "guard.png", "Distance from the training images")
        counts = {
            name.replace("_", " "): {verdict: (row[verdict], row["errors"][verdict]) for verdict in VERDICTS}
            for name, row in self.result["verdicts"].items()
            if name != "rules"
        }
        verdict_bars(counts, self.plots / "verdicts.png", "Verdicts")
        chosen = np.linspace(0, len(images) - 1, min(EXAMPLES, len(images))).round().astype(int)
        show_locations(
            images[chosen],
            answers["heat_map"][chosen],
            [self.held_out.boxes[index] for index in chosen],
            [self.subject.classes[self.held_out.labels[index]] for index in chosen],
            self.parts.locator.box_threshold,
            self.plots / "locator_examples.png",
            "Held-out images: true boxes, and heat map with the boxes found",
        )

    def _open_answer(self) -> Infer:
        """The graph of the whole answer in ONNX Runtime, one thread per call."""
        path = self.ctx.resume / "answer.onnx"
        export_float32(build_answer_model(self.subject.model, self.parts), self.parts.outputs, path)
        return open_graph(path, 1)

    def _accepts(self, probabilities: np.ndarray, distance: np.ndarray | None) -> np.ndarray:
        return np.array([one == "accept" for one in self._verdicts(probabilities, distance)])

    def _verdicts(self, probabilities: np.ndarray, distances: np.ndarray | None) -> list[str]:
        rows = [None] * len(probabilities) if distances is None else distances
        pairs = zip(probabilities, rows, strict=True)
        return [decide(shares, distance, self.subject.classes, self.rules).verdict for shares, distance in pairs]

    def _count_verdicts(self, probabilities: np.ndarray, distances: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        verdicts = np.array(self._verdicts(probabilities, distances))
        wrong = probabilities.argmax(axis=1) != labels
        counts = {name: int((verdicts == name).sum()) for name in VERDICTS}
        errors = {name: int((wrong & (verdicts == name)).sum()) for name in VERDICTS}
        return {
            **counts, "images": len(labels), "errors": errors, "errors_among_accepted": errors["accept"],
        }  # fmt: skip

    def look_further(self) -> None:
        """Learning curve, comparison and ensemble of the base models: from the feature banks, where there are any."""
        self.result |= {"learning_curve": None, "comparison": None, "ensemble": None}
        if not self.subject.has_bank:
            return
        bank, seed = self.subject.trainer.bank, self.ctx.settings.params.seed
        with self._timed("learning_curve"):
            features = bank.features["train"][:, :, self.subject.columns()]
            self.result["learning_curve"] = measure_learning_curve(
                features, self.train.labels, self.train.groups, seed=seed
            )
        if sum(entry["kind"] == "frozen" for entry in self.subject.entries.values()) > 1:
            with self._timed("comparison"):
                answers, costs = self._answer_with_all()
            self.result["comparison"] = compare_models(self.train.labels, answers)
            self.result["ensemble"] = try_ensembles(self.train.labels, answers, costs)

    def _answer_with_all(self) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float | None]]]:
        """Out-of-fold probabilities of every base model with a bank, and what an image costs.

        All get the same convex head: what is compared are the backbones.
        """
        answers, costs = {}, {}
        for name, entry in self.subject.entries.items():
            if entry["kind"] != "frozen":
                continue
            trainer = make_trainer(self.ctx, entry)
            assert isinstance(trainer, FrozenTrainer)
            columns = trainer.bank.columns(trainer.backbone.default_taps)
            found = out_of_fold(
                trainer.bank.features["train"][:, :, columns], self.train.labels, self.train.groups,
                fit_convex_head(), self.params.folds, 1, self.ctx.settings.params.seed,
            )  # fmt: skip
            answers[name] = found.probabilities[0]
            costs[name] = {
                "gmacs": trainer.backbone.gmacs,
                "milliseconds": trainer.bank.meta["milliseconds_per_image"],
            }
        return answers, costs

    def write(self) -> None:
        """decision.json, evaluation.json, the plots and the report."""
        locator = self.parts.locator
        decision = {
            "temperature": self.temperature,
            "verdict_rules": self.rules,
            "locator": {name: getattr(locator, name) for name in ("kind", "threshold", "box_threshold")},
            "guard": {"taps": list(self.parts.guard.taps), "acceptance": self.parts.guard.acceptance},
        }
        write_json(self.ctx.out / "decision.json", decision)
        if self.result["learning_curve"]:
            learning_curve_plot(self.result["learning_curve"], self.plots / "learning_curve.png", "What labels buy")
        reliability_diagram(self.result["calibration"], self.plots / "reliability.png", "Calibration, out of fold")
        coverage_bars(self.result["conformal"], self.plots / "coverage.png", "Coverage, out of fold")
        robustness_map(self.result["robustness"], self.plots / "robustness.png", self.title)
        noise_curve(self.result["robustness"], self.plots / "noise.png", "Sensor noise")
        write_json(self.ctx.out / "evaluation.json", self.result)
        write_report(self.ctx.artifacts, self.ctx.out, self.result, self.ctx.settings)
        ece = self.result["calibration"]["after"]["ece"]["value"]
        logger.info("   calibration error %.2f points; all of it in report.html", 100 * ece)


def _answer(infer: Infer, images: np.ndarray) -> dict[str, np.ndarray]:
    parts = [infer(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _split_outputs(outputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    return outputs["probabilities"], outputs.get("distance")

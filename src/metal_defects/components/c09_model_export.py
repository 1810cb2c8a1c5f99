"""Stage 09: the bundle that serving needs, and proof that it answers as the Keras model does."""

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from metal_defects import __version__
from metal_defects import artifacts as a
from metal_defects.data.snapshots import load_labels, load_snapshot
from metal_defects.evaluation.results import Decision, Evaluation
from metal_defects.files import sha256_file
from metal_defects.inference.bundle import CARD, FORMAT
from metal_defects.inference.card import (
    BundleCard,
    GuardShare,
    InputCard,
    Measured,
    Parity,
    Provenance,
    TrustCard,
    Variant,
    VerdictRules,
    VerdictShares,
)
from metal_defects.inference.runtime import Infer, open_graph
from metal_defects.inference.verdict import decide
from metal_defects.log import logger
from metal_defects.metrics import Score, classification_metrics
from metal_defects.models.onnx_export import quantise
from metal_defects.models.results import TunedCard, TunedResult
from metal_defects.pipeline.context import StageContext
from metal_defects.pipeline.digest import library_versions
from metal_defects.plots.export import draw_variants
from metal_defects.records import write_record, write_table
from metal_defects.trust.answer import AnswerParts, answer_in_batches, build_answer_model, call_by_name

SPLITS = ("valid", "test")
FILES = {"float32": "model.onnx", "int8": "model.int8.onnx"}
# Largest difference of a probability from the Keras model's that counts as the same answer.
TOLERANCES = {"float32": 1e-4, "int8": 0.05}
# What int8 must gain to be served by default: below this, the noise of the clock would choose.
NEEDED_SPEEDUP = 1.25
WARM_UP, TIMED = 3, 30
Answers = Mapping[str, np.ndarray]


def run(ctx: StageContext) -> None:
    """Write bundle/ (the graphs and bundle.json), parity.csv and variants.png."""
    import keras

    params, card = ctx.setting("model_export"), ctx.read(a.TUNED_CARD, TunedCard)
    decision, evaluation = ctx.read(a.DECISION, Decision), ctx.read(a.EVALUATION, Evaluation)
    parts = AnswerParts.load(ctx.path(a.ANSWER))
    model = build_answer_model(keras.models.load_model(ctx.path(a.TUNED_H5), compile=False), parts)
    snapshots, folder = ctx.path(a.SNAPSHOTS_FOLDER), ctx.out / a.BUNDLE.file
    calibration = _calibration_images(snapshots, params.calibration_images) if params.int8 else None
    graphs = _write_graphs(ctx.path(a.ANSWER_GRAPH), folder, calibration)

    images = {split: _load_images(snapshots, split) for split in SPLITS}
    labels = {split: load_labels(snapshots, split) for split in SPLITS}
    everything = np.concatenate(list(images.values()))
    expected = answer_in_batches(call_by_name(model, parts.outputs), everything)
    usual = _time_one(lambda pixels: {"all": model.predict(pixels, verbose=0)}, everything)
    keras_row = _measure(ctx.path(a.TUNED_H5), usual, labels, expected["probabilities"], card.classes)
    variants: dict[str, Variant] = {}
    differences = {}
    for name, path in graphs.items():
        infer = open_graph(path)
        answers = answer_in_batches(infer, everything)
        measured = _measure(path, _time_one(infer, everything), labels, answers["probabilities"], card.classes)
        parity = check_parity(expected, answers, TOLERANCES[name], card.classes, decision.verdict_rules)
        speed = variants["float32"].milliseconds_per_image if variants else measured.milliseconds_per_image
        fault = find_fault(name, measured, parity, keras_row, speed)
        variants[name] = Variant(**dict(measured), parity=parity, fault=fault)
        differences[name] = abs(answers["probabilities"] - expected["probabilities"]).max(axis=1)
    if fault := variants["float32"].fault:
        raise RuntimeError(f"The exported graph does not answer as tuned_model.h5 does: {fault}.")
    default = "int8" if "int8" in variants and not variants["int8"].fault else "float32"
    _write_parity(ctx.out / a.PARITY.file, keras_row, variants, default)
    title = f"{card.model} ({card.weights})"
    draw_variants(keras_row, variants, differences, TOLERANCES, ctx.out / a.VARIANTS_PLOT.file, title)
    bundle_card = _make_card(ctx, card, variants, default, decision, evaluation)
    write_record(folder / CARD, bundle_card)
    _log_variants(keras_row, variants, default)


def _write_graphs(judged: Path, folder: Path, calibration: np.ndarray | None) -> dict[str, Path]:
    """The graphs by variant: the one that was judged, and int8 where there are images to calibrate it."""
    graphs = {"float32": folder / FILES["float32"]}
    folder.mkdir()
    shutil.copyfile(judged, graphs["float32"])
    if calibration is not None:
        graphs["int8"] = folder / FILES["int8"]
        quantise(graphs["float32"], graphs["int8"], calibration)
    return graphs


def check_parity(
    expected: Answers, answers: Answers, tolerance: float, classes: Sequence[str], rules: VerdictRules
) -> Parity:
    """Compare what a graph answers with what the Keras model does: labels, verdicts, and every output's values.

    Args:
        expected, answers: outputs by name, of the same images.
        tolerance: for probabilities and the heat map; for the distance, as a share of it.
        classes: names.
        rules: of the verdicts.
    """
    images = len(expected["probabilities"])
    equal = int((expected["probabilities"].argmax(axis=1) == answers["probabilities"].argmax(axis=1)).sum())
    verdicts = [_decide_all(outputs, classes, rules) for outputs in (expected, answers)]
    differences = {name: float(abs(expected[name] - answers[name]).max()) for name in expected}
    if "distance" in expected:
        differences["distance"] = float(abs(answers["distance"] / np.maximum(expected["distance"], 1e-6) - 1).max())
    return Parity(
        images=images,
        labels_equal=equal,
        verdicts_equal=sum(one == other for one, other in zip(*verdicts, strict=True)),
        max_difference=float(f"{differences['probabilities']:.3g}"),
        max_differences={name: float(f"{value:.3g}") for name, value in differences.items()},
        tolerance=tolerance,
        ok=equal == images and max(differences.values()) <= tolerance,
    )


def _decide_all(outputs: Answers, classes: Sequence[str], rules: VerdictRules) -> list[str]:
    distances = outputs.get("distance", [None] * len(outputs["probabilities"]))
    pairs = zip(outputs["probabilities"], distances, strict=True)
    return [decide(shares, distance, classes, rules).verdict for shares, distance in pairs]


def find_fault(
    name: str, measured: Measured, parity: Parity, usual: Measured, float32_milliseconds: float
) -> str | None:
    """Why a variant must not be the default; None where nothing speaks against it.

    Args:
        name: of the variant.
        measured: its accuracy and speed.
        parity: its answers beside the Keras model's.
        usual: accuracy of the Keras model.
        float32_milliseconds: per image, of the variant float32.
    """
    for split, wanted, found in (
        ("valid", usual.valid_accuracy, measured.valid_accuracy),
        ("test", usual.test_accuracy, measured.test_accuracy),
    ):
        if found.value < wanted.value:
            return f"loses {100 * (wanted.value - found.value):.2f} points of accuracy on {split}"
    if parity.labels_equal < parity.images:
        return f"{parity.images - parity.labels_equal} of {parity.images} labels differ"
    if not parity.ok:
        output, most = max(parity.max_differences.items(), key=lambda item: item[1])
        return f"{output} differs by up to {most}, more than {parity.tolerance}"
    if parity.verdicts_equal < parity.images:
        return f"{parity.images - parity.verdicts_equal} of {parity.images} verdicts differ"
    speedup = float32_milliseconds / measured.milliseconds_per_image
    if name != "float32" and speedup < NEEDED_SPEEDUP:
        return f"{speedup:.2f} times the speed of float32, less than {NEEDED_SPEEDUP}"
    return None


def _load_images(snapshots: Path, split: str) -> np.ndarray:
    return np.stack([image for image, _ in load_snapshot(snapshots, split).as_numpy_iterator()])


def _calibration_images(snapshots: Path, count: int) -> np.ndarray:
    """Training images spread evenly over the snapshot, and so over the classes."""
    dataset = load_snapshot(snapshots, "train")
    total = int(dataset.cardinality())
    chosen = set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())
    return np.stack([image for n, (image, _) in enumerate(dataset.as_numpy_iterator()) if n in chosen])


def _time_one(infer: Infer, images: np.ndarray) -> float:
    """Median milliseconds for one image, after a warm-up."""
    times = []
    for _ in range(WARM_UP + TIMED):
        start = time.perf_counter()
        infer(images[:1])
        times.append(time.perf_counter() - start)
    return round(1000 * statistics.median(times[WARM_UP:]), 2)


def _measure(
    path: Path, milliseconds: float, labels: Mapping[str, np.ndarray], answers: np.ndarray, classes: Sequence[str]
) -> Measured:
    """What is recorded of a model file: identity, size, accuracy with interval, latency.

    Args:
        path: of the file.
        milliseconds: per image.
        labels: of the splits, in the order of the answers.
        answers: probabilities of the images of all splits, one after the other.
        classes: names.
    """
    ends = np.cumsum([len(part) for part in labels.values()])[:-1]
    scores = {}
    for (split, truth), part in zip(labels.items(), np.split(answers, ends), strict=True):
        metrics = classification_metrics(truth, part, classes)
        scores[split] = metrics.accuracy.model_copy(update={"n": metrics.n})
    return Measured(
        file=path.name,
        sha256=sha256_file(path),
        bytes=path.stat().st_size,
        valid_accuracy=scores["valid"],
        test_accuracy=scores["test"],
        milliseconds_per_image=milliseconds,
    )


def _make_card(
    ctx: StageContext,
    card: TunedCard,
    variants: dict[str, Variant],
    default: str,
    decision: Decision,
    evaluation: Evaluation,
) -> BundleCard:
    metrics = ctx.read(a.TUNED_METRICS, TunedResult)
    return BundleCard(
        format=FORMAT,
        name=card.model,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=__version__,
        classes=card.classes,
        input=InputCard(image_size=card.image_size, resize=card.resize, limits=card.limits, fit=card.fit),
        default=default,
        variants=variants,
        verdict_rules=decision.verdict_rules,
        locator=decision.locator,
        evaluation=_summarise(evaluation),
        data=card.data,
        provenance=Provenance(
            model=card.model,
            weights=card.weights,
            hyperparameters=card.hyperparameters,
            keras_sha256=card.sha256,
            manifest_sha256=sha256_file(ctx.path(a.MANIFEST)),
            versions=library_versions()
            | {name: version(name) for name in ("onnx", "onnxruntime", "tf2onnx", "pillow")},
        ),
        metrics={"valid": metrics.valid, "test": metrics.test},
        priors=evaluation.priors.served,
    )


def _summarise(evaluation: Evaluation) -> TrustCard:
    """The figures of stage 08 that everyone who serves the bundle should know."""
    counts = evaluation.verdicts.out_of_fold or evaluation.verdicts.test
    ece, served = evaluation.calibration.after.ece, evaluation.conformal.served
    return TrustCard(
        images=evaluation.protocol.images,
        folds=evaluation.protocol.folds,
        ece=Score(value=ece.value, low=ece.low, high=ece.high),
        coverage=served.covered,
        mean_set_size=served.mean_size,
        guard=GuardShare(accepted=evaluation.guard.accepted_held_out.value),
        verdicts=VerdictShares(
            accept=counts.accept / counts.images,
            review=counts.review / counts.images,
            unknown=counts.unknown / counts.images,
            error_among_accepted=counts.wrong_accept / max(counts.accept, 1),
        ),
    )


def _write_parity(target: Path, usual: Measured, variants: Mapping[str, Variant], default: str) -> None:
    scores = [f"{split}_{part}" for split in SPLITS for part in ("accuracy", "low_95", "high_95")]
    compared = ("images", "labels_equal", "verdicts_equal", "max_difference", "tolerance", "ok")
    columns = ("variant", "bytes", "milliseconds_per_image", *scores, *compared, "is_default", "fault")
    lines = []
    for name, row in {"keras": usual, **variants}.items():
        accuracies = (row.valid_accuracy, row.test_accuracy)
        values = [f"{value:.6f}" for score in accuracies for value in (score.value, score.low, score.high)]
        parity = row.parity if isinstance(row, Variant) else None
        cells = [getattr(parity, column) if parity else "" for column in compared]
        fault = (row.fault if isinstance(row, Variant) else None) or ""
        lines.append((name, row.bytes, row.milliseconds_per_image, *values, *cells, name == default, fault))
    write_table(target, columns, lines)


def _log_variants(usual: Measured, variants: Mapping[str, Variant], default: str) -> None:
    for name, row in variants.items():
        note = f"not the default: {row.fault}" if row.fault else "default" if name == default else ""
        logger.info(
            "   %s: %.1f MB, %.1f ms per image (Keras %.1f), differs by %.0e at most. %s",
            name,
            row.bytes / 1e6,
            row.milliseconds_per_image,
            usual.milliseconds_per_image,
            row.parity.max_difference,
            note,
        )

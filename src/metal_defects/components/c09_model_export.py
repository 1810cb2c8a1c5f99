"""Stage 09: the bundle that serving needs, and proof that it answers as the Keras model does."""

import csv
import statistics
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metal_defects import __version__
from metal_defects.data.snapshots import load_labels, load_snapshot
from metal_defects.files import atomic_path, read_json, sha256_file, write_json
from metal_defects.inference.bundle import CARD, FORMAT
from metal_defects.inference.predictor import Infer, open_graph
from metal_defects.inference.verdict import decide
from metal_defects.log import logger
from metal_defects.metrics import classification_metrics
from metal_defects.models.onnx_export import export_float32, quantise
from metal_defects.pipeline.digest import library_versions
from metal_defects.pipeline.runner import StageContext
from metal_defects.plots.export import compare_variants
from metal_defects.trust.answer import call_by_name, load_answer_model

if TYPE_CHECKING:
    import keras

SPLITS = ("valid", "test")
FILES = {"float32": "model.onnx", "int8": "model.int8.onnx"}
# Largest difference of a probability from the Keras model's that counts as the same answer.
TOLERANCES = {"float32": 1e-4, "int8": 0.05}
# What int8 must gain to be served by default: below this, the noise of the clock would choose.
NEEDED_SPEEDUP = 1.25
BATCH = 16
WARM_UP, TIMED = 3, 30
Data = dict[str, tuple[np.ndarray, np.ndarray]]
Answers = dict[str, np.ndarray]


def run(ctx: StageContext) -> None:
    """Write bundle/ (the graphs and bundle.json), parity.csv and variants.png."""
    tuned, snapshots = ctx.artifacts / "07_hyperparameter_tuning", ctx.artifacts / "03_dataset_loader"
    params, card = ctx.settings.params.model_export, read_json(tuned / "tuned_model.json")
    model, names = load_answer_model(ctx.artifacts)
    folder = ctx.out / "bundle"
    graphs = {"float32": folder / FILES["float32"]}
    export_float32(model, names, graphs["float32"])
    if params.int8:
        graphs["int8"] = folder / FILES["int8"]
        quantise(graphs["float32"], graphs["int8"], _calibration_images(snapshots, params.calibration_images))

    decision = read_json(ctx.artifacts / "08_model_evaluation" / "decision.json")
    rules = decision["verdict_rules"]
    data = {split: (_load_images(snapshots, split), load_labels(snapshots, split)) for split in SPLITS}
    expected = _answer(call_by_name(model, names), data)
    usual = _time_one(_wrap_predict(model), data)
    rows = {"keras": _describe(tuned / "tuned_model.h5", usual, data, expected["probabilities"], card)}
    differences = {}
    for name, path in graphs.items():
        infer = open_graph(path)
        answers = _answer(infer, data)
        parity = check_parity(expected, answers, TOLERANCES[name], card["classes"], rules)
        rows[name] = _describe(path, _time_one(infer, data), data, answers["probabilities"], card) | {"parity": parity}
        rows[name]["fault"] = find_fault(name, rows)
        differences[name] = abs(answers["probabilities"] - expected["probabilities"]).max(axis=1)
    if rows["float32"]["fault"]:
        raise RuntimeError(f"The exported graph does not answer as tuned_model.h5 does: {rows['float32']['fault']}.")
    default = "int8" if "int8" in rows and not rows["int8"]["fault"] else "float32"
    _write_parity(ctx.out / "parity.csv", rows, default)
    compare_variants(rows, differences, TOLERANCES, ctx.out / "variants.png", f"{card['model']} ({card['weights']})")
    variants = {name: rows[name] for name in graphs}
    write_json(folder / CARD, _make_card(ctx, card, variants, default, decision))
    for name, row in variants.items():
        note = f"not the default: {row['fault']}" if row["fault"] else "default" if name == default else ""
        logger.info(
            "   %s: %.1f MB, %.1f ms per image (Keras %.1f), differs by %.0e at most. %s",
            name, row["bytes"] / 1e6, row["milliseconds_per_image"], rows["keras"]["milliseconds_per_image"],
            row["parity"]["max_difference"], note,
        )  # fmt: skip


def check_parity(
    expected: Answers, answers: Answers, tolerance: float, classes: list[str], rules: dict[str, Any]
) -> dict[str, Any]:
    """Compare what a graph answers with what the Keras model does: labels, verdicts, and every output's values.

    Args:
        expected, answers: outputs by name, of the same images.
        tolerance: for probabilities and the heat map; for the distance, as a share of it.
        classes: names.
        rules: of the verdicts.
    """
    equal = int((expected["probabilities"].argmax(axis=1) == answers["probabilities"].argmax(axis=1)).sum())
    verdicts = [_decide_all(outputs, classes, rules) for outputs in (expected, answers)]
    differences = {name: float(abs(expected[name] - answers[name]).max()) for name in expected}
    if "distance" in expected:
        differences["distance"] = float(abs(answers["distance"] / np.maximum(expected["distance"], 1e-6) - 1).max())
    return {
        "images": len(expected["probabilities"]),
        "labels_equal": equal,
        "verdicts_equal": sum(one == other for one, other in zip(*verdicts, strict=True)),
        "max_difference": float(f"{differences['probabilities']:.3g}"),
        "max_differences": {name: float(f"{value:.3g}") for name, value in differences.items()},
        "tolerance": tolerance,
        "ok": equal == len(expected["probabilities"]) and max(differences.values()) <= tolerance,
    }


def _decide_all(outputs: Answers, classes: list[str], rules: dict[str, Any]) -> list[str]:
    distances = outputs.get("distance", [None] * len(outputs["probabilities"]))
    pairs = zip(outputs["probabilities"], distances, strict=True)
    return [decide(shares, distance, classes, rules).verdict for shares, distance in pairs]


def find_fault(name: str, rows: dict[str, dict[str, Any]]) -> str | None:
    """Why a variant must not be the default; None where nothing speaks against it.

    Args:
        name: of the variant.
        rows: of it, of "float32" and of "keras".
    """
    row, parity = rows[name], rows[name]["parity"]
    for split in SPLITS:
        lost = rows["keras"][f"{split}_accuracy"]["value"] - row[f"{split}_accuracy"]["value"]
        if lost > 0:
            return f"loses {100 * lost:.2f} points of accuracy on {split}"
    if parity["labels_equal"] < parity["images"]:
        return f"{parity['images'] - parity['labels_equal']} of {parity['images']} labels differ"
    if not parity["ok"]:
        name, most = max(parity["max_differences"].items(), key=lambda item: item[1])
        return f"{name} differs by up to {most}, more than {parity['tolerance']}"
    if parity["verdicts_equal"] < parity["images"]:
        return f"{parity['images'] - parity['verdicts_equal']} of {parity['images']} verdicts differ"
    speedup = rows["float32"]["milliseconds_per_image"] / row["milliseconds_per_image"]
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


def _wrap_predict(model: "keras.Model") -> Infer:
    """The usual way of asking a Keras model, to compare latencies with."""
    return lambda pixels: {"all": model.predict(pixels, verbose=0)}


def _answer(infer: Infer, data: Data) -> Answers:
    """Outputs by name of all splits, one after the other."""
    images = np.concatenate([images for images, _ in data.values()])
    parts = [infer(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _time_one(infer: Infer, data: Data) -> float:
    """Median milliseconds for one image, after a warm-up."""
    image, times = data["valid"][0][:1], []
    for _ in range(WARM_UP + TIMED):
        start = time.perf_counter()
        infer(image)
        times.append(time.perf_counter() - start)
    return round(1000 * statistics.median(times[WARM_UP:]), 2)


def _describe(path: Path, milliseconds: float, data: Data, answers: np.ndarray, card: dict[str, Any]) -> dict[str, Any]:
    """What is recorded of a model file: identity, size, accuracy with interval, latency."""
    row: dict[str, Any] = {"file": path.name, "sha256": sha256_file(path), "bytes": path.stat().st_size}
    start = 0
    for split, (_, labels) in data.items():
        metrics = classification_metrics(labels, answers[start : start + len(labels)], card["classes"])
        row[f"{split}_accuracy"] = {**metrics["accuracy"], "n": metrics["n"]}
        start += len(labels)
    return row | {"milliseconds_per_image": milliseconds}


def _make_card(
    ctx: StageContext,
    card: dict[str, Any],
    variants: dict[str, dict[str, Any]],
    default: str,
    decision: dict[str, Any],
) -> dict[str, Any]:
    metrics = read_json(ctx.artifacts / "07_hyperparameter_tuning" / "metrics.json")
    versions = library_versions() | {name: version(name) for name in ("onnx", "onnxruntime", "tf2onnx", "pillow")}
    return {
        "format": FORMAT,
        "name": card["model"],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": __version__,
        "classes": card["classes"],
        "input": {key: card[key] for key in ("image_size", "resize", "limits")},
        "default": default,
        "variants": variants,
        "verdict_rules": decision["verdict_rules"],
        "locator": decision["locator"],
        "evaluation": _summarise(read_json(ctx.artifacts / "08_model_evaluation" / "evaluation.json")),
        "data": card["data"],
        "provenance": {
            **{key: card[key] for key in ("model", "weights", "hyperparameters")},
            "keras_sha256": card["sha256"],
            "manifest_sha256": sha256_file(ctx.artifacts / "01_data_ingestion" / "manifest.csv"),
            "versions": versions,
        },
        "metrics": {split: metrics[split] for split in SPLITS},
    }


def _summarise(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures of stage 08 that everyone who serves the bundle should know."""
    counts = evaluation["verdicts"].get("out_of_fold") or evaluation["verdicts"]["test"]
    images, accepted = counts["images"], max(counts["accept"], 1)
    served = evaluation["conformal"]["served"]
    return {
        "images": evaluation["protocol"]["images"],
        "folds": evaluation["protocol"]["folds"],
        "ece": {key: evaluation["calibration"]["after"]["ece"][key] for key in ("value", "low", "high")},
        "coverage": served["covered"],
        "mean_set_size": served["mean_size"],
        "guard": {"accepted": evaluation["guard"]["accepted_held_out"]},
        "verdicts": {
            **{name: counts[name] / images for name in ("accept", "review", "unknown")},
            "error_among_accepted": counts["errors_among_accepted"] / accepted,
        },
    }


def _write_parity(target: Path, rows: dict[str, dict[str, Any]], default: str) -> None:
    with atomic_path(target) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        scores = [f"{split}_{part}" for split in SPLITS for part in ("accuracy", "low_95", "high_95")]
        parity_columns = ("images", "labels_equal", "verdicts_equal", "max_difference", "tolerance", "ok")
        writer.writerow(
            ("variant", "bytes", "milliseconds_per_image", *scores, *parity_columns, "is_default", "fault")
        )
        for name, row in rows.items():
            values = [row[f"{split}_accuracy"][key] for split in SPLITS for key in ("value", "low", "high")]
            parity = [row.get("parity", {}).get(column, "") for column in parity_columns]
            writer.writerow(
                (name, row["bytes"], row["milliseconds_per_image"], *(f"{value:.6f}" for value in values), *parity,
                 name == default, row.get("fault") or "")
            )  # fmt: skip

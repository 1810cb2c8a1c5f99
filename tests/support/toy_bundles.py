"""A tiny bundle that any test can serve: it names the colour that an image has most of."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metal_defects.metrics import SplitMetrics

COLOURS = ("Red", "Green", "Blue")
SIDE = 64
CELLS = 8
LOCATED = {"kind": "boxes", "threshold": 0.5, "box_threshold": 0.5}
LIMITS = {"formats": ["BMP", "JPEG", "PNG", "TIFF"], "min_side": 16, "max_side": 512, "max_bytes": 1_000_000}
CERTAIN = {"value": 1.0, "low": 0.9, "high": 1.0, "n": 36}
PARITY = {
    "images": 72,
    "labels_equal": 72,
    "verdicts_equal": 72,
    "max_difference": 1e-6,
    "max_differences": {"probabilities": 1e-6},
    "tolerance": 1e-4,
    "ok": True,
}


def make_metrics(names: Sequence[str], counts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Metrics of a split, as bundle.json holds them; made up but for the counts of the confusion matrix."""
    score = {"value": 0.99, "low": 0.95, "high": 1.0}
    per_class = [
        {"name": name, "support": sum(row), "precision": score, "recall": score, "f1": score}
        for name, row in zip(names, counts, strict=True)
    ]
    metrics = {
        "n": sum(map(sum, counts)),
        "correct": sum(row[index] for index, row in enumerate(counts)),
        "confidence": 0.95,
        "accuracy": score,
        "macro_precision": score,
        "macro_recall": score,
        "macro_f1": score,
        "log_loss": 0.1,
        "class_names": list(names),
        "absent_classes": [],
        "per_class": per_class,
        "confusion_matrix": [list(row) for row in counts],
        "misjudged": [],
        "errors": [],
    }
    return SplitMetrics.model_validate(metrics).model_dump(mode="json")


def make_graph(side: int = SIDE, classes: int = len(COLOURS), sharpness: float = 0.05) -> bytes:
    """ONNX: pixels uint8 [N, side, side, 3] to the softmax of the channels' means."""
    from onnx import TensorProto, helper, numpy_helper

    weights = sharpness * np.eye(3, classes, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("ReduceMax", ["logits", "last"], ["distance"], keepdims=0),
        ],
        "colours",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", side, side, 3])],
        [
            helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]),
        ],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(np.array([1]), "last"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


def locate_red(graph: bytes) -> bytes:
    """The graph of `make_graph` with a heat map: how red each of 8 x 8 cells is, float [N, 8, 8] in [0, 1]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(graph)
    size = SIDE // CELLS
    constants = {"red": [0], "cells": [0, CELLS, size, CELLS, size], "inner": [2, 4]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in constants.items())
    model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "white"))
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["float", "red"], ["plane"], axis=3),
            helper.make_node("Reshape", ["plane", "cells"], ["blocks"]),
            helper.make_node("ReduceMean", ["blocks", "inner"], ["grey"], keepdims=0),
            helper.make_node("Div", ["grey", "white"], ["heat_map"]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("heat_map", TensorProto.FLOAT, ["N", CELLS, CELLS]))
    return model.SerializeToString()


def write_bundle(folder: Path, **changes: Any) -> Path:
    """Write a bundle with the variants float32 and int8; `changes` replace fields of bundle.json.

    With a locator among them the graphs have a heat map.
    """
    folder.mkdir(parents=True, exist_ok=True)
    variants = {}
    for name, file, sharpness in (("float32", "model.onnx", 0.05), ("int8", "model.int8.onnx", 0.04)):
        graph = make_graph(sharpness=sharpness)
        graph = locate_red(graph) if changes.get("locator") else graph
        (folder / file).write_bytes(graph)
        variants[name] = {
            "file": file,
            "sha256": hashlib.sha256(graph).hexdigest(),
            "bytes": len(graph),
            "valid_accuracy": CERTAIN,
            "test_accuracy": CERTAIN,
            "milliseconds_per_image": 1.0,
            "parity": PARITY,
            "fault": None,
        }
    card = {
        "format": 1,
        "name": "Colours",
        "created": "2026-01-01T00:00:00+00:00",
        "code_version": "0",
        "classes": list(COLOURS),
        "input": {"image_size": SIDE, "resize": "bilinear", "limits": LIMITS},
        "default": "float32",
        "variants": variants,
        "verdict_rules": None,
        "locator": None,
        "evaluation": None,
        "data": {"kind": "path", "notice": None},
        "provenance": {
            "model": "Colours", "weights": "none", "hyperparameters": {}, "manifest_sha256": "0" * 64,
            "keras_sha256": "0" * 64, "versions": {},
        },
        "metrics": {},
    }  # fmt: skip
    (folder / "bundle.json").write_text(json.dumps(card | changes), encoding="utf-8")
    return folder


def paint(colour: str, side: int = 80, seed: int = 0) -> np.ndarray:
    """A noisy image, uint8 (side, side, 3), that the tiny bundle gives the name `colour`."""
    noise = np.random.default_rng(seed).integers(0, 120, (side, side, 3), dtype=np.uint8)
    noise[..., COLOURS.index(colour)] += 100
    return noise


def write_locating_bundle(folder: Path, fit: str) -> Path:
    """A bundle that finds what is red in an image, which it makes square in the way that `fit` says."""
    return write_bundle(
        folder, locator=LOCATED, input={"image_size": SIDE, "resize": "bilinear", "limits": LIMITS, "fit": fit}
    )


def paint_spot() -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """An image four times as wide as high with a red spot at its upper edge, uint8 (48, 192, 3), and the spot's box."""
    pixels = np.zeros((48, 192, 3), np.uint8)
    pixels[..., 2] = 200
    pixels[:24, 48:96] = 255, 0, 0
    return pixels, (0.25, 0.0, 0.5, 0.5)


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write an image without loss."""
    Image.fromarray(pixels).save(path)
    return path

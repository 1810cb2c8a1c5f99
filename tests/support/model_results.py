"""Results of base models, whole and typed, of which a test names only what matters to it."""

from typing import Any

import numpy as np

from metal_defects.data.manifest import DataCard
from metal_defects.metrics import Metrics, SplitMetrics, classification_metrics
from metal_defects.models.results import BaseResult, Trial

DATA = DataCard(kind="path", notice=None)


def make_split_metrics(metrics: Metrics | None = None) -> SplitMetrics:
    """Those of a split without errors, or the ones given."""
    found = metrics or classification_metrics(np.array([0, 1]), np.eye(2), ["a", "b"])
    return SplitMetrics(**dict(found), errors=())


def make_base_result(**changes: Any) -> BaseResult:
    """The result of a frozen model, `valid` and `test` from any `Metrics`."""
    splits = {split: make_split_metrics(changes.pop(split, None)) for split in ("valid", "test")}
    usual = {
        "data": DATA,
        "name": "toy",
        "title": "Toy",
        "kind": "frozen",
        "weights": "random",
        "gmacs": 0.5,
        "parameters": 10,
        "views": (),
        "engine": "ONNX Runtime",
        "milliseconds_per_image": 1.0,
        "hyperparameters": {},
        "epochs": 3,
        "seconds": 1.0,
    }
    return BaseResult(**usual | splits | changes)


def make_trial(number: int, **changes: Any) -> Trial:
    """A first look that went well, or another trial."""
    params = {"taps": "default", "pooling": "moments", "views": "none", "hidden_units": 0, "l2": 0.003}
    usual = {
        "number": number,
        "status": "COMPLETED",
        "score": 0.28,
        "accuracy": 0.98,
        "images": 400,
        "first_look": True,
        "gmacs": 0.3,
        "seconds": 2.0,
        "epochs": None,
        "params": params | changes.pop("params", {}),
        "message": "",
    }
    return Trial(**usual | changes)

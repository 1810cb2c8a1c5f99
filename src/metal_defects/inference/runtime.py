"""ONNX Runtime: a graph as a function from pixels to named outputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from metal_defects.errors import BundleError
from metal_defects.system import count_cores

# From uint8 (N, side, side, 3) to the outputs by name, each with N rows.
Infer = Callable[[np.ndarray], dict[str, np.ndarray]]


def open_graph(path: Path, threads: int | None = None) -> Infer:
    """A function that runs an ONNX graph; safe to call from several threads.

    Args:
        path: of the graph.
        threads: that work on one call; all cores where None.

    Raises:
        BundleError: ONNX Runtime cannot read it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or count_cores()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions share no base class
        raise BundleError(f"ONNX Runtime cannot read the graph; export it again. Got {path}: {error}") from error

    names = [output.name for output in session.get_outputs()]

    def infer(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"pixels": pixels}), strict=True))

    return infer

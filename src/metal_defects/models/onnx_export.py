"""From a Keras model to ONNX graphs for serving: float32, and int8 where the convolutions are concerned."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.files import atomic_path

if TYPE_CHECKING:
    import keras
    import onnx

INPUT, BATCH = "pixels", "N"
OPSET = 18
# Convolutions at the entrance that stay in float: their few channels have very unequal ranges, and every error made
# there goes through the whole network. They hold a thousandth of the weights.
FLOAT_AT_ENTRANCE = 3
CALIBRATION_BATCH = 8


def export_float32(model: "keras.Model", outputs: Sequence[str], target: Path) -> None:
    """Write a model as an ONNX graph: the same function, the same bytes each time, no names of this machine.

    Args:
        model: uint8 (batch, side, side, 3) to one or more float32 outputs (batch, ...).
        outputs: their names in the graph, in the model's order.
        target: gets a graph from `pixels` uint8 [N, side, side, 3] to `outputs`.
    """
    import keras
    import onnx

    side = model.input_shape[1]
    model(np.zeros((1, side, side, 3), np.uint8), training=False)
    signature = [keras.InputSpec(dtype="uint8", shape=model.input_shape, name=INPUT)]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.onnx")
        logging.getLogger("tf2onnx").setLevel(logging.ERROR)
        model.export(str(path), format="onnx", verbose=False, input_signature=signature, opset_version=OPSET)
        graph = onnx.load(path)
    _normalise(graph, outputs)
    onnx.checker.check_model(graph, full_check=True)
    _save(graph, target)


def quantise(source: Path, target: Path, images: np.ndarray) -> None:
    """Write the int8 form of a graph: weights per channel, activations calibrated on `images`.

    Only convolutions are quantised, from the fourth on. Moment pooling and the head stay in float: E[x²] − E[x]² is
    the small difference of large numbers, and the head is too small to be worth an error.

    Args:
        source: a float32 graph of `export_float32`.
        target: gets the int8 graph, with the same input and output.
        images: uint8 (images, side, side, 3), of the training split.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(np.array_split(images, -(-len(images) // CALIBRATION_BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    with tempfile.TemporaryDirectory() as scratch:
        folded, quantised = Path(scratch, "folded.onnx"), Path(scratch, "int8.onnx")
        quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
        convolutions = [node.name for node in onnx.load(folded).graph.node if node.op_type == "Conv"]
        quantize_static(
            str(folded),
            str(quantised),
            Batches(),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=convolutions[FLOAT_AT_ENTRANCE:],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        graph = onnx.load(quantised)
    _normalise(graph, [output.name for output in graph.graph.output])
    _save(graph, target)


def keep_outputs(source: Path, outputs: Sequence[str], target: Path) -> None:
    """Write the part of a graph of `export_float32` that some of its outputs need."""
    from onnx.utils import extract_model

    with atomic_path(target) as partial:
        extract_model(str(source), str(partial), [INPUT], list(outputs))


def _normalise(model: "onnx.ModelProto", outputs: Sequence[str]) -> None:
    """Name everything by its place in the graph and drop what describes the exporter rather than the function.

    Keras numbers its layers by what else the process has built, so that their names differ from run to run.
    """
    graph = model.graph
    ordered_nodes = [type(node).FromString(node.SerializeToString()) for node in _order_nodes(graph)]
    del graph.node[:]
    graph.node.extend(ordered_nodes)
    names = {graph.input[0].name: INPUT}
    names |= {value.name: name for value, name in zip(graph.output, outputs, strict=True)}
    weights = {weight.name: weight for weight in graph.initializer}
    used: list[onnx.TensorProto] = []
    for number, node in enumerate(graph.node):
        for name in node.input:
            if name in weights and name not in names:
                names[name] = f"weight_{len(used)}"
                used.append(weights[name])
        for name in node.output:
            names.setdefault(name, f"{node.op_type}_{number}_output" if name else "")
        node.name, node.doc_string = f"{node.op_type}_{number}", ""
        node.input[:] = [names[name] if name else "" for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for value in (*used, graph.input[0], *graph.output):
        value.name, value.doc_string = names[value.name], ""
    ordered = [type(weight).FromString(weight.SerializeToString()) for weight in used]
    del graph.initializer[:], graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    graph.initializer.extend(ordered)
    for value in (graph.input[0], *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    graph.name, graph.doc_string = "classifier", ""
    model.producer_name = model.producer_version = model.doc_string = ""


def _order_nodes(graph: "onnx.GraphProto") -> "list[onnx.NodeProto]":
    """The nodes in an order that only their connections decide: each output's inputs first, the outputs in turn."""
    producers = {name: node for node in graph.node for name in node.output}
    ordered: list[onnx.NodeProto] = []
    done: set[str] = set()
    waiting = [(value.name, False) for value in reversed(graph.output)]
    while waiting:
        name, is_ready = waiting.pop()
        node = producers.get(name)
        if node is None or node.output[0] in done:
            continue
        if is_ready:
            ordered.append(node)
            done.add(node.output[0])
        else:
            waiting.append((name, True))
            waiting.extend((source, False) for source in reversed(node.input))
    return ordered


def _save(model: "onnx.ModelProto", target: Path) -> None:
    with atomic_path(target) as partial:
        partial.write_bytes(model.SerializeToString(deterministic=True))

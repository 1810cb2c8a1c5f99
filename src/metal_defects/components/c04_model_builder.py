"""Stage 04: one architecture per configured model, with the weights that are to be had."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metal_defects.errors import WeightsError
from metal_defects.files import read_json, sha256_file, write_json, write_text
from metal_defects.log import logger, track
from metal_defects.models.custom_cnn import GMACS as CUSTOM_CNN_GMACS
from metal_defects.models.networks import assemble, build_backbone, build_feature_model, build_head
from metal_defects.models.specs import BACKBONES
from metal_defects.models.training import build_from_scratch
from metal_defects.models.weights import find_weights
from metal_defects.pipeline.runner import StageContext
from metal_defects.plots.diagram import Block, model_diagram

if TYPE_CHECKING:
    import keras


def run(ctx: StageContext) -> None:
    """Write models.json, model_summaries.txt and a diagram per model.

    Raises:
        WeightsError: ImageNet weights are missing and `on_missing_weights` is "error", or every model was skipped.
    """
    classes = len(read_json(ctx.artifacts / "03_dataset_loader" / "class_labels.json")["classes"])
    names = ctx.settings.params.model_builder.models
    entries, summaries, skipped = [], [], []
    for name in track(names, "Building models", len(names)):
        entry = _choose_weights(ctx, name)
        if entry is None:
            skipped.append(name)
            continue
        model = _build(ctx, entry, classes)
        entry |= {"parameters": model.count_params(), "trainable_parameters": _count_trainable(model)}
        entries.append(entry)
        summaries.append(f"{entry['title']} ({entry['weights']})\n{_summary(model)}")
        title = f"{entry['title']} ({entry['weights']})"
        model_diagram(_blocks(model, entry), ctx.out / "diagrams" / f"{name}.png", title)
    if not entries:
        raise WeightsError(
            "No model is left: ImageNet weights are missing for all of them. Put weight files into "
            f"{ctx.settings.config.paths.weights} or set model_builder.on_missing_weights=random. "
            f"Got {', '.join(names)}."
        )
    write_text(ctx.out / "model_summaries.txt", "\n\n".join(summaries) + "\n")
    write_json(ctx.out / "models.json", {"data": ctx.data_source(), "models": entries, "skipped": skipped})


def _choose_weights(ctx: StageContext, name: str) -> dict[str, Any] | None:
    """What is known of a model before it is built; None where it is to be skipped."""
    builder = ctx.settings.params.model_builder
    entry = {"name": name, "kind": "from scratch", "weights": "from scratch"}
    entry |= {"weights_file": None, "weights_sha256": None}
    if name == "custom_cnn":
        return entry | {"title": "custom CNN", "gmacs": CUSTOM_CNN_GMACS}
    backbone = BACKBONES[name]
    entry |= {"title": backbone.title, "gmacs": backbone.gmacs}
    if builder.weights is None:
        return entry
    config = ctx.settings.config
    path = find_weights(backbone.weights, config.paths.weights, config.data.timeout_seconds)
    if path is not None:
        return entry | {
            "kind": "frozen", "weights": "ImageNet", "weights_file": str(path), "weights_sha256": sha256_file(path),
        }  # fmt: skip
    missing = f"{backbone.title}: no ImageNet weights here or to be had ({backbone.weights.file})"
    if builder.on_missing_weights == "error":
        advice = f"Put the file into {config.paths.weights} or change model_builder.on_missing_weights."
        raise WeightsError(f"{missing}. {advice}")
    if builder.on_missing_weights == "skip":
        logger.warning("   %s: skipped", missing)
        return None
    logger.warning("   %s: frozen RANDOM features instead, a baseline", missing)
    return entry | {"kind": "frozen", "weights": "random"}


def _build(ctx: StageContext, entry: dict[str, Any], classes: int) -> "keras.Model":
    """The whole classifier, from pixels to probabilities, with an untrained head."""
    params = ctx.settings.params
    builder = params.model_builder
    if entry["kind"] == "from scratch":
        return build_from_scratch(entry["name"], params, classes, dropout=builder.dropout, l2=builder.l2)
    backbone = BACKBONES[entry["name"]]
    file = Path(entry["weights_file"]) if entry["weights_file"] else None
    network = build_backbone(backbone, params.data_preprocessing.image_size, params.seed, file)
    features = build_feature_model(backbone, network, backbone.default_taps)
    columns = features.output_shape[-1]
    head = build_head(
        np.zeros(columns, np.float32),
        np.ones(columns, np.float32),
        classes,
        hidden_units=builder.hidden_units,
        dropout=builder.dropout,
        l2=builder.l2,
    )
    return assemble(features, head, entry["name"])


def _count_trainable(model: "keras.Model") -> int:
    return int(sum(np.prod(weight.shape) for weight in model.trainable_weights))


def _summary(model: "keras.Model") -> str:
    lines: list[str] = []
    model.summary(expand_nested=True, line_length=110, print_fn=lambda text, **_: lines.append(text))
    return "\n".join(lines)


def _blocks(model: "keras.Model", entry: dict[str, Any]) -> list[Block]:
    """What the diagram shows: the taps of a frozen backbone, or the convolutions of a network from scratch."""
    import keras

    side = model.input_shape[1]
    blocks = [Block("pixels", f"{side} × {side} × 3, uint8")]
    if entry["name"] in BACKBONES:
        backbone = BACKBONES[entry["name"]]
        trunk = model.get_layer(backbone.name)
        shapes = trunk.output_shape if isinstance(trunk.output_shape, list) else [trunk.output_shape]
        blocks.append(Block("scaling", f"as {backbone.title} expects"))
        taps = zip(backbone.default_taps, shapes, strict=True)
        blocks += [Block(tap, _shape(shape), tap=True) for tap, shape in taps]
        blocks.append(Block("concatenate", f"{model.get_layer('features').output.shape[-1]} features"))
        layers = model.get_layer("head").layers[1:]
    else:
        keep = keras.layers
        kinds = (keep.Conv2D, keep.MaxPooling2D, keep.AveragePooling2D, keep.Concatenate, keep.Dropout, keep.Dense)
        layers = [layer for layer in model.layers if isinstance(layer, kinds)]
    return blocks + [Block(layer.name, _shape(layer.output.shape)) for layer in layers]


def _shape(shape: tuple[int | None, ...]) -> str:
    return " × ".join(str(size) for size in shape[1:])

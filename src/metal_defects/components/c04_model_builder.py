"""Stage 04: one architecture per configured model, with the weights that are to be had."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metal_defects.artifacts import DIAGRAMS, LABELS, MODELS, SOURCE, SUMMARIES
from metal_defects.config import ModelBuilderParams
from metal_defects.data.manifest import SourceCard
from metal_defects.data.snapshots import ClassLabels
from metal_defects.errors import WeightsError
from metal_defects.files import sha256_file, write_text
from metal_defects.log import logger, track
from metal_defects.models.networks import (
    add_untrained_head,
    build_backbone,
    build_feature_model,
    build_from_scratch,
)
from metal_defects.models.results import ModelEntry, ModelList
from metal_defects.models.specs import BACKBONES, Backbone, ModelSpec, find_spec
from metal_defects.models.weights import find_weights
from metal_defects.pipeline.context import StageContext
from metal_defects.pipeline.table import WEIGHTS
from metal_defects.plots.diagram import Block, draw_diagram
from metal_defects.records import write_record

if TYPE_CHECKING:
    import keras


def run(ctx: StageContext) -> None:
    """Write models.json, model_summaries.txt and a diagram per model.

    Raises:
        ConfigError: there is no model of a name.
        WeightsError: ImageNet weights are missing and `on_missing_weights` is "error", or every model was skipped.
    """
    labels, builder = ctx.read(LABELS, ClassLabels), ctx.setting("model_builder")
    classes, image_size, seed = len(labels.classes), labels.image_size, ctx.setting("seed")
    folder, timeout_seconds = ctx.outside(WEIGHTS)
    entries, summaries, skipped = [], [], []
    specs = [find_spec(name) for name in builder.models]
    for spec in track(specs, "Building models", len(specs)):
        origin = _choose_weights(spec, builder, folder, timeout_seconds)
        if origin is None:
            skipped.append(spec.name)
            continue
        is_frozen, file = origin["kind"] == "frozen", origin["weights_file"]
        model = _build(spec, is_frozen, file and Path(file), image_size, classes, builder, seed)
        entry = ModelEntry(
            name=spec.name,
            title=spec.title,
            gmacs=spec.gmacs,
            parameters=model.count_params(),
            trainable_parameters=_count_trainable(model),
            **origin,
        )
        entries.append(entry)
        summaries.append(f"{entry.full_title}\n{_summarise(model)}")
        blocks = _describe_blocks(model, spec)
        draw_diagram(blocks, ctx.out / DIAGRAMS.file / f"{spec.name}.png", entry.full_title)
    if not entries:
        raise WeightsError(
            f"No model is left: ImageNet weights are missing for all of them. Put weight files into {folder} or set "
            f"model_builder.on_missing_weights=random. Got {', '.join(builder.models)}."
        )
    write_text(ctx.out / SUMMARIES.file, "\n\n".join(summaries) + "\n")
    models = ModelList(data=ctx.read(SOURCE, SourceCard).card, models=tuple(entries), skipped=tuple(skipped))
    write_record(ctx.out / MODELS.file, models)


def _choose_weights(
    spec: ModelSpec, builder: ModelBuilderParams, folder: Path, timeout_seconds: float
) -> dict[str, Any] | None:
    """The fields of a model's entry that its weights decide; None where it is to be skipped."""
    scratch = {"kind": "from scratch", "weights": "from scratch", "weights_file": None, "weights_sha256": None}
    if builder.weights is None or not isinstance(spec, Backbone):
        return scratch
    path = find_weights(spec.weights, folder, timeout_seconds)
    if path is not None:
        found = {"weights": "ImageNet", "weights_file": str(path), "weights_sha256": sha256_file(path)}
        return {"kind": "frozen"} | found
    missing = f"{spec.title}: no ImageNet weights here or to be had ({spec.weights.file})"
    if builder.on_missing_weights == "error":
        raise WeightsError(f"{missing}. Put the file into {folder} or change model_builder.on_missing_weights.")
    if builder.on_missing_weights == "skip":
        logger.warning("   %s: skipped", missing)
        return None
    logger.warning("   %s: frozen RANDOM features instead, a baseline without augmented views", missing)
    return scratch | {"kind": "frozen", "weights": "random"}


def _build(
    spec: ModelSpec,
    is_frozen: bool,
    weights_file: Path | None,
    image_size: int,
    classes: int,
    builder: ModelBuilderParams,
    seed: int,
) -> "keras.Model":
    """The whole classifier, from pixels to probabilities, before any training."""
    if not is_frozen:
        return build_from_scratch(spec, image_size, classes, builder, seed)
    backbone = BACKBONES[spec.name]
    network = build_backbone(backbone, image_size, seed, weights_file)
    features = build_feature_model(backbone, network, backbone.default_taps)
    return add_untrained_head(features, classes, builder, spec.name)


def _count_trainable(model: "keras.Model") -> int:
    return int(sum(np.prod(weight.shape) for weight in model.trainable_weights))


def _summarise(model: "keras.Model") -> str:
    lines: list[str] = []
    model.summary(expand_nested=True, line_length=110, print_fn=lambda text, **_: lines.append(text))
    return "\n".join(lines)


def _describe_blocks(model: "keras.Model", spec: ModelSpec) -> list[Block]:
    """What the diagram shows: the taps of a backbone and its head, or what changes the shape in any other network."""
    import keras

    side = model.input_shape[1]
    blocks = [Block("pixels", f"{side} × {side} × 3, uint8")]
    if isinstance(spec, Backbone):
        trunk = model.get_layer(spec.name)
        shapes = trunk.output_shape if isinstance(trunk.output_shape, list) else [trunk.output_shape]
        blocks.append(Block("scaling", f"as {spec.title} expects"))
        taps = zip(spec.default_taps, shapes, strict=True)
        blocks += [Block(tap, _format_shape(shape), tap=True) for tap, shape in taps]
        blocks.append(Block("concatenate", f"{model.get_layer('features').output.shape[-1]} features"))
        layers = model.get_layer("head").layers[1:]
    else:
        keep = keras.layers
        kinds = (keep.Conv2D, keep.MaxPooling2D, keep.AveragePooling2D, keep.Concatenate, keep.Dropout, keep.Dense)
        layers = [layer for layer in model.layers if isinstance(layer, kinds)]
    return blocks + [Block(layer.name, _format_shape(layer.output.shape)) for layer in layers]


def _format_shape(shape: tuple[int | None, ...]) -> str:
    return " × ".join(str(size) for size in shape[1:])

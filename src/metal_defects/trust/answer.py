"""One model from pixels to the whole answer: calibrated probabilities, distance from the known surfaces, heat map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.artifacts import ANSWER, TUNED_H5
from metal_defects.config import Pooling
from metal_defects.files import atomic_path
from metal_defects.models.fine_tuning import EVIDENCE
from metal_defects.models.pooling import pool
from metal_defects.models.specs import BACKBONES, Network, find_spec
from metal_defects.system import map_ordered
from metal_defects.trust.calibration import Scaling
from metal_defects.trust.evidence_map import evidence_layers
from metal_defects.trust.guard import Guard
from metal_defects.trust.guard_graph import guard_layers
from metal_defects.trust.locator import Locator, locator_layers

if TYPE_CHECKING:
    import keras

UNSCALED = Scaling()
OUTPUTS = ("probabilities", "distance", "heat_map")


@dataclass(frozen=True)
class AnswerParts:
    """What is added to a classifier.

    Attributes:
        scaling: of the logits; the shift to the served mix of classes is part of it.
        guard: measures the distance from the training images.
        locator: draws the heat map.
    """

    scaling: Scaling = UNSCALED
    guard: Guard | None = None
    locator: Locator | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of the model with these parts."""
        present = (True, self.guard is not None, self.locator is not None)
        return tuple(name for name, there in zip(OUTPUTS, present, strict=True) if there)

    def save(self, path: Path) -> None:
        """Write answer.npz."""
        arrays = {"temperature": np.array(self.scaling.temperature), "bias": np.array(self.scaling.bias)}
        for name, part in (("guard", self.guard), ("locator", self.locator)):
            if part is not None:
                arrays |= {f"{name}.{key}": value for key, value in part.to_arrays().items()}
        with atomic_path(path) as partial, partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "AnswerParts":
        """Read answer.npz."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        parts = {
            name: {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
            for name in ("guard", "locator")
        }
        guard = Guard.from_arrays(parts["guard"]) if parts["guard"] else None
        locator = Locator.from_arrays(parts["locator"]) if parts["locator"] else None
        scaling = Scaling(temperature=float(arrays["temperature"]), bias=tuple(arrays["bias"].tolist()))
        return cls(scaling, guard, locator)


@dataclass(frozen=True)
class OpenModel:
    """A classifier whose feature maps can be had.

    Attributes:
        pixels: its input.
        maps: feature maps by tap, shallow to deep, (batch, height, width, channels).
        features: what its last layer or head turns into probabilities: a vector, (batch, columns), or the feature maps
            of a head that looks at cells.
        evidence: of such a head, how much each cell speaks for each class, (batch, rows, columns, classes); else None.
    """

    pixels: "keras.KerasTensor"
    maps: "dict[str, keras.KerasTensor]"
    features: "keras.KerasTensor | list[keras.KerasTensor]"
    evidence: "keras.KerasTensor | None" = None


def open_model(model: "keras.Model") -> OpenModel:
    """Give access to the feature maps inside a classifier of this package; it shares the model's layers."""
    import keras
    from keras import layers

    trunk = next((layer for layer in model.layers if layer.name in BACKBONES), None)
    if trunk is None:
        spec = find_spec(model.name)
        assert isinstance(spec, Network)
        names = spec.find_maps(model)
        return OpenModel(model.input, {name: model.get_layer(name).output for name in names}, model.layers[-1].input)
    inner = {layer.name for layer in trunk.layers}
    taps = [tap for tap in BACKBONES[trunk.name].taps if tap in inner]
    head = model.layers[-1]
    ends = [one.name for one in head.inputs if len(one.shape) == 4]
    names = list(dict.fromkeys([*taps, *ends]))
    opened = keras.Model(trunk.inputs, [trunk.get_layer(name).output for name in names], name=trunk.name)
    outputs = opened(model.get_layer("scaling").output, training=False)
    found = dict(zip(names, outputs if isinstance(outputs, list | tuple) else [outputs], strict=True))
    maps = {tap: found[tap] for tap in taps}
    if ends:
        looked = [found[name] for name in ends]
        look = keras.Model(head.inputs, head.get_layer(EVIDENCE).output, name="look")
        return OpenModel(model.input, maps, looked, look(looked))
    own = {layer.name for layer in model.layers}
    pooling: Pooling = "moments+extremes" if any(f"{tap}_highest" in own for tap in taps) else "moments"
    pooled = [part for tap in taps if f"{tap}_mean" in own for part in pool(maps[tap], tap, pooling)]
    return OpenModel(model.input, maps, layers.Concatenate(name="features")(pooled))


def load_answer_model(artifacts: Path) -> "tuple[keras.Model, tuple[str, ...]]":
    """tuned_model.h5 with the parts of stage 08, as `build_answer_model` gives it, and the names of its outputs."""
    import keras

    model = keras.models.load_model(artifacts / TUNED_H5.name, compile=False)
    parts = AnswerParts.load(artifacts / ANSWER.name)
    return build_answer_model(model, parts), parts.outputs


def call_by_name(model: "keras.Model", names: Sequence[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """From uint8 pixels (batch, side, side, 3) to the model's outputs by name."""

    def infer(pixels: np.ndarray) -> dict[str, np.ndarray]:
        outputs = model(pixels, training=False)
        values = outputs if isinstance(outputs, list | tuple) else [outputs]
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    return infer


def answer_in_batches(
    infer: Callable[[np.ndarray], dict[str, np.ndarray]], images: np.ndarray, batch: int = 8
) -> dict[str, np.ndarray]:
    """Outputs by name for many images, uint8 (images, side, side, 3); every core works on a batch of its own.

    Args:
        infer: as `call_by_name` and `open_graph` give it; called from several threads at once.
        images: at least one.
        batch: images per call; small enough for the feature maps to stay in the cache of a core.
    """
    parts = list(map_ordered(infer, [images[first : first + batch] for first in range(0, len(images), batch)]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def build_answer_model(model: "keras.Model", parts: AnswerParts) -> "keras.Model":
    """The classifier with what `parts` add; its outputs are `parts.outputs`.

    It shares the layers of the classifier but for the last, whose weights are scaled in a copy.

    Input shape: uint8 (batch, side, side, 3).
    Output shape: float32 (batch, classes), (batch,), (batch, rows, columns).
    """
    import keras

    opened = open_model(model)
    outputs = [_apply_calibrated(model.layers[-1], opened.features, parts.scaling)]
    if parts.guard is not None:
        moments = [part for tap in parts.guard.taps for part in pool(opened.maps[tap], f"guard_{tap}")]
        outputs.append(guard_layers(moments, parts.guard))
    if parts.locator is not None:
        if parts.locator.taps == (EVIDENCE,):
            outputs.append(evidence_layers(opened.evidence, parts.locator))
        else:
            outputs.append(locator_layers(opened.maps, parts.locator))
    return keras.Model(opened.pixels, outputs, name="answer")


def _apply_calibrated(
    last: "keras.layers.Layer", features: "keras.KerasTensor", scaling: Scaling
) -> "keras.KerasTensor":
    """What a copy of a head, or of a last layer, makes of its input with its logits scaled."""
    import keras

    is_head = isinstance(last, keras.Model)
    copy = keras.models.clone_model(last) if is_head else type(last).from_config(last.get_config())
    probabilities = copy(features, training=False)
    copy.set_weights(last.get_weights())
    dense = copy.layers[-1] if is_head else copy
    kernel, bias = (weights / scaling.temperature for weights in dense.get_weights())
    dense.set_weights([kernel, bias + np.array(scaling.bias) if scaling.bias else bias])
    return probabilities

"""The whole answer in one model: calibrated, by name, from a classifier that stays as it was."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from metal_defects.trust.answer import AnswerParts, answer_in_batches, build_answer_model, call_by_name
from metal_defects.trust.calibration import Scaling

if TYPE_CHECKING:
    import keras

SIDE, CLASSES = 64, 3
IMAGES = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


def build_classifier(kind: str) -> "keras.Model":
    """A network whose last layer decides, or a frozen one under a head with a hidden layer."""
    import keras

    from metal_defects.models.custom_cnn import build_custom_cnn
    from metal_defects.models.networks import assemble, build_feature_model, build_head
    from metal_defects.models.specs import BACKBONES

    keras.utils.set_random_seed(1)
    if kind == "custom":
        return build_custom_cnn(SIDE, CLASSES, dropout=0.2, l2=0.0)
    backbone = BACKBONES["mobilenet_v2"]
    features = build_feature_model(backbone, backbone.build(SIDE), backbone.default_taps)
    found = np.asarray(features(IMAGES))
    head = build_head(found.mean(0), found.var(0), CLASSES, hidden_units=8, dropout=0.2, l2=0.0)
    # The last layer begins at zero; equal answers would hide the temperature.
    head.layers[-1].set_weights([np.random.default_rng(2).normal(0, 1, one.shape) for one in head.layers[-1].weights])
    return assemble(features, head, "classifier")


@pytest.mark.parametrize("kind", ["custom", "frozen"])
def test_the_classifier_is_left_as_it_was(kind: str) -> None:
    model = build_classifier(kind)
    before, weights = np.asarray(model(IMAGES)), [one.copy() for one in model.get_weights()]
    scaling = Scaling(temperature=2.0, bias=(0.5, 0.0, -0.5))
    expected = scaling.apply(np.log(before))
    for _ in range(2):
        answer = build_answer_model(model, AnswerParts(scaling))
        found = np.asarray(answer(IMAGES))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(before - expected).max() > 1e-3, "the scaling must be seen"
    np.testing.assert_array_equal(np.asarray(model(IMAGES)), before)
    assert all(np.array_equal(*pair) for pair in zip(model.get_weights(), weights, strict=True))


def test_parts_come_back_from_their_file(tmp_path: Path) -> None:
    for scaling in (Scaling(temperature=1.25), Scaling(temperature=0.7, bias=(0.1, -0.1))):
        AnswerParts(scaling).save(tmp_path / "parts.npz")
        parts = AnswerParts.load(tmp_path / "parts.npz")
        assert (parts.scaling, parts.guard, parts.locator) == (scaling, None, None)
    assert parts.outputs == ("probabilities",)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_batches_are_answered_in_order(batch: int) -> None:
    model = build_classifier("custom")
    found = answer_in_batches(call_by_name(model, ("probabilities",)), IMAGES, batch)
    assert list(found) == ["probabilities"]
    np.testing.assert_allclose(found["probabilities"], np.asarray(model(IMAGES)), atol=1e-5)

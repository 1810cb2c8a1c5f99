"""The custom CNN: shapes, what it ignores, and that it can be saved and trained."""

from pathlib import Path

import numpy as np
import pytest

from metal_defects.models.custom_cnn import build_custom_cnn


def make_images(count: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(("classes", "filters", "depth"), [(2, 8, 2), (6, 16, 5), (100, 4, 6)])
def test_probabilities_of_any_shape(classes: int, filters: int, depth: int) -> None:
    model = build_custom_cnn(64, classes, dropout=0.2, l2=1e-4, filters=filters, depth=depth)
    probabilities = model(make_images(3), training=False).numpy()
    assert probabilities.shape == (3, classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_lighting_and_contrast_do_not_matter() -> None:
    import keras

    dark = make_images(2) // 4
    bright = dark * 3 + 40
    for seed in range(3):
        keras.utils.set_random_seed(seed)
        model = build_custom_cnn(64, 6, dropout=0.2, l2=1e-4)
        expected = model(dark, training=False).numpy()
        np.testing.assert_allclose(model(bright, training=False).numpy(), expected, atol=2e-4)


def test_h5_file_opens_in_plain_keras(tmp_path: Path) -> None:
    import keras

    model = build_custom_cnn(64, 6, dropout=0.2, l2=1e-4)
    images = make_images(4)
    model.save(tmp_path / "model.h5", include_optimizer=False)
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    np.testing.assert_allclose(loaded(images, training=False), model(images, training=False), atol=1e-6)


def test_it_learns_two_textures() -> None:
    import keras

    from metal_defects.models.training import compile_classifier

    keras.utils.set_random_seed(0)
    random = np.random.default_rng(1)
    labels = np.arange(64) % 2
    noise = random.normal(128, 40, (64, 64, 64, 1))
    striped = noise + 40 * np.sin(np.arange(64) / 2)[None, :, None, None]
    images = np.where(labels[:, None, None, None] == 1, striped, noise)
    images = np.repeat(np.clip(images, 0, 255), 3, axis=-1).astype(np.uint8)
    model = build_custom_cnn(64, 2, dropout=0.0, l2=1e-4, filters=8, depth=3)
    compile_classifier(model, 3e-3, 0.0)
    model.fit(images, keras.utils.to_categorical(labels), epochs=12, batch_size=16, verbose=0)
    assert (model(images, training=False).numpy().argmax(axis=1) == labels).mean() >= 0.95


def test_colour_does_not_matter_and_its_weighting_is_not_trained() -> None:
    model = build_custom_cnn(64, 6, dropout=0.2, l2=1e-4)
    grey = np.repeat(make_images(2)[..., :1] // 2 + 50, 3, axis=3)
    # Opposite amounts from pixel to pixel: one shift for the whole image would be standardised away.
    tint = np.random.default_rng(2).integers(-40, 41, grey.shape[:3])
    tinted = (grey + np.stack([tint, -tint, np.zeros_like(tint)], axis=3)).astype(np.uint8)
    expected = model(grey, training=False).numpy()
    np.testing.assert_allclose(model(tinted, training=False).numpy(), expected, atol=1e-5)
    assert not model.get_layer("grey").trainable_weights


def test_onnx_graph_answers_alike(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build_custom_cnn(64, 6, dropout=0.2, l2=1e-4, filters=4, depth=3)
    images = make_images(4)
    expected = model.predict(images, verbose=0)
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    assert pixels.type == "tensor(uint8)"
    np.testing.assert_allclose(session.run(None, {pixels.name: images})[0], expected, atol=1e-4)

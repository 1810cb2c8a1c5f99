"""Stage 09 on a small network that was really trained: what is served answers as Keras does."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import PROJECT
from support.evaluations import make_evaluation
from support.stages import leave, leave_rows, make_context, place
from support.workshop import read_rows

from metal_defects import artifacts as a
from metal_defects.cli.predict import load_keras
from metal_defects.components import c09_model_export
from metal_defects.config import ImageSchema, Settings, load_settings
from metal_defects.data.manifest import SPLITS, DataCard, ManifestRow
from metal_defects.data.snapshots import ClassLabels, Snapshots, SplitSummary
from metal_defects.evaluation.results import Decision
from metal_defects.files import sha256_file
from metal_defects.inference.answer import Prediction
from metal_defects.inference.bundle import load_bundle
from metal_defects.inference.card import LocatorCard, VerdictRules
from metal_defects.inference.predictor import Predictor
from metal_defects.inference.runtime import open_graph
from metal_defects.metrics import SplitMetrics, classification_metrics
from metal_defects.models.custom_cnn import build_custom_cnn
from metal_defects.models.feature_maps import extract_maps
from metal_defects.models.networks import assemble, build_backbone, build_feature_model, build_head
from metal_defects.models.onnx_export import export_float32
from metal_defects.models.pooling import pool
from metal_defects.models.results import LogLosses, TunedCard, TunedResult
from metal_defects.models.specs import BACKBONES
from metal_defects.trust.answer import AnswerParts, build_answer_model, open_model
from metal_defects.trust.calibration import Scaling
from metal_defects.trust.guard import GuardCard, choose_guard_taps, fit_guard
from metal_defects.trust.locator import fit_locator
from metal_defects.trust.locator_maps import choose_taps

pytestmark = pytest.mark.slow
SIDE = 64
CLASSES = ("Stripes", "Bars", "Noise")
COUNTS = {"train": 20, "valid": 6, "test": 6}
SCALING = Scaling(temperature=0.8, bias=(0.2, 0.0, -0.2))
LIMITS = ImageSchema(formats=("PNG",), min_side=16, max_side=512, max_bytes=1_000_000)
DRAWN = DataCard(kind="synthetic", notice="Drawn.")


def draw(label: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (SIDE, SIDE, 3): horizontal waves, vertical waves, or neither."""
    wave = 60 * np.sin(np.arange(SIDE) * rng.uniform(0.6, 1.2))
    pattern = (wave[:, None], wave[None, :], np.zeros((1, 1)))[label]
    grey = 128 + pattern + rng.normal(0, 25, (SIDE, SIDE))
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a run whose stages 01, 03, 07 and 08 are done, with a custom CNN that was trained for some seconds."""
    import keras
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("artifacts")
    settings = configure(folder, "model_export.calibration_images=40")
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    data, summary = {}, {}
    for split in SPLITS:
        labels = np.repeat(np.arange(len(CLASSES), dtype=np.int32), COUNTS[split])
        images = np.stack([draw(label, rng) for label in labels])
        data[split] = images, labels
        tf.data.Dataset.from_tensor_slices(data[split]).save(str(place(settings, a.LABELS).parent / f"{split}_ds"))
        told = {"images": len(labels), "per_class": {}, "element_spec": (), "pixels_sha256": ""}
        summary[split] = SplitSummary(**told, labels=tuple(labels.tolist()))
    leave(settings, a.LABELS, ClassLabels(classes=CLASSES, image_size=SIDE))
    leave(settings, a.SNAPSHOTS, Snapshots(data=DRAWN, **summary))
    row = {"path": "a.png", "label": "Bars", "split": "train", "sha256": "", "group": "a.png", "width": 1, "height": 1}
    leave_rows(settings, a.MANIFEST, [ManifestRow(**row, boxes=())])

    model = build_custom_cnn(SIDE, len(CLASSES), filters=8, depth=3, dropout=0.0, l2=0.0)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(*data["train"], epochs=15, batch_size=20, verbose=0)
    model.save(place(settings, a.TUNED_H5), include_optimizer=False)
    leave_tuned_cards(settings, {split: (y, model.predict(x, verbose=0)) for split, (x, y) in data.items()})
    leave_answer(settings, *data["train"])
    return settings


def configure(artifacts: Path, *overrides: str) -> Settings:
    return load_settings(PROJECT, [f"paths.artifacts={artifacts}", *overrides], environment={})


def leave_tuned_cards(settings: Settings, answers: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """What stage 07 writes beside the model."""
    made = {"data": DRAWN, "weights": "from scratch", "hyperparameters": {}}
    digest = sha256_file(place(settings, a.TUNED_H5))
    shape = {"classes": CLASSES, "image_size": SIDE, "resize": "bilinear", "limits": LIMITS}
    leave(settings, a.TUNED_CARD, TunedCard(**made, **shape, model="Custom CNN", sha256=digest))
    scores = {
        split: SplitMetrics(**dict(classification_metrics(*answers[split], CLASSES)), errors=())
        for split in ("valid", "test")
    }
    title = {"name": "custom_cnn", "title": "Custom CNN", "kind": "from scratch"}
    search = {"base_model_kept": True, "trials": (), "reason": "", "fine_tuning": None, "seconds": 1.0}
    search |= {"valid_log_loss": LogLosses(base=0.1, tuned=0.1)}
    leave(settings, a.TUNED_METRICS, TunedResult(**made, **title, **search, **scores))


def leave_answer(settings: Settings, images: np.ndarray, labels: np.ndarray) -> None:
    """What stage 08 leaves for the export: a guard and a locator that were really fitted."""
    import keras
    from keras import layers

    opened = open_model(keras.models.load_model(place(settings, a.TUNED_H5), compile=False))
    taps = choose_guard_taps(tuple(opened.maps))
    pooled = [part for tap in taps for part in pool(opened.maps[tap], f"pooled_{tap}")]
    moments = keras.Model(opened.pixels, layers.Concatenate()(pooled)).predict(images, verbose=0)
    channels = {tap: opened.maps[tap].shape[-1] for tap in taps}
    guard = fit_guard(moments, labels, np.arange(len(labels)), 0.95, 0, channels)
    chosen = choose_taps({tap: one.shape[1] for tap, one in opened.maps.items()}, SIDE)
    wanted = {tap: opened.maps[tap] for tap in chosen}
    maps = extract_maps(opened.pixels, wanted, images, settings.config.paths.artifacts / "maps")
    parts = AnswerParts(SCALING, guard, fit_locator(maps, labels, None, SIDE, 0))
    parts.save(place(settings, a.ANSWER))
    parts = AnswerParts.load(place(settings, a.ANSWER))
    model = keras.models.load_model(place(settings, a.TUNED_H5), compile=False)
    export_float32(build_answer_model(model, parts), parts.outputs, place(settings, a.ANSWER_GRAPH))
    rules = VerdictRules(unknown_distance=1.0, review_distance=None, min_confidence=0.5, set_threshold=0.3)
    locator = LocatorCard(kind="labels", threshold=0.5, box_threshold=0.5)
    guard_card = GuardCard(taps=taps, acceptance=0.95)
    leave(settings, a.DECISION, Decision(scaling=SCALING, verdict_rules=rules, locator=locator, guard=guard_card))
    leave(settings, a.EVALUATION, make_evaluation())


@pytest.fixture(scope="module")
def exported(settings: Settings) -> Path:
    """Folder of stage 09."""
    ctx = make_context("09", settings)
    c09_model_export.run(ctx)
    return ctx.out


def test_float32_answers_as_keras_on_every_image(exported: Path) -> None:
    parity = load_bundle(exported / "bundle").card.variants["float32"].parity
    assert parity.ok and parity.images == parity.labels_equal == 3 * (COUNTS["valid"] + COUNTS["test"])
    assert 0 <= parity.max_difference <= 1e-4


def test_bundle_says_what_it_is(exported: Path, settings: Settings) -> None:
    bundle = load_bundle(exported / "bundle")
    assert bundle.classes == CLASSES and bundle.notice == "Drawn."
    assert bundle.card.provenance.manifest_sha256 == sha256_file(place(settings, a.MANIFEST))
    assert bundle.card.input.limits == LIMITS
    assert bundle.card.priors == (0.5, 0.5)
    accuracy = bundle.card.variants["float32"].test_accuracy
    assert accuracy.value == bundle.card.metrics["test"].accuracy.value > 0.9
    assert accuracy.low < accuracy.value and accuracy.n == 3 * COUNTS["test"]


def test_parity_table_has_a_row_per_variant(exported: Path) -> None:
    rows = {row["variant"]: row for row in read_rows(exported / "parity.csv")}
    assert list(rows) == ["keras", "float32", "int8"]
    default = load_bundle(exported / "bundle").card.default
    assert [name for name, row in rows.items() if row["is_default"] == "True"] == [default]
    assert int(rows["int8"]["bytes"]) < int(rows["float32"]["bytes"])
    assert (exported / "variants.png").stat().st_size > 5000


def test_int8_keeps_the_labels(exported: Path) -> None:
    parity = load_bundle(exported / "bundle").card.variants["int8"].parity
    assert parity.labels_equal >= parity.images - 1


def test_int8_is_calibrated_on_as_many_images_as_asked(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def count(source: Path, target: Path, images: np.ndarray) -> None:
        counts.append(len(images))
        raise InterruptedError

    monkeypatch.setattr(c09_model_export, "quantise", count)
    for images in (8, 40):
        other = configure(settings.config.paths.artifacts, f"model_export.calibration_images={images}")
        with pytest.raises(InterruptedError):
            c09_model_export.run(make_context("09", other, tmp_path / str(images)))
    assert counts == [8, 40]


def test_runtimes_agree_on_files(exported: Path) -> None:
    rng = np.random.default_rng(1)
    images = [draw(n % 3, rng) for n in range(12)]
    onnx, keras = (
        list(load(exported / "bundle", variant="float32").predict_many(images)) for load in (Predictor.load, load_keras)
    )
    for one, other in zip(onnx, keras, strict=True):
        assert isinstance(one, Prediction) and one.label == other.label
        assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=1e-4)
        assert one.distance == pytest.approx(other.distance, rel=1e-2)
        assert one.prediction_set == other.prediction_set


def test_heat_map_and_distance_come_with_the_answer(exported: Path) -> None:
    rng = np.random.default_rng(2)
    predictor = Predictor.load(exported / "bundle", variant="float32")
    known, heat_map = predictor.explain(draw(0, rng))
    assert heat_map.ndim == 2 and 0 <= heat_map.min() <= heat_map.max() <= 1
    strange = predictor.predict(np.full((SIDE, SIDE, 3), 7, np.uint8))
    assert strange.verdict == "unknown" and strange.distance > known.distance


def test_same_model_gives_the_same_bytes_in_any_process(settings: Settings, exported: Path, tmp_path: Path) -> None:
    code = (
        "import sys, keras; from pathlib import Path; from metal_defects.models.onnx_export import export_float32;"
        "from metal_defects.trust.answer import load_answer_model;"
        "keras.Sequential([keras.layers.Dense(1) for _ in range(3)]);"
        "export_float32(*load_answer_model(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    target, artifacts = tmp_path / "again.onnx", str(settings.config.paths.artifacts)
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", code, artifacts, str(target)], check=True, env=environment)
    data = target.read_bytes()
    assert hashlib.sha256(data).hexdigest() == sha256_file(exported / "bundle" / "model.onnx")
    assert not any(text in data for text in (b"/tmp", b".py", b"site-packages", artifacts.encode()))


def test_graph_that_differs_is_refused(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    model = keras.models.load_model(place(settings, a.TUNED_H5), compile=False)
    last = model.get_layer("probabilities")
    last.set_weights([-weights for weights in last.get_weights()])
    parts, other = AnswerParts.load(place(settings, a.ANSWER)), tmp_path / "other.onnx"
    export_float32(build_answer_model(model, parts), parts.outputs, other)
    find = c09_model_export.StageContext.path
    swapped = {a.ANSWER_GRAPH: other}
    monkeypatch.setattr(
        c09_model_export.StageContext, "path", lambda ctx, artifact: swapped.get(artifact) or find(ctx, artifact)
    )
    quick = configure(settings.config.paths.artifacts, "model_export.int8=false")
    with pytest.raises(RuntimeError, match="does not answer as tuned_model"):
        c09_model_export.run(make_context("09", quick, tmp_path / "out"))


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in ("vgg16", "resnet50")])
def test_networks_with_random_weights_are_exported(name: str, tmp_path: Path) -> None:
    backbone = BACKBONES[name]
    network = build_backbone(backbone, SIDE, seed=1, weights_file=None)
    features = build_feature_model(backbone, network, backbone.default_taps)
    width = features.output_shape[-1]
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    columns = np.asarray(features(pixels))
    head = build_head(columns.mean(axis=0), columns.var(axis=0) + 1e-3, 5, hidden_units=8, dropout=0.1, l2=0.0)
    assert head.input_shape[-1] == width
    model = assemble(features, head, name)
    export_float32(model, ["probabilities"], tmp_path / "model.onnx")
    infer = open_graph(tmp_path / "model.onnx")
    expected = np.asarray(model(pixels, training=False))
    for batch in (1, 4):
        assert np.allclose(infer(pixels[:batch])["probabilities"], expected[:batch], atol=1e-4)

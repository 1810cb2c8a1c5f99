"""The feature bank: right features, computed once, under a key that changes with everything they depend on."""

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.toy_network import COUNTS, SIDE, TOY, draw_split, write_snapshots

from metal_defects.config import AugmentationParams
from metal_defects.log import logger
from metal_defects.models import feature_bank
from metal_defects.models.augmentation import augment, make_mild
from metal_defects.models.feature_bank import FeatureBank, choose_views, fastest_engine, load_or_extract
from metal_defects.models.networks import build_backbone, build_feature_model
from metal_defects.models.specs import BACKBONES

AUGMENTATION = AugmentationParams(
    flip=True, quarter_turns=True, rotation_degrees=10, shift=0.1, zoom=0.1,
    brightness=0.15, contrast=0.2, blur_sigma=1.0, noise_sigma=8.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_snapshots(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture
def extractions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Extracts with TensorFlow, which starts faster than ONNX Runtime; the names of the banks, as they are made."""
    done: list[str] = []
    extract = feature_bank._extract

    def record(folder: Path, *rest: object) -> None:
        done.append(folder.name)
        extract(folder, *rest)

    def run_model(model, scratch: Path) -> tuple[str, Callable]:
        return "TensorFlow", lambda batch: model(batch, training=False).numpy()

    monkeypatch.setattr(feature_bank, "_extract", record)
    monkeypatch.setattr(feature_bank, "fastest_engine", run_model)
    return done


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.fixture(scope="module")
def filled(snapshots: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the toy bank; not to be changed."""
    store = tmp_path_factory.mktemp("filled") / "store"
    load_toy_bank(store, snapshots)
    return store


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Path:
    """A copy of the filled store."""
    return shutil.copytree(filled, tmp_path / "store")


def load_toy_bank(store: Path, snapshots: Path, **changes: object) -> FeatureBank:
    options = {
        "backbone": TOY,
        "weights_seed": 1,
        "views": ("damage", "mild"),
        "augmentation": AUGMENTATION,
        "seed": 42,
    } | changes
    backbone = options["backbone"]
    network = build_backbone(backbone, SIDE, options["weights_seed"], None)
    return load_or_extract(
        store, snapshots, backbone, network, options["views"], options["augmentation"], options["seed"]
    )


def test_bank_holds_features_of_clean_images_and_of_views(
    filled: Path, snapshots: Path, extractions: list[str]
) -> None:
    bank = load_toy_bank(filled, snapshots)
    assert not extractions
    model = build_feature_model(TOY, build_backbone(TOY, SIDE, 1, None), TOY.taps, "moments+extremes")
    columns = bank.columns(TOY.taps, "moments+extremes")
    assert {split: features.shape for split, features in bank.features.items()} == {
        "train": (3, 9, 40), "valid": (1, 6, 40), "test": (1, 3, 40),
    }  # fmt: skip
    for split in COUNTS:
        assert np.allclose(bank.clean(split, columns), model(draw_split(split)[0]), atol=1e-5)
    images = draw_split("train")[0]
    for number, augmentation in ((1, AUGMENTATION), (2, make_mild(AUGMENTATION))):
        view = np.stack([augment(image, augmentation, (42, number, index)) for index, image in enumerate(images)])
        assert np.allclose(bank.features["train"][number], model(view), atol=1e-4)


def test_columns_and_views_are_cut_out_of_the_bank(filled: Path, snapshots: Path) -> None:
    bank = load_toy_bank(filled, snapshots)
    assert bank.columns(("shallow",)).tolist() == list(range(8))
    assert bank.columns(("deep", "shallow")).tolist() == [*range(16, 28), *range(8)]
    assert bank.columns(("deep",), "moments+extremes").tolist() == list(range(16, 40))
    columns = bank.columns(("deep",))
    for choice, numbers in (("none", [0]), ("damage", [0, 1]), ("mild", [0, 2]), ("all", [0, 1, 2])):
        chosen = bank.select("train", columns, choice)
        assert chosen.shape == (len(numbers), 9, 12)
        for view, number in zip(chosen, numbers, strict=True):
            assert np.array_equal(view, bank.features["train"][number][:, columns])


@pytest.mark.parametrize("pooling", ["moments", "moments+extremes"])
def test_columns_of_a_pooling_are_what_a_network_with_it_gives(pooling: str, filled: Path, snapshots: Path) -> None:
    bank = load_toy_bank(filled, snapshots)
    for taps in (("deep",), ("shallow", "deep")):
        model = build_feature_model(TOY, build_backbone(TOY, SIDE, 1, None), taps, pooling)
        found = bank.clean("valid", bank.columns(taps, pooling))
        assert np.allclose(found, model(draw_split("valid")[0]), atol=1e-5)


def test_second_call_reads_from_disk(tmp_path: Path, snapshots: Path, extractions: list[str]) -> None:
    first = load_toy_bank(tmp_path, snapshots)
    second = load_toy_bank(tmp_path, snapshots)
    assert len(extractions) == 1
    for split in COUNTS:
        assert np.array_equal(first.features[split], second.features[split])
    assert first.meta == second.meta


@pytest.mark.parametrize(
    "change",
    [
        {"weights_seed": 2},
        {"views": ("damage",)},
        {"views": ("mild", "damage")},
        {"seed": 43},
        {"augmentation": AUGMENTATION.model_copy(update={"zoom": 0.2})},
        {"backbone": replace(TOY, taps=("deep",))},
        {"backbone": replace(TOY, scaling=((1.0,) * 3, (0.0,) * 3))},
    ],
    ids=["weights", "fewer views", "order of views", "seed", "augmentation", "taps", "scaling"],
)
def test_key_changes_with(change: dict, store: Path, snapshots: Path, extractions: list[str]) -> None:
    [before] = list_banks(store)
    load_toy_bank(store, snapshots, **change)
    load_toy_bank(store, snapshots)
    assert list_banks(store) == {before, *extractions} and len(extractions) == 1 and before not in extractions


def test_key_changes_with_the_images(store: Path, tmp_path: Path, extractions: list[str]) -> None:
    [before] = list_banks(store)
    load_toy_bank(store, write_snapshots(tmp_path / "others", first_seed=5000))
    assert list_banks(store) == {before, *extractions} and len(extractions) == 1 and before not in extractions


def list_banks(store: Path) -> set[str]:
    return {path.name for path in store.iterdir()}


def test_without_views_seed_and_augmentation_do_not_matter(
    tmp_path: Path, snapshots: Path, extractions: list[str]
) -> None:
    load_toy_bank(tmp_path, snapshots, views=())
    load_toy_bank(tmp_path, snapshots, views=(), seed=7)
    assert len(extractions) == 1


def test_torn_bank_is_computed_again(store: Path, snapshots: Path, extractions: list[str]) -> None:
    whole = load_toy_bank(store, snapshots)
    [folder] = store.iterdir()
    expected = np.array(whole.features["train"])
    (folder / "bank.json").unlink()
    (folder / "train.npy").write_bytes(b"torn")
    again = load_toy_bank(store, snapshots)
    assert extractions == [folder.name]
    assert np.array_equal(again.features["train"], expected)


def test_what_a_killed_extraction_left_does_no_harm(store: Path, snapshots: Path, extractions: list[str]) -> None:
    [folder] = store.iterdir()
    folder.rename(folder.with_name(f".partial-{folder.name}"))
    load_toy_bank(store, snapshots)
    assert list_banks(store) == {folder.name} == set(extractions)


@pytest.mark.parametrize(("worth", "expected"), [(19, "TensorFlow"), (18, "ONNX Runtime")])
def test_a_graph_is_exported_where_there_are_images_enough(
    tmp_path: Path, snapshots: Path, monkeypatch: pytest.MonkeyPatch, worth: int, expected: str
) -> None:
    assert sum(COUNTS.values()) == 18
    monkeypatch.setattr(feature_bank, "WORTH_EXPORTING", worth)
    bank = load_toy_bank(tmp_path, snapshots, views=())
    model = build_feature_model(TOY, build_backbone(TOY, SIDE, 1, None), TOY.taps)
    assert bank.meta["engine"] in (expected, "TensorFlow on GPU")
    assert np.allclose(bank.clean("test", bank.columns(TOY.taps)), model(draw_split("test")[0]), atol=1e-4)


def test_onnx_runtime_computes_what_keras_computes(tmp_path: Path, warnings: list[str]) -> None:
    model = build_feature_model(TOY, build_backbone(TOY, SIDE, 1, None), TOY.taps)
    images = draw_split("train")[0]
    name, run = fastest_engine(model, tmp_path)
    assert name in ("ONNX Runtime", "TensorFlow on GPU")
    for batch in (images, images[:1]):
        assert np.allclose(run(batch), model(batch, training=False), atol=1e-4)
    assert not list(tmp_path.iterdir())
    assert not warnings


def test_engine_that_computes_something_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    import onnxruntime

    class Wrong(onnxruntime.InferenceSession):
        def run(self, *arguments: object) -> list[np.ndarray]:
            return [1.01 * values for values in super().run(*arguments)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    model = build_feature_model(TOY, build_backbone(TOY, SIDE, 1, None), TOY.taps)
    name, run = fastest_engine(model, tmp_path)
    images = draw_split("train")[0]
    assert name == "TensorFlow"
    assert np.allclose(run(images), model(images, training=False), atol=1e-5)
    assert "using TensorFlow" in warnings[0]


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("vgg16", ("damage", "mild"), ()),
        ("resnet50", ("damage", "mild"), ("damage",)),
        ("resnet50", ("mild", "damage"), ("mild",)),
        ("resnet18", ("damage", "mild"), ("damage", "mild")),
        ("mobilenet_v2", ("damage",) * 20, ("damage",) * 13),
        ("efficientnet_lite0", (), ()),
    ],
)
def test_costly_backbones_get_the_first_views_alone(name: str, asked: tuple, expected: tuple) -> None:
    assert choose_views(BACKBONES[name], asked, max_gmacs=4.0) == expected

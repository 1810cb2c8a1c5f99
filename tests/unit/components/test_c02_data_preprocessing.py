"""Stage 02 on a tiny generated set: what it writes, under which names, and when it stops."""

import hashlib
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import PROJECT
from support.stages import leave, leave_rows, make_context
from support.workshop import read_rows

from metal_defects.artifacts import MANIFEST, SOURCE
from metal_defects.components.c02_data_preprocessing import choose_targets, make_safe_name, run
from metal_defects.config import Settings, load_settings
from metal_defects.data.imaging import resize_image
from metal_defects.data.manifest import ManifestRow, SourceCard
from metal_defects.errors import DataError
from metal_defects.files import sha256_file
from metal_defects.plots.data import MAX_CLASSES_SHOWN, ClassStatistics, describe, write_exploratory_plots

PLOTS = {"class_counts.png", "sample_images.png", "intensity_histograms.png", "mean_images.png"}


def ingest(folder: Path, classes: tuple[str, ...]) -> Settings:
    """A finished stage 01 with six images per class: grey PNGs, colour JPEGs in between, 40x50 pixels."""
    data, rng, rows = folder / "data", np.random.default_rng(5), []
    for index, name in enumerate(classes):
        for number, split in enumerate(["train"] * 4 + ["valid", "test"]):
            path = data / f"c{index}" / f"{number}.{'jpg' if number % 2 else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (40, 50, 3) if number % 2 else (40, 50)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
            place, digest = path.relative_to(data).as_posix(), sha256_file(path)
            row = {"path": place, "label": name, "split": split, "sha256": digest, "group": place}
            rows.append(ManifestRow(**row, width=50, height=40, boxes=()))
    settings = configure(folder)
    origin = {"kind": "path", "root": str(data), "layout": "class", "notice": None, "attempts": ()}
    leave(settings, SOURCE, SourceCard(**origin, classes=classes))
    leave_rows(settings, MANIFEST, sorted(rows, key=lambda row: row.path))
    return settings


def configure(folder: Path, *overrides: str) -> Settings:
    where = f"paths.artifacts={folder / 'artifacts'}"
    return load_settings(
        PROJECT,
        [where, "data_preprocessing.image_size=64", "data_preprocessing.fit=stretch", *overrides],
        environment={},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds data/ and artifacts/ of finished stages 01 and 02."""
    folder = tmp_path_factory.mktemp("c02")
    run(make_context("02", ingest(folder, ("Crazing", "Rolled in/scale", "Ölfleck"))))
    return folder


@pytest.fixture(scope="module")
def out(folder: Path) -> Path:
    return folder / "artifacts" / "02_data_preprocessing"


def test_table_names_every_image_in_the_order_of_the_manifest(folder: Path, out: Path) -> None:
    table = read_rows(out / "images.csv")
    manifest = read_rows(folder / "artifacts" / MANIFEST.name)
    assert list(table[0]) == ["path", "label", "split", "sha256", "source", "group"]
    assert [(row["source"], row["label"], row["split"]) for row in table] == [
        (row["path"], row["label"], row["split"]) for row in manifest
    ]
    assert table[0]["path"] == "resized_images_64/train/Crazing/0.png"
    assert "resized_images_64/test/Rolled in_scale/5.png" in {row["path"] for row in table}
    on_disk = {path.relative_to(out).as_posix() for path in out.glob("resized_images_64/**/*.png")}
    assert on_disk == {row["path"] for row in table}
    assert b"\r" not in (out / "images.csv").read_bytes()


def test_pixels_are_what_the_stored_preprocessor_makes_of_the_source(folder: Path, out: Path) -> None:
    preprocess = joblib.load(out / "pre_processor.joblib")
    for row in read_rows(out / "images.csv"):
        with Image.open(out / row["path"]) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))
            pixels = np.asarray(image)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["sha256"]
        source = folder / "data" / row["source"]
        assert np.array_equal(pixels, preprocess(source))
        with Image.open(source) as original:
            assert np.array_equal(pixels, resize_image(np.asarray(original.convert("RGB")), 64, "bilinear"))


def test_plots_are_written(out: Path) -> None:
    assert {path.name for path in (out / "plots").iterdir()} == PLOTS
    for path in (out / "plots").iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 200 and np.asarray(image.convert("L")).std() > 5
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_again_gives_the_same_bytes(folder: Path, out: Path, tmp_path: Path) -> None:
    run(make_context("02", configure(folder), tmp_path / "again"))
    for path in sorted(out.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(out)).read_bytes(), path.name


def test_a_source_that_changed_vanished_or_broke_stops_the_stage(tmp_path: Path) -> None:
    ctx = make_context("02", ingest(tmp_path, ("A", "B")))
    victim = tmp_path / "data" / "c1" / "3.jpg"
    original = victim.read_bytes()
    victim.write_bytes(original + b"\0")
    with pytest.raises(DataError, match=r"3\.jpg changed since ingestion.*--from 01"):
        run(ctx)
    victim.unlink()
    with pytest.raises(DataError, match=r"since ingestion.*3\.jpg"):
        run(ctx)
    victim.write_bytes(original)
    with pytest.raises(DataError, match=r"not usable any more.*50x40"):
        run(make_context("02", configure(tmp_path, "image.max_side=49")))
    assert not (ctx.out / "images.csv").exists()


@given(st.text(max_size=80))
def test_safe_names_are_valid_everywhere_and_stable(text: str) -> None:
    name = make_safe_name(text)
    assert name and len(name.encode()) <= 220
    assert not set(name) & set('<>:"/\\|?*\0\n\r\t')
    assert not name.startswith((" ", ".")) and not name.endswith((" ", "."))
    assert make_safe_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CON", "_CON"), ("a/b:c", "a_b_c"), ("..", "_"), ("", "_"), ("Lpt1.x", "_Lpt1.x"), ("Öl", "Öl"),
        ("nul." + 60 * "x", "_nul." + 45 * "x"),
    ],
)  # fmt: skip
def test_safe_names_of_awkward_texts(text: str, name: str) -> None:
    assert make_safe_name(text) == name


@given(
    st.lists(
        st.tuples(st.sampled_from(["a/1.png", "a/1.jpg", "b/1.png", "b/A.png", "a/a.png", "x:y/1.png", "x?y/1.bmp"]),
                  st.sampled_from(["p/q", "p:q", "P:Q"]), st.sampled_from(["train", "test"])),
        unique=True, max_size=20,
    )
)  # fmt: skip
def test_targets_never_collide_even_where_case_does_not_count(items: list[tuple[str, str, str]]) -> None:
    known = {"sha256": "", "group": "", "width": 1, "height": 1, "boxes": ()}
    rows = [ManifestRow(path=path, label=label, split=split, **known) for path, label, split in items]
    targets = choose_targets(rows, ["p/q", "p:q", "P:Q"], "images")
    assert len({target.casefold() for target in targets}) == len(rows)
    assert targets == choose_targets(rows, ["p/q", "p:q", "P:Q"], "images")
    folders = {target.split("/")[2]: row.label for target, row in zip(targets, rows, strict=True)}
    assert all(folders[target.split("/")[2]] == row.label for target, row in zip(targets, rows, strict=True))


@pytest.mark.parametrize("classes", [2, MAX_CLASSES_SHOWN, 120])
def test_plots_of_few_and_of_many_classes_stay_readable(tmp_path: Path, classes: int) -> None:
    path = tmp_path / "image.png"
    image = np.full((64, 64, 3), 90, np.uint8)
    Image.fromarray(image).save(path)
    statistics = {f"class ${number} with a long, long name": ClassStatistics() for number in range(classes)}
    for number, statistic in enumerate(statistics.values()):
        for _ in range(1 + number % 3):
            statistic.add("train", path, describe(image))
        statistic.add("test", path, describe(image))
    write_exploratory_plots(tmp_path / "plots", statistics)
    for plot in PLOTS:
        with Image.open(tmp_path / "plots" / plot) as drawn:
            assert 300 < drawn.width < 2200 and 200 < drawn.height < 2600


def test_only_training_images_enter_the_statistics() -> None:
    statistic = ClassStatistics()
    dark, light = np.full((64, 64, 3), 20, np.uint8), np.full((64, 64, 3), 250, np.uint8)
    statistic.add("train", Path("a"), describe(dark))
    statistic.add("test", Path("b"), describe(light))
    assert statistic.counts == {"train": 1, "test": 1} and statistic.files == [Path("a")]
    assert (statistic.mean_image == 20).all()
    assert statistic.intensity_share[5] == 100 and statistic.intensity_share.sum() == 100

"""Stage 01 as a whole, on tiny generated folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from support import PROJECT
from support.stages import make_context
from support.workshop import read_rows

from metal_defects.components.c01_data_ingestion import run
from metal_defects.config import load_settings
from metal_defects.data.annotations import choose_annotation, read_boxes
from metal_defects.data.manifest import NamedBox
from metal_defects.errors import ConfigError, DataError
from metal_defects.files import read_json, sha256_file

FILES = (
    "manifest.csv",
    "quarantine.csv",
    "source.json",
    "validation_report.json",
    "overlaps.csv",
    "plots/overlaps.png",
)


def draw(path: Path, seed: int, side: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side), np.uint8)
    Image.fromarray(pixels).save(path)


def draw_set(root: Path, counts: dict[str, int], split: str = "", first_seed: int = 0) -> Path:
    for index, (label, count) in enumerate(counts.items()):
        for number in range(count):
            draw(root / split / label / f"{number:03}.png", first_seed + 1000 * index + number)
    return root


def ingest(data: Path, out: Path, *overrides: str) -> Path:
    folders = [f"paths.{name}={out.parent / name}" for name in ("artifacts", "downloads")]
    settings = load_settings(PROJECT, ["classes=auto", *folders, *overrides, f"data.path={data}"], environment={})
    run(make_context("01", settings, out))
    return out


def read_check(out: Path, name: str) -> dict[str, Any]:
    return read_json(out / "validation_report.json")[name]


def test_manifest_and_report(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {"dent": 20, "weld": 10})
    shutil.copy(data / "dent/003.png", data / "dent/copy.png")
    out = ingest(data, tmp_path / "out")
    rows = read_rows(out / "manifest.csv")
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == sorted(FILES)
    assert list(rows[0]) == ["path", "label", "split", "sha256", "group", "width", "height", "boxes"]
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == 31
    by_path = {row["path"]: row for row in rows}
    original, copy = by_path["dent/003.png"], by_path["dent/copy.png"]
    assert copy["group"] == original["group"] == "dent/003.png"
    assert copy["split"] == original["split"]
    assert copy["sha256"] == sha256_file(data / "dent/copy.png")
    assert (copy["width"], copy["height"], copy["boxes"]) == ("40", "40", "[]")
    assert read_rows(out / "quarantine.csv") == []
    source = read_json(out / "source.json")
    assert source["root"] == str(data)
    assert (source["kind"], source["layout"], source["classes"]) == ("path", "class", ["dent", "weld"])
    assert (read_check(out, "balance")["status"], read_check(out, "balance")["ratio"]) == ("warn", 2.1)
    assert read_check(out, "copies")["groups"] == [["dent/003.png", "dent/copy.png"]]
    assert read_check(out, "split")["counts"]["test"] == {"dent": 3, "weld": 2}


def test_same_input_same_bytes(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {"dent": 12, "weld": 12})
    (data / "dent/bad.png").write_bytes(b"no image")
    first = ingest(data, tmp_path / "one", "data_ingestion.max_quarantined_share=0.1")
    second = ingest(data, tmp_path / "two", "data_ingestion.max_quarantined_share=0.1")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_unusable_files_are_quarantined_with_the_reason(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {"dent": 12, "weld": 12})
    good = (data / "dent/001.png").read_bytes()
    draw(data / "dent/small.png", 1, side=8)
    draw(data / "dent/page.ppm", 1)
    broken = {
        "dent/cut.png": good[: len(good) // 2],
        "dent/empty.png": b"",
        "dent/text.png": b"no image at all",
        "dent/program.exe": b"MZ" + bytes(100),
    }
    for name, content in broken.items():
        (data / name).write_bytes(content)
    (data / "dent/notes.txt").write_text("not counted")
    shutil.copy(data / "dent/002.png", data / "preview.png")
    out = ingest(data, tmp_path / "out", "data_ingestion.max_quarantined_share=0.3")
    rows = read_rows(out / "quarantine.csv")
    assert {row["path"]: row["reason"] for row in rows} == {
        "dent/cut.png": "truncated",
        "dent/empty.png": "empty",
        "dent/page.ppm": "format",
        "dent/program.exe": "not_an_image",
        "dent/small.png": "too_small",
        "dent/text.png": "not_an_image",
        "preview.png": "unknown_class",
    }
    assert all(row["detail"] for row in rows)
    assert read_check(out, "quarantine")["quarantined"] == 7
    assert len(read_rows(out / "manifest.csv")) == 24


def test_too_many_unusable_files_stop_the_stage(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {"dent": 9, "weld": 9})
    for number in range(2):
        (data / f"dent/bad{number}.png").touch()
    with pytest.raises(DataError, match=r"2 of 20 files \(10\.0 %\).*\(5\.0 %\).*dent/bad0\.png \(empty\)"):
        ingest(data, tmp_path / "out")


def test_given_split_with_copies_across_it(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {"dent": 10, "weld": 10}, "train")
    draw_set(data, {"dent": 3, "weld": 3}, "validation", first_seed=500)
    shutil.copy(data / "validation/dent/000.png", data / "train/dent/leak.png")
    out = ingest(data, tmp_path / "out")
    assert [(row["path"], row["reason"]) for row in read_rows(out / "quarantine.csv")] == [
        ("train/dent/leak.png", "copy_in_test")
    ]
    split = read_check(out, "split")
    assert split["counts"] == {
        "train": {"dent": 9, "weld": 9},
        "valid": {"dent": 1, "weld": 1},
        "test": {"dent": 3, "weld": 3},
    }
    assert split["status"] == "warn"
    assert any("became the TEST split" in note for note in split["notes"])


def test_image_under_two_labels_is_reported(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {"dent": 10, "weld": 10})
    shutil.copy(data / "dent/000.png", data / "weld/same.png")
    check = read_check(ingest(data, tmp_path / "out"), "labels")
    assert check["status"] == "warn"
    assert check["disputed"] == [{"dent/000.png": "dent", "weld/same.png": "weld"}]


def test_too_small_class_is_named(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {"dent": 10, "weld": 2})
    with pytest.raises(DataError, match=r"Got: 'weld' has \d train images, 2 are needed"):
        ingest(data, tmp_path / "out")


def test_class_without_images_is_named(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {"dent": 10, "weld": 10})
    with pytest.raises(DataError, match="'rust' has 0 train images"):
        ingest(data, tmp_path / "out", "classes={dent: [], weld: [], rust: []}")


def test_hundreds_of_classes(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {f"class {index}": 4 for index in range(120)})
    out = ingest(data, tmp_path / "out", "data_ingestion.duplicates=exact")
    assert len(read_json(out / "source.json")["classes"]) == 120
    assert len(read_rows(out / "manifest.csv")) == 480


def test_unused_images_are_listed(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {"dent": 10, "weld": 14})
    out = ingest(data, tmp_path / "out", "data_ingestion.split={train: 7, valid: 1, test: 2}")
    assert len(read_rows(out / "manifest.csv")) == 20
    assert [row["reason"] for row in read_rows(out / "quarantine.csv")] == ["unused"] * 4
    assert read_check(out, "split")["unused"] == 4


# --- boxes -----------------------------------------------------------------------------------

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def dent(left: int, top: int, right: int, bottom: int) -> NamedBox:
    return NamedBox(left=left, top=top, right=right, bottom=bottom, label="dent")


def voc(*objects: tuple[str, object, object, object, object], size: str = "") -> str:
    return f"<annotation>{size}{''.join(OBJECT.format(*values) for values in objects)}</annotation>"


def test_boxes_reach_the_manifest_and_the_report(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for index, label in enumerate(("dent", "weld")):
        for number in range(8):
            draw(data / "IMAGES" / f"{label}_{number}.png", 100 * index + number)
    notes = data / "ANNOTATIONS"
    notes.mkdir()
    (notes / "dent_0.xml").write_text(voc(("Dent", 1, 1, 40, 20), ("weld", 5, 5, 10, 10)))
    (notes / "dent_1.xml").write_text(voc(("rust", 1, 1, 2, 2)))
    out = ingest(data, tmp_path / "out")
    boxes = {row["path"]: json.loads(row["boxes"]) for row in read_rows(out / "manifest.csv")}
    assert boxes["IMAGES/dent_0.png"] == [
        {"left": 0, "top": 0, "right": 40, "bottom": 20, "label": "dent"},
        {"left": 4, "top": 4, "right": 10, "bottom": 10, "label": "weld"},
    ]
    assert boxes["IMAGES/dent_1.png"] == []
    check = read_check(out, "boxes")
    assert (check["boxes"], check["boxes_of_another_class"]) == (2, 1)
    assert check["images_with_another_class"] == ["IMAGES/dent_0.png"]
    assert check["unusable_boxes"] == ["dent_1.xml: a box of an unknown class 'rust'"]
    assert (check["images_with_annotation"], check["images_without"]) == (2, 14)


@pytest.mark.parametrize(
    ("text", "expected", "problem"),
    [
        (voc(("dent", -5, 3.4, 900, 12)), (dent(0, 2, 40, 12),), None),
        (voc(("dent", 40, 40, 40, 40)), (dent(39, 39, 40, 40),), None),
        (voc(("dent", 50, 1, 60, 9)), (), "without area"),
        (voc(("dent", 9, 1, 3, 9)), (), "without area"),
        (voc(("dent", "x", 1, 3, 9)), (), "not numbers"),
        (voc(("dent", "nan", 1, 3, 9)), (), "not numbers"),
        (voc(("dent", "inf", 1, 3, 9)), (), "not numbers"),
        ("<annotation><object><name>dent</name></object></annotation>", (), "not numbers"),
        (voc(("dent", 1, 1, 2, 2), size="<size><width>80</width><height>40</height></size>"), (), "made for 80x40"),
        (voc(("dent", 1, 1, 2, 2), size="<size><width>0</width></size>"), (dent(0, 0, 2, 2),), None),
        ("<annotation><object>", (), "no element|unclosed|not well-formed"),
        ("", (), "no element"),
        ("<!DOCTYPE a [<!ENTITY b 'dent'>]><annotation>&b;</annotation>", (), "document type"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_reading_boxes(
    tmp_path: Path, text: str, expected: tuple[NamedBox, ...], problem: str | None, encoding: str
) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text, encoding=encoding)
    found = read_boxes(path, 40, 40, {"dent": "dent"})
    assert found.boxes == expected
    if problem is None:
        assert found.problems == ()
    else:
        assert len(found.problems) == 1
        assert any(part in found.problems[0] for part in problem.split("|"))


def test_annotation_of_the_same_folder_is_chosen() -> None:
    candidates = ("test/annotations/1.xml", "train/annotations/1.xml")
    assert choose_annotation("train/images/dent/1.png", candidates) == "train/annotations/1.xml"
    assert choose_annotation("test/images/dent/1.png", candidates) == "test/annotations/1.xml"
    assert choose_annotation("x/1.png", ()) is None


def draw_crops(folder: Path, count: int, step: int, sheet: int) -> None:
    """Crops of one rough sheet, each `step` pixels further."""
    noise = gaussian_filter(np.random.default_rng(sheet).standard_normal((100, 100 + step * count)), 2)
    pixels = np.clip(128 + 30 * noise / noise.std(), 0, 255).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(pixels[:, number * step : number * step + 100]).save(folder / f"{sheet}_{number}.png")


def test_overlapping_crops_stay_on_one_side(tmp_path: Path) -> None:
    for sheet in range(5):
        draw_crops(tmp_path / "data/dent", 4, 40, sheet)
        draw_crops(tmp_path / "data/weld", 4, 40, 10 + sheet)
    out = ingest(tmp_path / "data", tmp_path / "out")
    sides: dict[str, set[str]] = {}
    for row in read_rows(out / "manifest.csv"):
        assert row["group"] == f"{row['label']}/{Path(row['path']).stem.split('_')[0]}_0.png"
        sides.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in sides.values())
    check = read_check(out, "overlaps")
    assert (check["shared"], check["pieces"], check["largest"]) == (
        40, {"dent": 5, "weld": 5}, {"dent": 4, "weld": 4}
    )  # fmt: skip
    first = read_rows(out / "overlaps.csv")[0]
    assert (first["first"], first["second"], first["turn"]) == ("dent/0_0.png", "dent/0_1.png", "0")
    assert (float(first["down"]), float(first["across"])) == pytest.approx((0, 40), abs=1)
    assert read_check(out, "copies")["groups"] == []
    near = ingest(tmp_path / "data", tmp_path / "near", "data_ingestion.duplicates=near")
    assert {row["group"] for row in read_rows(near / "manifest.csv")} == {
        row["path"] for row in read_rows(near / "manifest.csv")
    }
    assert "Overlaps were not looked for" in read_check(near, "overlaps")["message"]


def test_a_class_of_one_piece_is_divided_all_the_same_and_loudly(tmp_path: Path) -> None:
    draw_crops(tmp_path / "data/dent", 12, 30, 0)
    draw_set(tmp_path / "data", {"weld": 12})
    out = ingest(tmp_path / "data", tmp_path / "out")
    check = read_check(out, "overlaps")
    assert (check["status"], check["loosened"], check["pieces"]["dent"]) == ("warn", ["dent"], 1)
    assert "dent: too few pieces to divide" in check["message"]
    rows = [row for row in read_rows(out / "manifest.csv") if row["label"] == "dent"]
    assert {row["split"] for row in rows} == {"train", "valid", "test"}
    assert len({row["group"] for row in rows}) == 12


def test_names_tell_the_plate(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data", {"dent": 20, "weld": 20})
    out = ingest(data, tmp_path / "out", r"data_ingestion.group_by=(0[01][0-9])\.png")
    rows = read_rows(out / "manifest.csv")
    assert {(row["group"], Path(row["path"]).stem) for row in rows} == {
        (f"dent/{number:03}.png", f"{number:03}") for number in range(20)
    }
    partly = ingest(data, tmp_path / "partly", r"data_ingestion.group_by=(00[0-9])\.png")
    check = read_check(partly, "overlaps")
    assert (check["status"], check["unnamed"]) == ("warn", 20)
    assert "20 images do not match data_ingestion.group_by '(00[0-9])\\.png'" in check["message"]
    with pytest.raises(DataError, match="group_by matches none of the 40 images"):
        ingest(data, tmp_path / "none", "data_ingestion.group_by=plate")
    with pytest.raises(ConfigError, match=r"data_ingestion\.group_by': must be a regular expression"):
        ingest(data, tmp_path / "bad", "data_ingestion.group_by='(['")

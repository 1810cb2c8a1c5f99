"""Layouts: four arrangements of folders, and the files that are no images. No image is opened here."""

from pathlib import Path

import pytest
from support import PROJECT

from metal_defects.config import DataSchema, load_settings
from metal_defects.data.layouts import name_of, read_image_set
from metal_defects.errors import DataError

SCHEMA = load_settings(PROJECT, environment={}).data_schema
AUTO = SCHEMA.model_copy(update={"classes": "auto"})


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


LAYOUTS = {
    "split/class": (
        "train/Crazing/Cr_1.bmp",
        "train/Rolled/RS_1.bmp",
        "valid/Crazing/Cr_2.bmp",
        "test/Rolled/RS_2.bmp",
    ),
    "class": ("Crazing/1.png", "rolled-in_scale/2.png", "PS/3.png"),
    "split/images/class": (
        "train/images/crazing/crazing_1.jpg",
        "train/images/pitted_surface/pitted_surface_1.jpg",
        "train/annotations/crazing_1.xml",
        "validation/images/crazing/crazing_2.jpg",
        "validation/annotations/crazing_2.xml",
    ),
    "flat": ("IMAGES/crazing_1.jpg", "IMAGES/rolled-in_scale_12.jpg", "ANNOTATIONS/crazing_1.xml"),
    "split/flat": ("train/images/crazing_1.jpg", "val/images/patches_2.jpg"),
}
EXPECTED = {
    "split/class": [
        ("test/Rolled/RS_2.bmp", "Rolled", "test"),
        ("train/Crazing/Cr_1.bmp", "Crazing", "train"),
        ("train/Rolled/RS_1.bmp", "Rolled", "train"),
        ("valid/Crazing/Cr_2.bmp", "Crazing", "valid"),
    ],
    "class": [
        ("Crazing/1.png", "Crazing", None),
        ("PS/3.png", "Pitted", None),
        ("rolled-in_scale/2.png", "Rolled", None),
    ],
    "split/images/class": [
        ("train/images/crazing/crazing_1.jpg", "Crazing", "train"),
        ("train/images/pitted_surface/pitted_surface_1.jpg", "Pitted", "train"),
        ("validation/images/crazing/crazing_2.jpg", "Crazing", "valid"),
    ],
    "flat": [("IMAGES/crazing_1.jpg", "Crazing", None), ("IMAGES/rolled-in_scale_12.jpg", "Rolled", None)],
    "split/flat": [
        ("train/images/crazing_1.jpg", "Crazing", "train"),
        ("val/images/patches_2.jpg", "Patches", "valid"),
    ],
}


@pytest.mark.parametrize("nesting", ["", "archive", "archive/NEU data"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_recognises_layout_at_any_depth(tmp_path: Path, layout: str, nesting: str) -> None:
    root = touch(tmp_path / nesting, *LAYOUTS[layout])
    found = read_image_set(tmp_path, SCHEMA)
    assert (found.layout, found.root) == (layout, root)
    assert [(file.path, file.label, file.split) for file in found.files] == EXPECTED[layout]
    assert found.rejected == ()
    assert found.classes == tuple(SCHEMA.classes)


def test_too_deep_is_not_searched(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "b" / "c", *LAYOUTS["class"])
    with pytest.raises(DataError, match="no image set"):
        read_image_set(tmp_path, SCHEMA)


@pytest.mark.parametrize("spelling", ["rolled-in_scale", "Rolled-In Scale", "ROLLED IN SCALE", "rs", "Rolled", "RS_"])
def test_class_spellings(tmp_path: Path, spelling: str) -> None:
    found = read_image_set(touch(tmp_path, f"{spelling}/1.png", "Cr/1.png"), SCHEMA)
    assert {file.label for file in found.files} == {"Rolled", "Crazing"}


def test_images_folder_of_class_folders_and_reversed_split(tmp_path: Path) -> None:
    found = read_image_set(touch(tmp_path / "a", "images/Cr/1.png", "images/In/1.png"), SCHEMA)
    assert (found.layout, [file.split for file in found.files]) == ("class", [None, None])
    found = read_image_set(touch(tmp_path / "b", "images/train/Cr/1.png", "images/test/Cr/2.png"), SCHEMA)
    assert [(file.label, file.split) for file in found.files] == [("Crazing", "test"), ("Crazing", "train")]


def test_auto_classes_take_folder_names(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(300)]
    found = read_image_set(touch(tmp_path, *(f"{name}/x.png" for name in names)), AUTO)
    assert found.classes == tuple(sorted(names))
    assert len(found.files) == 300


def test_auto_classes_take_flat_prefixes(tmp_path: Path) -> None:
    found = read_image_set(touch(tmp_path, "dent_1.png", "deep-dent_1.png", "type2_10.png", "weld(3).png"), AUTO)
    assert found.classes == ("deep-dent", "dent", "type2", "weld")


def test_auto_spellings_of_one_class_are_one_class(tmp_path: Path) -> None:
    found = read_image_set(touch(tmp_path, "train/Red Iron/1.png", "train/ash/1.png", "test/red_iron/2.png"), AUTO)
    assert found.classes == ("Red Iron", "ash")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/Cr_1.bmp", "Cr"),
        ("rolled-in_scale_12.jpg", "rolled-in_scale"),
        ("PS (3).png", "PS"),
        ("img7.png", "img"),
        ("type1_12.png", "type1"),
        ("3070.jpg", None),
        ("plain.png", None),
        ("2024-05-03.png", None),
    ],
)
def test_class_part_of_a_file_name(name: str, expected: str | None) -> None:
    assert name_of(name) == expected


def test_documents_and_hidden_files_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path, *LAYOUTS["class"])
    touch(
        tmp_path,
        "README.md",
        "Crazing/Thumbs.db",
        "Crazing/.DS_Store",
        "Crazing/notes.txt",
        "Crazing/labels.csv",
        ".git/x.png",
        "__MACOSX/Crazing/1.png",
        "annotations/1.png",
        "LICENSE",
    )
    found = read_image_set(tmp_path, SCHEMA)
    assert len(found.files) == 3
    assert found.rejected == ()


def test_strange_suffix_in_a_class_folder_is_listed_for_the_decoder(tmp_path: Path) -> None:
    found = read_image_set(touch(tmp_path, *LAYOUTS["class"], "Crazing/2.dat"), SCHEMA)
    assert "Crazing/2.dat" in [file.path for file in found.files]


def test_unknown_class_and_missing_split_are_rejected_with_the_reason(tmp_path: Path) -> None:
    touch(tmp_path, *LAYOUTS["split/class"], "train/Rust/1.png", "spare/Crazing/1.png", "preview.png")
    found = read_image_set(tmp_path, SCHEMA)
    assert [(item.path, item.reason) for item in found.rejected] == [
        ("preview.png", "no_split"),
        ("spare/Crazing/1.png", "no_split"),
        ("train/Rust/1.png", "unknown_class"),
    ]


def test_unprintable_names_are_rejected(tmp_path: Path) -> None:
    found = read_image_set(touch(tmp_path, *LAYOUTS["class"], "Crazing/a\nb.png"), SCHEMA)
    assert [(item.path, item.reason) for item in found.rejected] == [("Crazing/a\\nb.png", "bad_name")]


def test_annotations_are_indexed_by_stem(tmp_path: Path) -> None:
    found = read_image_set(touch(tmp_path, *LAYOUTS["split/images/class"]), SCHEMA)
    assert found.annotations["crazing_2"] == ("validation/annotations/crazing_2.xml",)


def test_linked_class_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "real", "1.png")
    touch(tmp_path / "set", "Crazing/1.png")
    (tmp_path / "set" / "Rolled").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "set")
    found = read_image_set(tmp_path / "set", SCHEMA)
    assert [file.path for file in found.files] == ["Crazing/1.png", "Rolled/1.png"]


def test_no_image_set(tmp_path: Path) -> None:
    touch(tmp_path, "docs/readme.txt", "notes.txt")
    with pytest.raises(DataError, match="no image set"):
        read_image_set(tmp_path, SCHEMA)


def test_classes_that_the_schema_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes: auto.*Got rust, weld instead"):
        read_image_set(touch(tmp_path, "rust/1.png", "weld/1.png"), SCHEMA)


def test_several_sets_side_by_side(tmp_path: Path) -> None:
    touch(tmp_path / "a", *LAYOUTS["class"])
    touch(tmp_path / "b", *LAYOUTS["flat"])
    with pytest.raises(DataError, match=r"Several image sets.*Got a, b"):
        read_image_set(tmp_path, SCHEMA)


def test_own_classes(tmp_path: Path) -> None:
    schema = DataSchema(classes={"Weld": ("w",), "Dent": ()}, image=SCHEMA.image, split=SCHEMA.split)
    found = read_image_set(touch(tmp_path, "W/1.png", "dent/1.png"), schema)
    assert found.classes == ("Weld", "Dent")
    assert {file.label for file in found.files} == {"Weld", "Dent"}

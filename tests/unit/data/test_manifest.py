"""What stages 01 and 02 write about the images, there and back."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metal_defects.data.manifest import LeftOut, ManifestRow, NamedBox
from metal_defects.errors import DataError
from metal_defects.records import read_rows, write_rows

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)
SIDE = st.integers(1, 4000)
BOXES = st.lists(st.builds(NamedBox, left=SIDE, top=SIDE, right=SIDE, bottom=SIDE, label=TEXT), max_size=3)
ROWS = st.builds(
    ManifestRow,
    path=TEXT,
    label=TEXT,
    split=st.sampled_from(["train", "valid", "test"]),
    sha256=TEXT,
    group=TEXT,
    width=SIDE,
    height=SIDE,
    boxes=BOXES.map(tuple),
)


@given(rows=st.lists(ROWS, max_size=4))
def test_rows_come_back_as_they_went(rows: list[ManifestRow], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rows") / "manifest.csv"
    write_rows(path, ManifestRow, rows)
    assert read_rows(path, ManifestRow) == rows
    assert b"\r\n" not in path.read_bytes()


def test_boxes_come_as_shares_with_their_classes() -> None:
    box = NamedBox(left=50, top=25, right=100, bottom=100, label="Scratches")
    names = {"path": "a.jpg", "label": "Patches", "split": "train", "sha256": "", "group": ""}
    row = ManifestRow(**names, width=200, height=100, boxes=(box, box))
    assert row.box_shares.tolist() == [[0.25, 0.25, 0.5, 1.0]] * 2
    assert row.other_labels == ("Scratches",)
    none = row.model_copy(update={"boxes": ()})
    assert none.box_shares.shape == (0, 4)
    assert none.other_labels == ()


def test_table_of_another_kind_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "01_data_ingestion" / "quarantine.csv"
    write_rows(path, LeftOut, [LeftOut(path="a.png", reason="empty", detail="")])
    with pytest.raises(DataError, match=r"quarantine\.csv is damaged or of another version; run again with --from 01"):
        read_rows(path, ManifestRow)

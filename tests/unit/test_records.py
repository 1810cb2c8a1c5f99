"""Typed files: there and back, and one sentence where they are not what they should be."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from metal_defects.errors import DataError
from metal_defects.records import Record, read_record, write_record, write_table


class Plate(Record):
    """A record with a field of every kind that artifacts have."""

    name: str
    sides: tuple[float, ...]
    notes: dict[str, int | None]


PLATES = st.builds(
    Plate,
    name=st.text(max_size=8),
    sides=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3).map(tuple),
    notes=st.dictionaries(st.text(max_size=4), st.none() | st.integers(-9, 9), max_size=3),
)


@given(plate=PLATES)
def test_record_comes_back_as_it_went(plate: Plate, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("records") / "plate.json"
    write_record(path, plate)
    assert read_record(path, Plate) == plate


def test_record_does_not_change_and_knows_its_fields() -> None:
    plate = Plate(name="a", sides=(1.0,), notes={})
    with pytest.raises(ValidationError):
        plate.name = "b"
    with pytest.raises(ValidationError):
        Plate(name="a", sides=(), notes={}, colour="red")


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_record(tmp_path / "plate.json", Plate(name="a", sides=(float("nan"),), notes={}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "a"}', '{"name": "a", "sides": [], "notes": {}, "x": 1}'])
def test_damaged_record_is_told_in_one_sentence(content: str, tmp_path: Path) -> None:
    path = tmp_path / "07_hyperparameter_tuning" / "metrics.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(DataError, match=r"metrics\.json is damaged or of another version; run again with --from 07"):
        read_record(path, Plate)


def test_table_has_one_kind_of_line_end(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ("a", "b"), [(1, "x,y"), (2.5, "")])
    assert (tmp_path / "t.csv").read_bytes() == b'a,b\n1,"x,y"\n2.5,\n'

"""Files are complete or absent, and digests depend on content alone."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metal_defects.files import atomic_folder, atomic_path, read_json, sha256_file, sha256_json, write_json, write_text

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "model.h5"
    with atomic_path(target) as partial:
        partial.write_text("half")
        assert not target.exists()
        assert partial.parent == target.parent
        assert partial.suffix == ".h5"
        assert partial.name.startswith(".partial-")
    assert target.read_text() == "half"
    assert target.stat().st_mode & 0o777 == 0o644
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(28, "No space left on device")])
def test_error_leaves_nothing_behind_and_the_old_file_alone(
    error: type[BaseException] | BaseException, tmp_path: Path
) -> None:
    target = tmp_path / "numbers.csv"
    target.write_text("old")
    with pytest.raises(error if isinstance(error, type) else type(error)), atomic_path(target) as partial:
        partial.write_text("torn")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_block_that_removes_its_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt") as partial:
        partial.unlink()
    assert not list(tmp_path.iterdir())


def test_atomic_folder_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with pytest.raises(RuntimeError), atomic_folder(target) as partial:
        (partial / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(target) as partial:
        (partial / "whole").touch()
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_atomic_folder_keeps_what_another_process_finished(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with atomic_folder(target) as partial:
        (partial / "mine").touch()
        target.mkdir()
        (target / "theirs").touch()
    assert [path.name for path in target.iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_text_is_utf8_with_its_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Fläche · 表面\n")
    assert (tmp_path / "a.txt").read_bytes() == "Fläche · 表面\n".encode()


@given(value=json_values)
def test_json_comes_back_as_it_was(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("nan")]}])
def test_json_refuses_what_json_does_not_know(value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert not list(tmp_path.iterdir())


def test_json_keeps_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"z": 1, "a": 2})
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["z", "a"]


@given(st.dictionaries(st.text(), json_values, min_size=2, max_size=6))
def test_digest_of_json_ignores_the_order_of_keys(value: dict) -> None:
    assert sha256_json(value) == sha256_json(dict(reversed(value.items())))


def test_digest_of_json_tells_values_apart() -> None:
    values = [{"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [1], [1, 2], [2, 1], None, "", 0]
    assert len({sha256_json(value) for value in values}) == len(values)


@given(content=st.binary(max_size=5000))
def test_digest_of_a_file_is_that_of_its_bytes(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()

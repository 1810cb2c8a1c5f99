"""PyTorch's files, read without PyTorch: files of `torch.save` (fixtures) and files put together here."""

import io
import math
import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.errors import WeightsError
from metal_defects.models.state_dict import LEGACY_MAGIC, LEGACY_PROTOCOL, read_state_dict

# Both written by torch 2.13 from one state dict, the second with _use_new_zipfile_serialization=False.
ZIP_FILE = Path(__file__).parent / "fixtures" / "torch_zip.pth"
LEGACY_FILE = Path(__file__).parent / "fixtures" / "torch_legacy.pth"
SAVED = {
    "conv.weight": np.arange(12, dtype=np.float32).reshape(2, 2, 3).transpose(2, 0, 1),
    "slice": np.array([3, 5, 7], np.int64),
    "tail": np.array([7, 8, 9], np.int64),
    "half": np.array([1.5, -2.0], np.float16),
    "double": np.array([[1e-300]], np.float64),
    "bool": np.array([True, False]),
    "byte": np.array([255], np.uint8),
    "scalar": np.array(7, np.int16),
    "param": np.array([0.5], np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


@dataclass(frozen=True)
class Name:
    module: str
    name: str


@dataclass(frozen=True)
class Call:
    function: Name
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Stored:
    reference: tuple[Any, ...]


class Pickler(pickle._Pickler):
    """Writes names and calls of modules that are not there."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> Any:
        return obj.reference if isinstance(obj, Stored) else None


def dump(value: Any) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def storage(key: str, length: int, dtype: str = "FloatStorage") -> Stored:
    return Stored(("storage", Name("torch", dtype), key, "cpu", length))


def tensor(stored: Any, offset: Any, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> Call:
    hooks = Call(Name("collections", "OrderedDict"), ())
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), (stored, offset, shape, strides, False, hooks))


def write_zip(path: Path, value: Any, storages: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", value if isinstance(value, bytes) else dump(value))
        for key, data in storages.items():
            archive.writestr(f"net/data/{key}", data)
    return path


def write_legacy(path: Path, value: Any, storages: dict[str, np.ndarray], little_endian: bool = True) -> Path:
    system = {"protocol_version": LEGACY_PROTOCOL, "little_endian": little_endian, "type_sizes": {}}
    parts = [dump(part) for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, system, value, list(storages))]
    parts += [data.size.to_bytes(8, "little") + data.tobytes() for data in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("path", [ZIP_FILE, LEGACY_FILE], ids=["zip", "legacy"])
def test_files_of_pytorch_are_read_exactly(path: Path) -> None:
    state = read_state_dict(path)
    assert list(state) == list(SAVED)
    for name, expected in SAVED.items():
        np.testing.assert_array_equal(state[name], expected, err_msg=name)
        assert state[name].dtype == expected.dtype
        assert state[name].shape == expected.shape
        assert expected.size == 0 or not state[name].flags.writeable


@pytest.mark.parametrize("path", [ZIP_FILE, LEGACY_FILE], ids=["zip", "legacy"])
def test_a_file_cut_anywhere_is_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"cut\.pth"):
            read_state_dict(cut)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), source=st.sampled_from([ZIP_FILE, LEGACY_FILE]))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, source: Path
) -> None:
    content = bytearray(source.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(content)
    try:
        read_state_dict(path)
    except WeightsError as error:
        assert len(str(error)) < 400


@settings(max_examples=300, deadline=None)
@given(
    offset=st.integers(-1, 6),
    axes=st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 12)), max_size=4),
    length=st.integers(0, 60),
    legacy=st.booleans(),
)
def test_any_view_is_exact_or_refused(
    tmp_path_factory: pytest.TempPathFactory, offset: int, axes: list[tuple[int, int]], length: int, legacy: bool
) -> None:
    shape, strides = tuple(side for side, _ in axes), tuple(stride for _, stride in axes)
    values = np.arange(length, dtype=np.float32)
    path = tmp_path_factory.getbasetemp() / "view.pth"
    state = {"x": tensor(storage("0", length), offset, shape, strides)}
    if legacy:
        write_legacy(path, state, {"0": values})
    else:
        write_zip(path, state, {"0": values.tobytes()})
    positions = {
        index: offset + sum(i * stride for i, stride in zip(index, strides, strict=True))
        for index in np.ndindex(tuple(max(side, 0) for side in shape))
    }
    fits = min((offset, *shape, *strides)) >= 0 and len(positions) <= length
    if fits and all(position < length for position in positions.values()):
        result = read_state_dict(path)["x"]
        assert result.shape == shape
        assert {index: float(result[index]) for index in positions} == positions
    else:
        with pytest.raises(WeightsError):
            read_state_dict(path)


class Malicious:
    """Unpickled, it runs a command that leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_a_command_is_refused_by_name(tmp_path: Path, legacy: bool) -> None:
    mark, path = tmp_path / "was_here", tmp_path / "net.pth"
    value = {"x": Malicious(mark)}
    if legacy:
        write_legacy(path, value, {})
    else:
        write_zip(path, value, {})
    with pytest.raises(WeightsError, match=r"posix\.system|nt\.system"):
        read_state_dict(path)
    assert not mark.exists()
    # The same bytes do harm when they are unpickled: the test would notice.
    pickle.loads(dump(value))
    assert mark.exists()


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        ([1], "a list"),
        ({"x": 1}, "a int named 'x'"),
        ({"state_dict": {}}, "a dict named 'state_dict'"),
        ({"x": 1.5}, "a float named 'x'"),
        ({1: 1.5}, "a name that is a int"),
        ({"x": Call(Name("builtins", "eval"), ("1",))}, r"builtins\.eval"),
        ({"x": tensor(storage("0", 1, "BFloat16Storage"), 0, (1,), (1,))}, r"torch\.BFloat16Storage"),
        ({"x": Stored(("module", "net", "source", "code"))}, "other than a whole storage"),
        (
            {"x": Stored(("storage", Name("torch", "FloatStorage"), "0", "cpu", 4, ("1", 0, 2)))},
            "other than a whole storage",
        ),
        ({"x": tensor(storage("0", 1), 0, (1,), (1, 1))}, "impossible shape"),
        ({"x": tensor(storage("0", 1), "0", (1,), (1,))}, "declared by something other"),
        ({"x": tensor("0", 0, (1,), (1,))}, "declared by something other"),
        ({"x": tensor(storage("0", 10**9), 0, (1,), (1,))}, "should take 4,000,000,000 bytes"),
        ({"x": tensor(storage("0", -1), 0, (1,), (1,))}, "other than a whole storage"),
        ({"x": tensor(storage("0", 1), 0, (10**12,), (0,))}, "beyond its storage"),
        ({"x": tensor(storage("0", 1), 0, (0, 10**30), (1, 1))}, "damaged"),
        ({"x": tensor(storage("1", 1), 0, (1,), (1,))}, "damaged"),
        ({"x": tensor(storage("0", 2), 0, (1,), (1,))}, "should take 8 bytes"),
        (
            {"x": tensor(storage("0", 1), 0, (1,), (1,)), "y": tensor(storage("0", 1, "IntStorage"), 0, (1,), (1,))},
            "declared in two ways",
        ),
    ],
)
def test_what_a_state_dict_does_not_hold_is_named(tmp_path: Path, value: Any, refused: str) -> None:
    path = write_zip(tmp_path / "net.pth", value, {"0": bytes(4)})
    with pytest.raises(WeightsError, match=refused):
        read_state_dict(path)


@pytest.mark.parametrize("number", ["r\xff\xff\xff\x0f", "p99999999999\n"], ids=["binary", "text"])
def test_a_pickle_cannot_ask_for_a_memo_of_gigabytes(tmp_path: Path, number: str) -> None:
    path = write_zip(tmp_path / "net.pth", b"\x80\x02}" + number.encode("latin-1") + b".", {})
    with pytest.raises(WeightsError, match="a pickle counts to"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["_rebuild_tensor_v2", "_rebuild_parameter"])
def test_a_pickle_leaves_nothing_behind_on_what_it_may_name(tmp_path: Path, name: str) -> None:
    """BUILD sets attributes on whatever lies on the stack: on a function they would stay for the next file."""
    code = f"\x80\x02ctorch._utils\n{name}\nN}}X\x0c\x00\x00\x00__defaults__)s\x86b.".encode("latin-1")
    with pytest.raises(WeightsError, match="AttributeError"):
        read_state_dict(write_zip(tmp_path / "net.pth", code, {}))
    read_state_dict(ZIP_FILE)


def test_deep_sharing_in_a_pickle_costs_no_time(tmp_path: Path) -> None:
    value: tuple[Any, ...] = ()
    for _ in range(200):
        value = (value, value)  # hashed, compared or printed, this takes longer than the universe has
    for state in (value, {"x": value}):
        with pytest.raises(WeightsError, match="a tuple"):
            read_state_dict(write_zip(tmp_path / "net.pth", state, {}))


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    size = 10_000_000
    state = {"x": tensor(storage("0", size), 0, (size,), (1,))}
    path = write_zip(tmp_path / "net.pth", state, {"0": bytes(4 * size)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < size / 100
    with pytest.raises(WeightsError, match="compressed"):
        read_state_dict(path)


def test_storages_of_a_legacy_file_must_be_the_declared_ones(tmp_path: Path) -> None:
    state = {"x": tensor(storage("0", 2), 0, (2,), (1,))}
    two, three = np.zeros(2, np.float32), np.zeros(3, np.float32)
    for storages in ({}, {"0": three}, {"1": two}, {"0": two, "1": two}):
        with pytest.raises(WeightsError, match="damaged"):
            read_state_dict(write_legacy(tmp_path / "net.pth", state, storages))
    with pytest.raises(WeightsError, match="byte order"):
        read_state_dict(write_legacy(tmp_path / "net.pth", state, {"0": two}, little_endian=False))


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>404</html>", pickle.dumps({"x": 1}), bytes(1000)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"net\.pth is damaged"):
        read_state_dict(path)


def test_big_endian_archives_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "net.pth", {}, {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/byteorder", "big")
    with pytest.raises(WeightsError, match="byte order"):
        read_state_dict(path)


def test_views_share_the_memory_of_their_storage(tmp_path: Path) -> None:
    """Many large views of one storage must not cost more than the storage."""
    length, views = 100_000, 500
    state = {f"x{i}": tensor(storage("0", length), 0, (length,), (1,)) for i in range(views)}
    path = write_zip(tmp_path / "net.pth", state, {"0": np.arange(length, dtype=np.float32).tobytes()})
    arrays = list(read_state_dict(path).values())
    assert len(arrays) == views
    assert all(np.shares_memory(arrays[0], array) for array in arrays[1:])
    assert math.isclose(float(arrays[-1][-1]), length - 1)

"""PyTorch weights without PyTorch: read a state dict, put it into a Keras model."""

import io
import math
import mmap
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from metal_defects.errors import WeightsError

if TYPE_CHECKING:
    import keras

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
ZIP_MAGIC = b"PK\x03\x04"
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _RefusedError(Exception):
    """Names what a state dict has no need of."""


class Storage(NamedTuple):
    """A declared block of `length` values."""

    key: str
    dtype: np.dtype
    length: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.length * self.dtype.itemsize


class Tensor(NamedTuple):
    """A declared view of a storage; offset and strides count values, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file written by `torch.save(model.state_dict(), path)`, in either of its formats.

    Nothing in the file is run, and nothing larger than the file is allocated, whatever sizes it claims.

    Returns:
        Tensors by name. The arrays are read-only and keep the strides of the file: they may not be contiguous.

    Raises:
        WeightsError: the file is damaged, or holds anything but named tensors.
    """
    with path.open("rb") as stream:
        try:
            is_zip = stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            tensors, storages = _read_zip(stream) if is_zip else _read_legacy(stream)
            return {name: _view(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}
        except _RefusedError as error:
            raise WeightsError(
                f"{path.name} must be a PyTorch state dict: names and tensors, nothing else. Got {error} in {path}."
            ) from None
        except Exception as error:  # damage raises all kinds of errors in pickle and in zipfile
            reason = f"{type(error).__name__}, {str(error)[:120]}"
            raise WeightsError(f"{path.name} is damaged; remove it or fetch it anew. Got {path} ({reason}).") from error


def assign_state_dict(
    model: "keras.Model", state: Mapping[str, np.ndarray], modules: Mapping[str, str], ignored: Collection[str]
) -> None:
    """Set all weights of `model` from the tensors in `state`.

    Args:
        model: convolutions without bias, depthwise convolutions and batch normalizations; other layers have no weights.
        state: PyTorch's tensors by name.
        modules: for each layer with weights, the name of its PyTorch module.
        ignored: tensors in `state` that the model has no use for.

    Raises:
        WeightsError: a layer or a tensor is left over, or a shape differs.
    """
    misfit = f"The weights do not fit {model.name}; use the file that was published for it."
    unused = set(state) - set(ignored)
    for layer in model.layers:
        if not layer.weights:
            continue
        arrays = []
        for weight, (name, axes) in zip(layer.weights, _arrange(layer, modules[layer.name]), strict=True):
            expected = [0] * len(axes)
            for side, axis in zip(weight.shape, axes, strict=True):
                expected[axis] = side
            if name not in state or list(state[name].shape) != expected:
                found = list(state[name].shape) if name in state else "nothing"
                raise WeightsError(f"{misfit} {name} must have the shape {expected}. Got {found} instead.")
            arrays.append(np.transpose(state[name], axes))
            unused.discard(name)
        layer.set_weights(arrays)
    if unused:
        raise WeightsError(f"{misfit} Got {len(unused)} tensors without a layer: {', '.join(sorted(unused)[:3])}.")


def _arrange(layer: "keras.Layer", module: str) -> list[tuple[str, tuple[int, ...]]]:
    """For each weight of a layer in Keras order, the tensor's name and the order in which to take its axes."""
    import keras

    if isinstance(layer, keras.layers.BatchNormalization):
        return [(f"{module}.{part}", (0,)) for part in ("weight", "bias", "running_mean", "running_var")]
    # PyTorch keeps (output, input, height, width), and (channel, 1, height, width) where depthwise.
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return [(f"{module}.weight", (2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]


class _StateDictUnpickler(pickle.Unpickler):
    """An unpickler that imports nothing and declares tensors instead of making them.

    "Restricting Globals" in the documentation of pickle. What it hands out are bound methods, names and tuples: unlike
    classes and functions, a pickle can set no attributes on them that would outlive it.
    """

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return self._declare_tensor
            case "torch._utils", "_rebuild_parameter":
                return self._unwrap_parameter
            case "torch", _ if name in _DTYPES:
                return name
        raise _RefusedError(f"a reference to {module[:40]}.{name[:40]}")

    def persistent_load(self, reference: Any) -> Storage:
        match reference:
            case ("storage", str(dtype), str(key), _, int(length), *view) if length >= 0 and view in ([], [None]):
                return Storage(key, np.dtype(_DTYPES[dtype]), length)
        raise _RefusedError("a reference to something other than a whole storage")

    def _declare_tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_rest: Any) -> Tensor:
        match storage, offset, shape, strides:
            case Storage(), int(), tuple(), tuple():
                return Tensor(storage, offset, shape, strides)
        raise TypeError("a tensor is declared by something other than a storage, an offset, a shape and strides")

    def _unwrap_parameter(self, tensor: Any, *_rest: Any) -> Any:
        return tensor


def _load(stream: Any) -> Any:
    """The value of the next pickle in `stream`, which is left just behind it.

    Args:
        stream: bytes in memory or a mapped file: neither allocates more than it holds, whatever length is asked of it.
    """
    start = stream.tell()
    # The unpickler's memo grows to the highest number in the file, be it one of 64 GB.
    numbers = [argument or 0 for opcode, argument, _ in pickletools.genops(stream) if "PUT" in opcode.name]
    if max(numbers, default=0) > stream.tell() - start:
        raise ValueError(f"a pickle counts to {max(numbers)} within {stream.tell() - start} bytes")
    stream.seek(start)
    return _StateDictUnpickler(stream).load()


def _read_legacy(stream: BinaryIO) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    """Five pickles (magic number, protocol, system, object, storage keys), then each storage: its length, its bytes."""
    # A map, unlike a file, never allocates what a damaged length asks for beyond its end.
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if mapped[:1] != b"\x80" or _load(mapped) != LEGACY_MAGIC:
            raise ValueError("it does not begin as PyTorch's files do")
        protocol, system = _load(mapped), _load(mapped)
        if protocol != LEGACY_PROTOCOL or system["little_endian"] is not True:
            raise _RefusedError("another protocol or byte order")
        tensors = _named_tensors(_load(mapped))
        expected = _distinct_storages(tensors, len(mapped))
        storages = {}
        for key in _load(mapped):
            storage = expected.pop(key)
            if mapped.read(8) != storage.length.to_bytes(8, "little"):
                raise ValueError(f"storage {key} has not the declared {storage.length} values")
            storages[key] = mapped.read(storage.size)
        if expected:
            raise ValueError(f"{len(expected)} storages are missing")
        return tensors, storages


def _read_zip(stream: BinaryIO) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    """An archive without compression: `<top>/data.pkl`, `<top>/byteorder` and one `<top>/data/<key>` per storage."""
    size = stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename: member for member in archive.infolist()}
        tops = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(tops) != 1:
            raise _RefusedError(f"an archive with {len(tops)} objects")

        def read(name: str) -> bytes:
            member = members[tops[0] + name]
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
                raise _RefusedError(f"a compressed {name}")
            return archive.read(member)

        if tops[0] + "byteorder" in members and read("byteorder") != b"little":
            raise _RefusedError("another byte order")
        tensors = _named_tensors(_load(io.BytesIO(read("data.pkl"))))
        expected = _distinct_storages(tensors, size)
        return tensors, {key: read(f"data/{key}") for key in expected}


def _named_tensors(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, dict):
        raise _RefusedError(f"a {type(value).__name__}")
    for name, tensor in value.items():
        if not isinstance(name, str):
            raise _RefusedError(f"a name that is a {type(name).__name__}")
        if not isinstance(tensor, Tensor):
            raise _RefusedError(f"a {type(tensor).__name__} named '{name[:80]}'")
    return value


def _distinct_storages(tensors: Mapping[str, Tensor], file_size: int) -> dict[str, Storage]:
    """Storages by key, checked to be together no larger than the file."""
    storages: dict[str, Storage] = {}
    for tensor in tensors.values():
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise ValueError(f"storage {tensor.storage.key} is declared in two ways")
    declared = sum(storage.size for storage in storages.values())
    if declared > file_size:
        raise ValueError(f"its tensors should take {declared:,} bytes, but it has {file_size:,}")
    return storages


def _view(tensor: Tensor, data: bytes) -> np.ndarray:
    """The tensor as a view of the bytes of its storage; NumPy checks that it stays inside."""
    storage, itemsize = tensor.storage, tensor.storage.dtype.itemsize
    if len(data) != storage.size:
        raise ValueError(f"storage {storage.key} should take {storage.size:,} bytes, but has {len(data):,}")
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or len(tensor.shape) != len(tensor.strides):
        raise ValueError("a tensor has an impossible shape")
    count = math.prod(tensor.shape)
    if count > storage.length:  # with a stride of zero a short storage could claim any size
        raise ValueError("a tensor reaches beyond its storage")
    if not count:
        return np.empty(tensor.shape, storage.dtype)
    strides = [stride * itemsize for stride in tensor.strides]
    return np.ndarray(tensor.shape, storage.dtype, data, tensor.offset * itemsize, strides)

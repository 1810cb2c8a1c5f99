"""The pickles inside PyTorch's files, read without running them.

To load a pickle is to run a program that may import and call anything. This interpreter knows only the instructions and
names that a state dict needs, never imports, and so gets nothing but dictionaries, lists, numbers and declared tensors.
"""

import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class RefusedError(Exception):
    """Names what a state dict has no need of."""


class Stream(Protocol):
    """What the interpreter reads from; must not allocate for bytes beyond its end."""

    def read(self, size: int, /) -> bytes: ...

    def readline(self) -> bytes: ...


@dataclass(frozen=True)
class Storage:
    """A declared block of `length` values."""

    key: str
    dtype: np.dtype
    length: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.length * self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """A declared view of a storage; offset and strides count values, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickle(stream: Stream) -> Any:
    """The value of the next pickle in `stream`, which is left just behind it.

    Raises:
        RefusedError: an instruction, name or reference that a state dict does not need.
        ValueError, TypeError, LookupError: the pickle is damaged.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            return machine.stack.pop()
        if opcode.name in _LITERALS:
            machine.stack.append(argument)
        elif opcode.name in _INSTRUCTIONS:
            _INSTRUCTIONS[opcode.name](machine, argument)
        else:
            raise RefusedError(f"the pickle instruction {opcode.name}")
    raise EOFError("a pickle does not stop")


class _Machine:
    """A pickle's stack, the stacks below its marks, and its memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def push_marked_tuple(self) -> None:
        items = self.pop_to_mark()
        self.stack.append(tuple(items))

    def push_tuple(self, length: int) -> None:
        items = [self.stack.pop() for _ in range(length)]
        self.stack.append(tuple(reversed(items)))

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def append(self, items: Sequence[Any]) -> None:
        _expect(list, self.stack[-1]).extend(items)

    def set_items(self, items: Sequence[Any]) -> None:
        target = _expect(dict, self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_expect(str, key)] = value

    def push_global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise RefusedError(f"a reference to {name.replace(' ', '.')}")
        self.stack.append(_GLOBALS[name])

    def call(self) -> None:
        arguments, function = _expect(tuple, self.stack.pop()), self.stack.pop()
        self.stack.append(function(*arguments))

    def drop_state(self) -> None:
        """Skip the attributes of a dictionary: PyTorch keeps the versions of its modules there."""
        self.stack.pop()
        _expect(dict, self.stack[-1])


def _expect(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a pickle has a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _new_dict() -> dict[str, Any]:
    return {}


def _new_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_rest: Any) -> Tensor:
    for number in (offset, *_expect(tuple, shape), *_expect(tuple, strides)):
        _expect(int, number)
    return Tensor(_expect(Storage, storage), offset, shape, strides)


def _new_parameter(tensor: Any, *_rest: Any) -> Any:
    return tensor


def _new_storage(reference: Any) -> Storage:
    kind, dtype, key, _device, length, *view = _expect(tuple, reference)
    if _expect(str, kind) != "storage" or any(part is not None for part in view):
        raise RefusedError(f"a reference to a part of a {kind[:40]}")
    if _expect(int, length) < 0:
        raise ValueError("a storage has a negative length")
    return Storage(_expect(str, key), _expect(np.dtype, dtype), length)


_LITERALS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"})
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "MARK": lambda machine, _: machine.mark(),
    "TUPLE": lambda machine, _: machine.push_marked_tuple(),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "BINPUT": lambda machine, key: machine.remember(key),
    "LONG_BINPUT": lambda machine, key: machine.remember(key),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "BINGET": lambda machine, key: machine.stack.append(machine.memo[key]),
    "LONG_BINGET": lambda machine, key: machine.stack.append(machine.memo[key]),
    "GLOBAL": lambda machine, name: machine.push_global(name),
    "STACK_GLOBAL": lambda machine, _: machine.push_global(f"{machine.stack.pop(-2)} {machine.stack.pop()}"),
    "REDUCE": lambda machine, _: machine.call(),
    "BINPERSID": lambda machine, _: machine.stack.append(_new_storage(machine.stack.pop())),
    "BUILD": lambda machine, _: machine.drop_state(),
}
_GLOBALS: dict[str, Any] = {
    "collections OrderedDict": _new_dict,
    "torch._utils _rebuild_tensor_v2": _new_tensor,
    "torch._utils _rebuild_parameter": _new_parameter,
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}

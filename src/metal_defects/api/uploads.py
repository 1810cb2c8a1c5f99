"""Files out of a multipart or raw request body, read piece by piece: no more is ever held than the bounds allow.

Starlette's form parser is not used: it writes larger files to temporary ones on disk, and knows no bound on a file or
on all calls together.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from metal_defects.api.errors import CallError
from metal_defects.config import Serving
from metal_defects.inference.answer import Failure

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "files"
LONGEST_NAME = 120


@dataclass(frozen=True)
class Upload:
    """One file as it came.

    Attributes:
        name: without folders and control characters; None where the client gave none.
        data: its bytes.
    """

    name: str | None
    data: bytes


def strip_folders(raw: str | None) -> str | None:
    """The last part of a path in the style of any system, fit for logs, tables and terminals.

    Characters that cannot be seen are dropped, among them line ends and those that reverse the reading direction.
    """
    visible = _printable((raw or "").replace("\\", "/").rsplit("/", 1)[-1])
    return None if visible in ("", ".", "..") else visible


async def read_uploads(
    headers: Mapping[str, str], stream: AsyncIterator[bytes], limits: Serving, take: Callable[[int], None]
) -> list[Upload | Failure]:
    """The files of a call in their order; a file over its own bound becomes a failure, the others stay.

    Args:
        headers: of the request, with names in lower case.
        stream: pieces of the body.
        limits: bounds on the call.
        take: called with the size of each piece before it is kept; raises `CallError` when there is no memory for it.

    Raises:
        CallError: the body breaks a bound of the call or is not understood.
    """
    kind, options = parse_options_header(headers.get("content-type"))
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise CallError(415, "content_encoding", "Compressed bodies are not accepted; send the files as they are.")
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_request_bytes:
        raise _too_large(limits, f"a body of {announced} bytes")
    pieces = _count(stream, limits, take)
    if kind == b"multipart/form-data":
        return await _read_multipart(options.get(b"boundary"), pieces, limits)
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        return [await _read_one(pieces, limits)]
    raise CallError(
        415,
        "unsupported_media_type",
        f"Send multipart/form-data with the field '{FIELD}', or one image as image/* or application/octet-stream. "
        f"Got {_show(kind)} instead.",
    )


async def _count(stream: AsyncIterator[bytes], limits: Serving, take: Callable[[int], None]) -> AsyncIterator[bytes]:
    total = 0
    async for piece in stream:
        total += len(piece)
        if total > limits.max_request_bytes:
            raise _too_large(limits, "more")
        take(len(piece))
        yield piece


async def _read_one(pieces: AsyncIterator[bytes], limits: Serving) -> Upload | Failure:
    data = bytearray()
    async for piece in pieces:
        data += piece
        if len(data) > limits.max_file_bytes:
            return _file_too_large(None, limits)
    return Upload(None, bytes(data))


async def _read_multipart(
    boundary: bytes | None, pieces: AsyncIterator[bytes], limits: Serving
) -> list[Upload | Failure]:
    form = _Form(limits)
    try:
        if not boundary:
            raise FormParserError("its type names no boundary")
        parser = MultipartParser(boundary, form.callbacks())
        async for piece in pieces:
            parser.write(piece)
        parser.finalize()
        if not form.is_complete:
            raise FormParserError("it ends before its last boundary")
    except FormParserError as error:
        raise CallError(400, "bad_multipart", f"The multipart body is damaged: {error}.") from error
    if not form.files:
        raise CallError(400, "no_files", f"The call has no file; put one or more in the multipart field '{FIELD}'.")
    return form.files


@dataclass
class _Form:
    """Receives what the multipart parser finds."""

    limits: Serving
    files: list[Upload | Failure] = field(default_factory=list)
    is_complete: bool = False
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _disposition: bytes = b""
    _name: str | None = None
    _data: bytearray = field(default_factory=bytearray)
    _is_too_large: bool = False

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open_part,
            "on_part_data": self._add_data,
            "on_part_end": self._close_part,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._disposition = b""
        self._data = bytearray()
        self._is_too_large = False

    def _add_header(self, piece: bytes, start: int, end: int) -> None:
        self._header += piece[start:end]

    def _add_value(self, piece: bytes, start: int, end: int) -> None:
        self._value += piece[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _open_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != FIELD.encode():
            found = _show(options.get(b"name", b"a part without a name"))
            raise CallError(400, "unknown_field", f"The only field is '{FIELD}'. Got {found} instead.")
        if len(self.files) == self.limits.max_files:
            raise CallError(413, "too_many_files", f"A call may have {self.limits.max_files} files at most. Got more.")
        raw = options.get(b"filename")
        self._name = None if raw is None else strip_folders(raw.decode("utf-8", errors="replace"))

    def _add_data(self, piece: bytes, start: int, end: int) -> None:
        self._is_too_large |= len(self._data) + end - start > self.limits.max_file_bytes
        if self._is_too_large:
            self._data.clear()
        else:
            self._data += piece[start:end]

    def _close_part(self) -> None:
        too_large = self._is_too_large
        self.files.append(
            _file_too_large(self._name, self.limits) if too_large else Upload(self._name, bytes(self._data))
        )

    def _finish(self) -> None:
        self.is_complete = True


def _file_too_large(name: str | None, limits: Serving) -> Failure:
    message = f"{name or 'The image'}: the file may have {limits.max_file_bytes} bytes at most; shrink it. Got more."
    return Failure.of(name, "too_large", message)


def _too_large(limits: Serving, found: str) -> CallError:
    message = f"A call may have {limits.max_request_bytes} bytes at most; send fewer or smaller files. Got {found}."
    return CallError(413, "request_too_large", message)


def _show(raw: bytes) -> str:
    return f"'{_printable(raw.decode('utf-8', errors='replace'))}'"


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text)).strip()[:LONGEST_NAME].strip()

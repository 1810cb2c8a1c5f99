"""What a visitor hands over: loose images and ZIP archives, as named images that are read one at a time."""

import lzma
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO

from metal_defects.data.imaging import ImageError
from metal_defects.inference.answer import Failure

_NAME_LENGTH = 120
_CLUTTER = {"thumbs.db", "desktop.ini"}
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError, OSError,
    ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class ZipLimits:
    """Where an archive stops being a handful of images and starts being a bomb.

    Attributes:
        files: most members.
        total_bytes: most bytes when unpacked.
        ratio: most unpacked bytes per archive byte; plain BMP images shrink about 30 times, bombs 1,000 times.
    """

    files: int = 5_000
    total_bytes: int = 2 * 1024**3
    ratio: float = 200


@dataclass(frozen=True)
class Item:
    """One image still to be read."""

    name: str
    read: Callable[[], bytes]


@dataclass
class Intake:
    """Images to read, and files that are none."""

    items: list[Item] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def open_uploads(uploads: list[tuple[str, BinaryIO]], max_bytes: int, limits: ZipLimits | None = None) -> Intake:
    """List the images in `uploads`; archives are told by their content, and nothing is decoded yet.

    Args:
        uploads: name and seekable stream of each file; the streams must stay open until the items were read.
        max_bytes: most bytes of one image.
        limits: bounds of an archive.
    """
    intake = Intake()
    for raw_name, stream in uploads:
        name = clean_path(raw_name)
        stream.seek(0)
        start = stream.read(4)
        stream.seek(0)
        if start in (b"PK\x03\x04", b"PK\x05\x06"):
            _open_zip(name, stream, max_bytes, limits or ZipLimits(), intake)
        else:
            intake.items.append(Item(name, partial(_read_all, stream)))
    return intake


def clean_path(name: str) -> str:
    """A name that is safe to show and to write into a table: no control characters, no way out of its folder."""
    visible = "".join(letter for letter in name if unicodedata.category(letter)[0] != "C")
    parts = [part for part in visible.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if parts and len(parts[0]) == 2 and parts[0][1] == ":":
        parts = parts[1:]
    clean = "/".join(parts) or "unnamed"
    return clean if len(clean) <= _NAME_LENGTH else "…" + clean[1 - _NAME_LENGTH :]


def _read_all(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read()


def _open_zip(archive: str, stream: BinaryIO, max_bytes: int, limits: ZipLimits, intake: Intake) -> None:
    """Add the members of a ZIP; nothing touches the disk."""
    try:
        bundle = zipfile.ZipFile(stream)
        members = [info for info in bundle.infolist() if not _is_clutter(info)]
    except _DAMAGED as error:
        message = f"{archive}: the archive is damaged or cut short; make it again. Got '{error}'."
        intake.failures.append(Failure.of(archive, "damaged_archive", message))
        return
    archive_bytes = stream.seek(0, 2)
    total = sum(info.file_size for info in members)
    if not members:
        problem = "no files"
    elif len(members) > limits.files:
        problem = f"{len(members):,} files; {limits.files:,} are allowed"
    elif total > limits.total_bytes or total > max(limits.ratio * archive_bytes, max_bytes):
        problem = f"{total:,} bytes when unpacked, out of {archive_bytes:,}"
    else:
        problem = ""
    if problem:
        message = f"{archive}: the archive was not opened; unpack it yourself and upload the images. Got {problem}."
        intake.failures.append(Failure.of(archive, "unsafe_archive" if members else "empty", message))
        return
    for info in members:
        _add_member(archive, bundle, info, max_bytes, intake)


def _add_member(archive: str, bundle: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int, intake: Intake) -> None:
    name = clean_path(info.filename)
    if info.flag_bits & 0x1:
        message = f"{name}: encrypted in {archive}; unpack it yourself and upload the images."
        intake.failures.append(Failure.of(name, "encrypted", message))
    elif info.file_size > max_bytes:
        message = f"{name}: an image may have {max_bytes:,} bytes at most. Got {info.file_size:,} bytes instead."
        intake.failures.append(Failure.of(name, "too_large", message))
    elif name.lower().endswith(".zip"):
        message = f"{name}: an archive inside {archive}; upload it on its own."
        intake.failures.append(Failure.of(name, "nested_archive", message))
    else:
        intake.items.append(Item(name, lambda: _read_member(archive, bundle, info, name)))


def _read_member(archive: str, bundle: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    try:
        # The stream ends at the size that was checked, whatever the compressed data would expand to.
        with bundle.open(info) as member:
            return member.read()
    except _DAMAGED as error:
        message = f"{name}: damaged in {archive}; make the archive again. Got '{error}'."
        raise ImageError("truncated", message) from error


def _is_clutter(info: zipfile.ZipInfo) -> bool:
    """True for folders and for what operating systems leave in archives."""
    path = PurePosixPath(info.filename)
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.parts)
    return info.is_dir() or hidden or path.name.lower() in _CLUTTER

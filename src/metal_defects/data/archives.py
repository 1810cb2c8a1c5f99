"""Archives from strangers: unpacked completely and safely, or not at all."""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

from metal_defects.errors import DataError
from metal_defects.files import atomic_folder, sha256_file
from metal_defects.log import logger

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class UnpackLimits:
    """Where an archive stops being a data set and starts being a bomb.

    Attributes:
        files: most members.
        total_bytes: most bytes when unpacked.
        ratio: most unpacked bytes per archive byte; plain BMP images shrink about 30 times, bombs 1,000 times.
        ratio_from_bytes: unpacked size below which the ratio does not matter.
    """

    files: int = 500_000
    total_bytes: int = 50 * 1024**3
    ratio: float = 200
    ratio_from_bytes: int = 200 * 1024**2


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]


def is_archive_name(name: str) -> bool:
    """True where the suffix is one that ingestion unpacks."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack_beside(archive: Path, downloads: Path) -> Path:
    """The folder below `downloads` that holds the content of `archive`, unpacked now or earlier.

    Raises:
        DataError: as `unpack` does.
    """
    folder = downloads / f"unpacked-{sha256_file(archive)[:16]}"
    if not folder.is_dir():
        logger.info("Unpacking %s", archive)
        with atomic_folder(folder) as partial:
            unpack(archive, partial)
    return folder


def unpack(archive: Path, folder: Path, limits: UnpackLimits | None = None) -> None:
    """Write the files in a .zip, .tar or .tar.gz below `folder`; the kind is told by the content.

    Args:
        archive: file to read.
        folder: existing folder; on an error it keeps what was written so far.
        limits: bounds against decompression bombs.

    Raises:
        DataError: the file is no archive, is damaged or encrypted, exceeds the limits, or holds a member that is no
            plain file or folder or that points outside.
    """
    limits = limits or UnpackLimits()
    archive_bytes = max(archive.stat().st_size, 1)
    count = total = 0
    try:
        for member in _read_members(archive):
            count, total = count + 1, total + member.size
            _check_limits(archive, count, total, archive_bytes, limits)
            target = _safe_target(archive, folder, member.name)
            if member.is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
    except _DAMAGED as error:
        raise DataError(f"The archive is damaged or cut short; fetch it again. Got {archive} ({error}).") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"The archive uses one name for a file and a folder. Got {error.filename} instead.") from error


def _read_members(archive: Path) -> Iterator[_Member]:
    if zipfile.is_zipfile(archive):
        yield from _read_zip(archive)
    elif tarfile.is_tarfile(archive):
        yield from _read_tar(archive)
    else:
        expected = ", ".join(ARCHIVE_SUFFIXES)
        raise DataError(f"The data source must be a folder or a complete {expected} archive. Got {archive} instead.")


def _read_zip(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as stream:
        for info in stream.infolist():
            if info.flag_bits & 0x1:
                raise DataError(f"The archive is encrypted; unpack it yourself. Got {archive} instead.")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refuse(archive, info.filename, "is a link or a device")
            yield _Member(info.filename, info.file_size, info.is_dir(), partial(stream.open, info))


def _read_tar(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as stream:
        for info in stream:
            if not (info.isfile() or info.isdir()):
                raise _refuse(archive, info.name, "is a link or a device")
            # None for links and devices only
            open_file = cast(Callable[[], IO[bytes]], partial(stream.extractfile, info))
            yield _Member(info.name, info.size, info.isdir(), open_file)


def _check_limits(archive: Path, count: int, total: int, archive_bytes: int, limits: UnpackLimits) -> None:
    if count > limits.files:
        excess = f"more than {limits.files} files"
    elif total > limits.total_bytes:
        excess = f"more than {limits.total_bytes} bytes when unpacked"
    elif total > max(limits.ratio_from_bytes, limits.ratio * archive_bytes):
        excess = f"more than {limits.ratio:g} times its size when unpacked"
    else:
        return
    raise DataError(f"The archive looks like a decompression bomb; unpack it yourself. Got {archive}, with {excess}.")


def _safe_target(archive: Path, folder: Path, name: str) -> Path:
    # Windows spellings are refused everywhere: what is harmless here escapes there.
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ":" in parts[0]:
        raise _refuse(archive, name, "has an absolute name")
    if ".." in parts:
        raise _refuse(archive, name, "points outside the archive")
    if any(ord(character) < 32 for character in name):
        raise _refuse(archive, name, "has control characters in its name")
    return folder.joinpath(*(part for part in parts if part not in ("", ".")))


def _refuse(archive: Path, name: str, problem: str) -> DataError:
    return DataError(f"The archive {archive.name} is unsafe and was not unpacked: a member {problem}. Got {name!r}.")

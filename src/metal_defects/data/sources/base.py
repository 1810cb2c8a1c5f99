"""What a data source is: how its images are fetched, and what tells that they changed."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from metal_defects.config import Settings
from metal_defects.errors import DataError


class NothingHereError(DataError):
    """A source has nothing to give, which is no reason for `auto` not to try the next one."""


@dataclass(frozen=True)
class SourceKind:
    """A place where images may come from.

    Attributes:
        kind: one word, for settings and results.
        title: what people are told.
        fetch: the folder that holds the images, maybe a folder or two down; fetched, unpacked or drawn where it is not
            there yet. It raises a `NothingHereError` or `UnavailableError` where it has nothing to give, any other
            `UserError` where what it has is unusable.
        fingerprint: what identifies the images, told from settings, names, sizes and times on this machine; nothing is
            fetched or opened. None where there is nothing. To draw or download the images must not change it.
        is_local: a fingerprint means that the images are there: `auto` then knows that it will not need another source.
        notice: a sentence that everyone who sees the results must see, if there is one.
    """

    kind: str
    title: str
    fetch: Callable[[Settings], Path]
    fingerprint: Callable[[Settings], dict[str, Any] | None]
    is_local: bool = False
    notice: str | None = None


def open_local(path: Path, settings: Settings) -> Path:
    """The folder itself, or that of an archive, which is unpacked below `paths.downloads`."""
    if path.is_dir():
        return path
    from metal_defects.data.archives import unpack_beside

    return unpack_beside(path, settings.config.paths.downloads)


def describe_local(path: Path) -> dict[str, Any]:
    """Identity of a file or folder."""
    return {"path": str(path), "content": _digest_listing(path)}


def _digest_listing(path: Path) -> str | None:
    """SHA-256 over name, size and modification time of a file or of all files in a folder; None where it is missing."""
    if not path.exists():
        return None
    lines = []
    stack = [path]
    if path.is_file():
        lines.append(_describe(path.name, path.stat()))
        stack = []
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    stack.append(Path(entry.path))
                elif entry.is_file():
                    lines.append(_describe(os.path.relpath(entry.path, path), entry.stat()))
    return sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def _describe(name: str, status: os.stat_result) -> str:
    return f"{name}\0{status.st_size}\0{status.st_mtime_ns}"

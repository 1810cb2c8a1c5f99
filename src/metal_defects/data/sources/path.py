"""Source `path`: a folder or an archive on this machine."""

from pathlib import Path
from typing import Any

from metal_defects.config import Settings
from metal_defects.data.sources.base import NothingHereError, SourceKind, describe_local, open_local
from metal_defects.errors import DataError


def _fetch(settings: Settings) -> Path:
    path = _resolve(settings)
    if path is None:
        raise NothingHereError("data.path is not set.")
    if not path.exists():
        raise DataError(f"data.path must be a folder or an archive. Got {path}, which does not exist.")
    return open_local(path, settings)


def _fingerprint(settings: Settings) -> dict[str, Any] | None:
    path = _resolve(settings)
    return describe_local(path) if path else None


def _resolve(settings: Settings) -> Path | None:
    path = settings.config.data.path
    return (settings.root / path.expanduser()).absolute() if path else None


PATH = SourceKind("path", "a folder", _fetch, _fingerprint, is_local=True)

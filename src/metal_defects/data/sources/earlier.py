"""Source `download`: what lies in the downloads folder, fetched earlier or put there by a person. For `auto` only."""

from pathlib import Path
from typing import Any

from metal_defects.config import Settings
from metal_defects.data.layouts import find_image_root
from metal_defects.data.sources.base import NothingHereError, SourceKind, describe_local, open_local
from metal_defects.data.sources.kaggle import kaggle_folder
from metal_defects.errors import DataError
from metal_defects.log import logger

# Folders that were made from something else, so that no one takes them for a data set.
_DERIVED = ("synthetic-", "unpacked-", "url-")


def _fetch(settings: Settings) -> Path:
    found = _find(settings)
    if found is None:
        raise NothingHereError(f"There is nothing in {settings.config.paths.downloads}.")
    logger.info("Using an earlier download: %s", found)
    return open_local(found, settings)


def _fingerprint(settings: Settings) -> dict[str, Any] | None:
    found = _find(settings)
    return describe_local(found) if found else None


def _find(settings: Settings) -> Path | None:
    """The configured Kaggle set, else the first set or archive by name."""
    downloads, kaggle = settings.config.paths.downloads, kaggle_folder(settings)
    if not downloads.is_dir():
        return None
    from metal_defects.data.archives import is_archive_name

    names = sorted(entry.name for entry in downloads.iterdir() if not entry.name.startswith((".", *_DERIVED)))
    for path in sorted((downloads / name for name in names), key=lambda path: (path != kaggle, path.name)):
        if is_archive_name(path.name) or (path.is_dir() and _holds_images(path, settings)):
            return path
    return None


def _holds_images(folder: Path, settings: Settings) -> bool:
    try:
        return find_image_root(folder, settings.data_schema) is not None
    except DataError:
        return False


EARLIER = SourceKind("download", "a download", _fetch, _fingerprint, is_local=True)

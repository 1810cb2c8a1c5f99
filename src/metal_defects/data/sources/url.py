"""Source `url`: an archive on the web."""

import tempfile
from pathlib import Path
from typing import Any

from metal_defects.config import Settings
from metal_defects.data.sources.base import NothingHereError, SourceKind
from metal_defects.download import download
from metal_defects.errors import DataError
from metal_defects.files import atomic_folder, sha256_file, sha256_json
from metal_defects.log import logger

MAX_BYTES = 20 * 1024**3


def _fetch(settings: Settings) -> Path:
    """Download and unpack data.url, once."""
    from metal_defects.data.archives import unpack

    data, downloads = settings.config.data, settings.config.paths.downloads
    url = data.url
    if url is None:
        raise NothingHereError("data.url is not set.")
    folder = downloads / f"url-{sha256_json([url, data.sha256])[:16]}"
    if folder.is_dir():
        logger.info("Using an earlier download: %s", folder)
        return folder

    def check(archive: Path) -> None:
        received = sha256_file(archive)
        if data.sha256 and received != data.sha256.lower():
            raise DataError(f"{url} must have SHA-256 {data.sha256}. Got {received} instead.")

    logger.info("Downloading %s", url)
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=downloads) as scratch:
        archive = Path(scratch) / "archive"
        download(url, archive, data.timeout_seconds, MAX_BYTES, check)
        with atomic_folder(folder) as content:
            unpack(archive, content)
    return folder


def _fingerprint(settings: Settings) -> dict[str, Any]:
    """The address alone: what lies behind it is taken to stay what it is."""
    return {"url": settings.config.data.url, "sha256": settings.config.data.sha256}


URL = SourceKind("url", "a download", _fetch, _fingerprint)

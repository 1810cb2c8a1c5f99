"""Data sources: finds the images of a run, and tells whether they are still those of the last one.

A new source is a module beside this one and its name in `SOURCES` (and, with its settings, in `config.DataSource`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metal_defects.config import Settings
from metal_defects.data.manifest import Attempt
from metal_defects.data.sources.base import NothingHereError, SourceKind
from metal_defects.data.sources.earlier import EARLIER
from metal_defects.data.sources.kaggle import KAGGLE
from metal_defects.data.sources.path import PATH
from metal_defects.data.sources.synthetic import SYNTHETIC
from metal_defects.data.sources.url import URL
from metal_defects.download import UnavailableError
from metal_defects.errors import DataError
from metal_defects.log import logger

# By the name that `data.source` takes.
SOURCES = {source.kind: source for source in (PATH, URL, KAGGLE, SYNTHETIC)}
# What `data.source: auto` tries, in this order.
AUTO = (PATH, EARLIER, KAGGLE, SYNTHETIC)
SOURCE_TITLES = {source.kind: source.title for source in (*SOURCES.values(), *AUTO)}


@dataclass(frozen=True)
class Source:
    """Where the images of a run come from.

    Attributes:
        kind: that of the source that gave them.
        folder: holds them, maybe a folder or two down.
        notice: a sentence that everyone who sees the results must see, if there is one.
        attempts: what was tried, in order, each with its outcome.
    """

    kind: str
    folder: Path
    notice: str | None
    attempts: tuple[Attempt, ...]


def find_source(settings: Settings) -> Source:
    """Get the images that config.yaml names; only `auto` without a path falls back to something else, and says so.

    Raises:
        DataError: the source is not there, is unsafe, or has nothing to give.
        DownloadError: it cannot be reached, or what it sends is incomplete.
    """
    if settings.config.data.source == "auto":
        return _try_all(settings)
    source = SOURCES[settings.config.data.source]
    return _use(source, settings, source.notice, ())


def source_fingerprint(settings: Settings) -> dict[str, Any]:
    """What a run would read, told from settings, names, sizes and times on this machine; nothing is fetched or opened.

    Where `auto` finds nothing on this machine, all that may come from elsewhere: which of it will answer is not known.
    """
    if settings.config.data.source != "auto":
        source = SOURCES[settings.config.data.source]
        return {"source": source.kind, **(source.fingerprint(settings) or {})}
    elsewhere: dict[str, Any] = {"source": " or ".join(source.kind for source in AUTO if not source.is_local)}
    for source in AUTO:
        found = source.fingerprint(settings)
        if found is not None and source.is_local:
            return {"source": source.kind, **found}
        elsewhere |= found or {}
    return elsewhere


def _try_all(settings: Settings) -> Source:
    attempts: list[Attempt] = []
    for source in AUTO:
        notice = source.notice and (
            f"No real images were found. {source.notice} Give your images with --data FOLDER. {_tell(attempts[-1:])}"
        )
        try:
            return _use(source, settings, notice, attempts)
        except (NothingHereError, UnavailableError) as error:
            attempts.append(Attempt(source=source.kind, outcome=str(error)))
    raise DataError(f"There must be images to learn from; give yours with --data FOLDER. {_tell(attempts)}")


def _use(source: SourceKind, settings: Settings, notice: str | None, failed: Sequence[Attempt]) -> Source:
    folder = source.fetch(settings)
    if notice:
        logger.warning(notice)
    return Source(source.kind, folder, notice, (*failed, Attempt(source=source.kind, outcome="used")))


def _tell(failed: Sequence[Attempt]) -> str:
    return " ".join(f"Tried {attempt.source}: {attempt.outcome}" for attempt in failed)

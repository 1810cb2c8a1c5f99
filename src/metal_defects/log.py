"""One log file with everything, one terminal with what matters, and progress bars with time left."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")
LOG_FILE = "metal_defects.log"
console = Console()
logger = logging.getLogger("metal_defects")


def setup_logging(
    folder: Path | None, level: str, max_bytes: int, backups: int, terminal: Console = console, verbose: bool = False
) -> Path | None:
    """Send records to `folder`/metal_defects.log, where there is a folder, and short messages to the terminal.

    The file gets one line per event (tracebacks excepted) at `level`; the terminal gets INFO and up, without
    records that carry a traceback; `verbose` adds DEBUG there.
    """
    path = None if folder is None else folder / LOG_FILE
    handlers: list[logging.Handler] = []
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        to_file = RotatingFileHandler(path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8")
        to_file.setFormatter(_OneLine("%(asctime)s %(levelname)s %(process)d %(module)s %(message)s"))
        to_file.setLevel(level)
        handlers.append(to_file)
    to_terminal = RichHandler(console=terminal, show_time=False, show_path=False, show_level=False, markup=False)
    to_terminal.setFormatter(_Short("%(message)s"))
    to_terminal.setLevel(logging.DEBUG if verbose else logging.INFO)
    to_terminal.addFilter(lambda record: not record.exc_info)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    for handler in (*handlers, to_terminal):
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logging.raiseExceptions = False  # where even the log cannot be written, the error that ends the run is shown alone
    return path


class _OneLine(logging.Formatter):
    """The message on one line, whatever a file's name holds; a traceback follows on its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return " ".join(super().formatMessage(record).splitlines())


class _Short(logging.Formatter):
    """The message alone: a traceback belongs in the file."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return f"!  {text.lstrip()}" if record.levelno >= logging.WARNING else text


@contextmanager
def library_noise_to(path: Path) -> Iterator[None]:
    """Send what libraries write to standard error, from C++ too, to a file; the terminal keeps our messages."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A Rich progress display with counts, elapsed time and time left; silent where output is not a terminal."""
    columns = (
        TextColumn("  {task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Pass `items` on under a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, note="")
        for item in items:
            yield item
            bar.advance(task)

"""Logging: one file with everything, one terminal with what matters, and progress with the time left."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from metal_defects.system import stop_if_interrupted

Item = TypeVar("Item")
LOG_FILE = "metal_defects.log"
# Without a terminal: a line for each task so often, and one at its end if it took at least that long.
LINE_SECONDS = 30.0
LONG_SECONDS = 5.0
# The time left follows from the speed of this time: a step of a slow task takes minutes.
SPEED_SECONDS = 600.0
console = Console()
logger = logging.getLogger("metal_defects")


def setup_logging(
    folder: Path, level: str, max_bytes: int, backups: int, terminal: Console = console, verbose: bool = False
) -> Path:
    """Send records to `folder`/metal_defects.log and short messages to the terminal.

    The file gets one line per event (tracebacks excepted) at `level`; the terminal gets INFO and up, without
    records that carry a traceback; `verbose` adds DEBUG there.
    """
    from logging.handlers import RotatingFileHandler

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOG_FILE
    to_file = RotatingFileHandler(path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8")
    to_file.setFormatter(_OneLine("%(asctime)s %(levelname)s %(process)d %(module)s %(message)s"))
    to_file.setLevel(level)
    log_to_terminal(terminal, verbose)
    logger.addHandler(to_file)
    return path


def log_to_terminal(terminal: Console = console, verbose: bool = False) -> None:
    """Send short messages to the terminal, and nothing to a file."""
    from rich.logging import RichHandler

    to_terminal = RichHandler(console=terminal, show_time=False, show_path=False, show_level=False, markup=False)
    to_terminal.setFormatter(_Short("%(message)s"))
    to_terminal.setLevel(logging.DEBUG if verbose else logging.INFO)
    to_terminal.addFilter(lambda record: not record.exc_info)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(to_terminal)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logging.raiseExceptions = False  # where even the log cannot be written, the error that ends the run is shown alone


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
    """A progress display with counts, elapsed time and time left; lines in the log where output is no terminal.

    Give each task a `note=`, which may be empty.
    """
    if not console.is_terminal:
        with _progress_lines() as lines:
            yield lines
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, speed_estimate_period=SPEED_SECONDS) as bar:
        yield bar


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Pass `items` on under a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, note="")
        for item in items:
            yield item
            stop_if_interrupted()
            bar.advance(task)


class ProgressLines(Progress):
    """What a person reads of the progress in a file: a line now and then in place of a bar.

    Args:
        get_time: a clock, in seconds.
    """

    def __init__(self, get_time: Callable[[], float] | None = None) -> None:
        super().__init__(console=console, disable=True, speed_estimate_period=SPEED_SECONDS, get_time=get_time)

    def remove_task(self, task_id: TaskID) -> None:
        self._close(self._tasks[task_id])
        super().remove_task(task_id)

    def report(self) -> None:
        """Log a line for each task that is not finished."""
        for task in self.tasks:
            if not task.finished:
                left = [] if task.time_remaining is None else [f"{format_seconds(task.time_remaining)} left"]
                _log_progress(task, *left)

    def close(self) -> None:
        """Log the last line of each task that took long."""
        for task in self.tasks:
            self._close(task)

    def _close(self, task: Task) -> None:
        if (task.finished_time or task.elapsed or 0) >= LONG_SECONDS:
            _log_progress(task)


def format_seconds(seconds: float) -> str:
    """A duration for people: seconds up to two minutes, then minutes and seconds."""
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"


def _log_progress(task: Task, *more: str) -> None:
    count = f"{task.completed:.0f}" if task.total is None else f"{task.completed:.0f} of {task.total:.0f}"
    parts = [count, format_seconds(task.finished_time or task.elapsed or 0), *more]
    parts += [task.fields["note"]] if task.fields["note"] else []
    logger.info("   %s: %s", task.description, ", ".join(parts))


@contextmanager
def _progress_lines() -> Iterator[ProgressLines]:
    """Lines by a thread of their own: a step may take longer than the time between two of them."""
    lines, ended = ProgressLines(), threading.Event()

    def report_regularly() -> None:
        while not ended.wait(LINE_SECONDS):
            lines.report()

    thread = threading.Thread(target=report_regularly, daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        ended.set()
        thread.join()
    lines.close()

"""Logging of the commands that answer."""

from pathlib import Path

import typer
from rich.console import Console

from metal_defects.config import Settings, is_project
from metal_defects.log import log_to_terminal, setup_logging


def start_logging(settings: Settings) -> Path | None:
    """Log to the file, and to standard error: standard output belongs to the answers.

    Returns:
        The log file. None where there is none: the disk is read-only, which must keep nobody from an answer, or the
        folder is a stranger's, which gets no files that were not asked for.
    """
    options, terminal = settings.config.logging, Console(stderr=True)
    if is_project(settings.root):
        logs = settings.config.paths.logs
        try:
            return setup_logging(logs, options.level, options.max_bytes, options.backups, terminal)
        except OSError as error:
            typer.echo(f"! No log file: {error.strerror}. Got {error.filename}.", err=True)
    log_to_terminal(terminal)
    return None

"""The log: one line per event in the file, what matters on the terminal, nothing twice."""

import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from support import PROJECT

from metal_defects import log
from metal_defects.log import (
    ProgressLines,
    format_seconds,
    library_noise_to,
    logger,
    progress_bar,
    setup_logging,
    track,
)

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) \d+ \w+ .+")


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    shows_errors = logging.raiseExceptions
    yield
    logging.raiseExceptions = shows_errors
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


def start(folder: Path, level: str = "INFO", max_bytes: int = 100_000, backups: int = 3, verbose: bool = False) -> Path:
    return setup_logging(folder, level, max_bytes, backups, verbose=verbose)


def test_one_line_per_event_with_time_level_process_and_module(tmp_path: Path) -> None:
    path = start(tmp_path / "logs")
    logger.info("first")
    logger.warning("second %d", 2)
    lines = path.read_text().splitlines()
    assert path == tmp_path / "logs" / "metal_defects.log"
    assert len(lines) == 2
    assert all(LINE.fullmatch(line) for line in lines)
    assert f" WARNING {os.getpid()} test_log second 2" in lines[1]


def test_name_with_a_line_break_cannot_forge_an_event(tmp_path: Path) -> None:
    path = start(tmp_path)
    logger.warning("no image: %s", "a.bmp\n2026-01-01 00:00:00,000 INFO 1 runner all is well")
    lines = path.read_text().splitlines()
    assert len(lines) == 1
    assert "all is well" in lines[0]


def test_terminal_gets_messages_from_info_up_and_marks_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path)
    logger.debug("detail")
    logger.info("stage done [b]")
    logger.warning("random weights")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == ["stage done [b]", "! random weights"]


def test_verbose_adds_details_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tmp_path, verbose=True)
    logger.debug("detail")
    assert "detail" in capsys.readouterr().out


@pytest.mark.parametrize(("level", "count"), [("DEBUG", 3), ("INFO", 2), ("WARNING", 1), ("ERROR", 0)])
def test_level_is_that_of_the_file(level: str, count: int, tmp_path: Path) -> None:
    path = start(tmp_path, level)
    for tell in (logger.debug, logger.info, logger.warning):
        tell("event")
    assert len(path.read_text().splitlines()) == count


def test_traceback_goes_to_the_file_and_not_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = start(tmp_path)
    try:
        raise RuntimeError("broken wheel")
    except RuntimeError:
        logger.error("failed", exc_info=True)
    text = path.read_text()
    assert "Traceback (most recent call last)" in text
    assert "RuntimeError: broken wheel" in text
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err


def test_file_rotates_and_keeps_as_many_as_asked(tmp_path: Path) -> None:
    path = start(tmp_path, max_bytes=10_000, backups=2)
    for number in range(500):
        logger.info("event %05d %s", number, "x" * 60)
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, f"{path.name}.1", f"{path.name}.2"]
    assert all(file.stat().st_size <= 10_000 for file in tmp_path.iterdir())
    assert "event 00499" in path.read_text()


def test_second_start_does_not_write_everything_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = start(tmp_path / "a")
    second = start(tmp_path / "b")
    logger.info("once")
    assert first.read_text() == ""
    assert len(second.read_text().splitlines()) == 1
    assert capsys.readouterr().out.count("once") == 1


def test_full_disk_does_not_print_over_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    handler = next(handler for handler in logger.handlers if isinstance(handler, logging.FileHandler))
    monkeypatch.setattr(handler, "flush", fail)
    logger.info("event")
    assert capsys.readouterr().err == ""


def test_library_noise_goes_to_its_file_even_from_c(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "libraries.log"
    with pytest.raises(ValueError), library_noise_to(file):
        os.write(2, b"I0000 cpu_feature_guard\n")
        raise ValueError
    os.write(2, b"ours\n")
    assert file.read_text() == "I0000 cpu_feature_guard\n"
    assert capfd.readouterr().err == "ours\n"


def test_tracked_items_come_through_unchanged() -> None:
    assert list(track(iter(range(5)), "Counting", 5)) == [0, 1, 2, 3, 4]


# --- progress without a terminal -------------------------------------------------------------


class Clock:
    """Seconds that pass only when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def read_lines(path: Path) -> list[str]:
    return [line.split(" test_log ")[-1].split(" log ")[-1].strip() for line in path.read_text().splitlines()]


def test_a_line_tells_count_time_and_time_left(tmp_path: Path) -> None:
    path, clock = start(tmp_path), Clock()
    lines = ProgressLines(clock)
    maps = lines.add_task("Feature maps", total=1656, note="")
    lines.report()
    for clock.now in range(1, 13):
        lines.advance(maps, 50)
    lines.report()
    assert read_lines(path) == ["Feature maps: 0 of 1656, 0 s", "Feature maps: 600 of 1656, 12 s, 22 s left"]


def test_what_was_done_before_does_not_shorten_the_time_left(tmp_path: Path) -> None:
    """Resumed trials are reported at once: they say nothing of how long one takes."""
    path, clock = start(tmp_path), Clock()
    lines = ProgressLines(clock)
    trials = lines.add_task("Trials", total=20, note="score 0.1")
    lines.update(trials, completed=10)
    for clock.now in (100, 200):
        lines.advance(trials)
    lines.report()
    assert read_lines(path) == ["Trials: 12 of 20, 3 min 20 s, 13 min 20 s left, score 0.1"]


def test_a_long_task_has_a_last_line_and_a_short_one_none(tmp_path: Path) -> None:
    path, clock = start(tmp_path), Clock()
    lines = ProgressLines(clock)
    short, long, stopped = (lines.add_task(name, total=2, note="") for name in ("short", "long", "stopped early"))
    clock.now = 2
    lines.update(short, completed=2)
    clock.now = 9
    lines.update(long, advance=2, note="loss 0.2")
    lines.update(stopped, advance=1)
    lines.remove_task(stopped)
    clock.now = 60
    lines.report()
    lines.close()
    assert read_lines(path) == ["stopped early: 1 of 2, 9 s", "long: 2 of 2, 9 s, loss 0.2"]


def test_a_size_that_is_not_known_is_left_out(tmp_path: Path) -> None:
    path, lines = start(tmp_path), ProgressLines(Clock())
    lines.advance(lines.add_task("Downloading (MB)", total=None, note=""), 7)
    lines.report()
    assert read_lines(path) == ["Downloading (MB): 7, 0 s"]


def test_an_error_is_not_told_as_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LONG_SECONDS", 0)
    path = start(tmp_path)
    with pytest.raises(ZeroDivisionError), progress_bar() as bar:
        bar.add_task("Training", total=2, note="")
        raise ZeroDivisionError
    assert read_lines(path) == []


def test_a_terminal_has_a_bar_and_no_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LONG_SECONDS", 0)
    path, screen = start(tmp_path), io.StringIO()
    monkeypatch.setattr(log, "console", Console(file=screen, force_terminal=True, width=100))
    with progress_bar() as bar:
        bar.update(bar.add_task("Training", total=20, note=""), advance=7, note="val_loss 0.250")
        bar.refresh()
    assert re.search(r"Training .*7/20.*val_loss 0\.250", screen.getvalue())
    assert read_lines(path) == []


def test_quick_work_stays_quiet(tmp_path: Path) -> None:
    path = start(tmp_path)
    assert list(track(range(100), "Counting", 100)) == list(range(100))
    assert read_lines(path) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (31, "31 s"), (119.4, "119 s"), (120, "2 min 0 s"), (3671, "61 min 11 s")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


SCRIPT = """
import sys, time
from pathlib import Path
from metal_defects import log
log.LINE_SECONDS, log.LONG_SECONDS = 0.2, 0.5
log.setup_logging(Path(sys.argv[1]), "INFO", 100_000, 1)
for _ in log.track(range(2), "One long step", 2):
    time.sleep(0.5)
"""


def test_a_step_that_takes_long_is_not_silent_where_output_is_piped(tmp_path: Path) -> None:
    run = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    printed = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60, env=environment).stdout
    lines = [line.strip() for line in printed.splitlines()]
    assert lines == read_lines(tmp_path / "metal_defects.log")
    assert lines[0].startswith("One long step: 0 of 2, ")
    assert len([line for line in lines if line.startswith("One long step: 1 of 2, ")]) >= 1
    assert lines[-1] == "One long step: 2 of 2, 1 s"

"""The log: one line per event in the file, what matters on the terminal, nothing twice."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from metal_defects.log import library_noise_to, logger, setup_logging, track

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
    for log in (logger.debug, logger.info, logger.warning):
        log("event")
    assert len(path.read_text().splitlines()) == count


def test_traceback_goes_to_the_file_and_not_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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

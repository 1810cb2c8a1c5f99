"""Cores, the ordered parallel map (order, bounds, errors, early ends) and interrupts."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from metal_defects import system
from metal_defects.system import (
    WAITING_PER_WORKER,
    count_cores,
    map_ordered,
    remember_interrupts,
    stop_if_interrupted,
    was_interrupted,
)


@pytest.mark.parametrize(
    ("quota", "cores"), [("50000 100000", 1), ("150000 100000", 2), ("max 100000", 3), ("nonsense", 3), (None, 3)]
)
def test_a_container_has_the_cores_that_it_was_given(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if quota:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(system, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(system.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert count_cores() == cores


@pytest.mark.parametrize("workers", [None, 1, 4])
def test_results_come_in_the_order_of_the_items(workers: int | None) -> None:
    def wait(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    assert list(map_ordered(wait, range(50), workers)) == [number * number for number in range(50)]
    assert list(map_ordered(wait, [], workers)) == []


def test_no_more_is_taken_than_can_wait() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ordered(lambda number: number, items(), workers=3)
    assert taken == []
    for asked in range(1, 20):
        next(results)
        assert len(taken) == asked + 3 * WAITING_PER_WORKER
    results.close()


def test_threads_work_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=10)
    assert sorted(map_ordered(lambda _: together.wait(), range(3), workers=3)) == [0, 1, 2]


def test_an_error_comes_in_its_turn_and_drops_what_waits() -> None:
    begun = []

    def divide(number: int) -> float:
        begun.append(number)
        time.sleep(0.01)
        return 1 / (3 - number)

    results = map_ordered(divide, range(1000), workers=1)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    count = len(begun)
    assert count <= 5
    time.sleep(0.05)
    assert len(begun) == count


def test_a_caller_that_stops_leaves_no_thread() -> None:
    before = threading.active_count()
    results = map_ordered(lambda number: number, range(1000), workers=2)
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


@pytest.mark.usefixtures("usual_interrupts")
def test_interrupt_that_was_lost_is_raised_again() -> None:
    remember_interrupts()
    stop_if_interrupted()
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("an interrupt must be raised at once")
    assert was_interrupted()
    with pytest.raises(KeyboardInterrupt):
        stop_if_interrupted()
    remember_interrupts()
    assert not was_interrupted()


@pytest.mark.usefixtures("usual_interrupts")
def test_interrupts_that_are_ignored_stay_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    remember_interrupts()
    signal.raise_signal(signal.SIGINT)
    assert not was_interrupted()

"""The cores there are to work with, an ordered parallel map on them, and interrupts that are not lost."""

import math
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
WAITING_PER_WORKER = 2
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_interrupted = threading.Event()


def count_cores() -> int:
    """Cores that this process may use: a container with half a core has one, whatever its host has."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return cores


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Results of `function` in the order of `items`, computed by threads.

    An executor's own `map` takes all items at once and keeps every result until it is asked for: with images that is
    the whole data set in memory. Here no more than `WAITING_PER_WORKER` items per worker are taken ahead of what was
    asked for. An error ends it: what has not begun by then is dropped, as it is when the caller stops early.

    Args:
        function: called from several threads at once; only worth while where it leaves the interpreter.
        items: taken one after another, in the caller's thread.
        workers: threads; as many as there are cores where none is given.
    """
    workers, remaining = workers or count_cores(), iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future[Result]] = deque()
        waiting.extend(pool.submit(function, item) for item in islice(remaining, WAITING_PER_WORKER * workers))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def remember_interrupts() -> None:
    """From now on Ctrl-C is remembered besides raising `KeyboardInterrupt`, which does not always arrive.

    Python loses one that comes while the message of another error is made: `int("'x'")` in a library that tries one
    type after another is enough. Where interrupts are ignored, as they are behind `nohup`, they stay so.
    """
    _interrupted.clear()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def was_interrupted() -> bool:
    """Whether the user has pressed Ctrl-C since `remember_interrupts`."""
    return _interrupted.is_set()


def stop_if_interrupted() -> None:
    """Raise the `KeyboardInterrupt` that was lost, if one was."""
    if was_interrupted():
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _interrupted.set()
    raise KeyboardInterrupt

"""The cores there are to work with, and an ordered parallel map on them."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
WAITING_PER_WORKER = 2
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


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

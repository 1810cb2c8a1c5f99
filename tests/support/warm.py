"""The command line in processes of their own that need not import TensorFlow first.

A server imports the large libraries once and forks for every call: as real a process, to be killed like any other, but
seconds earlier. It imports nothing of this package, and TensorFlow starts its threads in the forked process alone.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType

from support import PROJECT

LIBRARIES = (
    "pytest",
    "tensorflow",
    "keras",
    "keras_tuner",
    "onnxruntime",
    "matplotlib.pyplot",
    "sklearn.linear_model",
    "sklearn.model_selection",
    "scipy.stats",
)
COVERAGE = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
Preparation = Callable[[], Callable[[], None]]
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(list(LIBRARIES))


class WarmProcess:
    """A call of main.py, with the part of `subprocess.Popen` that tests use.

    Args:
        arguments: of main.py.
        environment: all variables of the process.
        before: called in the process before main.py begins; what it gives back is called at the end.
        measured: whether its lines count for the coverage, which takes a little longer.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        before: Preparation | None = None,
        measured: bool = False,
    ) -> None:
        self.args = [sys.executable, "main.py", *arguments]
        self._folder = tempfile.TemporaryDirectory(prefix="call-")
        self._streams = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        steps = [*([_measure] if measured else []), *([before] if before else [])]
        self._process = _server.Process(target=_call, args=(list(arguments), dict(environment), self._streams, steps))
        _start_server()
        # The process would import what a test left behind as the main module.
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            self._process.start()
        finally:
            sys.modules["__main__"] = main

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what it wrote to standard output and standard error.

        Raises:
            subprocess.TimeoutExpired: it takes longer.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        out, err = (path.read_text(encoding="utf-8") if path.exists() else "" for path in self._streams)
        return out, err


def _call(
    arguments: list[str], environment: dict[str, str], streams: list[Path], preparations: list[Preparation]
) -> None:
    """Become a call of main.py, in the forked process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in zip((1, 2), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(PROJECT)
    sys.argv = ["main.py", *arguments]
    ends = [prepare() for prepare in preparations]
    try:
        runpy.run_path("main.py", run_name="__main__")
    finally:
        for end in ends:
            end()
        sys.stdout.flush()
        sys.stderr.flush()


def _start_server() -> None:
    """Start the server where it does not run yet, without counting lines of its own."""
    hidden = {name: os.environ.pop(name) for name in COVERAGE if name in os.environ}
    forkserver.ensure_running()
    os.environ.update(hidden)


def _measure() -> Callable[[], None]:
    """Count the lines of this process, where coverage is measured."""
    from coverage import process_startup

    measuring = process_startup()

    def save() -> None:
        if measuring is not None:
            measuring.stop()
            measuring.save()

    return save

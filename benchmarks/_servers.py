"""Processes of the serving benchmark: an environment of their own, the API, the app, and clients that cost little."""

import itertools
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from _common import PROJECT

from metal_defects.errors import UserError

VENV = "/opt/venv"
STEP = re.compile(r"^RUN (.*?[^\\])$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Environment:
    """A virtual environment of the serving requirements.

    Attributes:
        folder: of the environment.
        python: its interpreter.
        sizes: bytes by package, trimmed as in the image.
        untrimmed: bytes of all before.
    """

    folder: Path
    python: str
    sizes: dict[str, int]
    untrimmed: int


def make_environment(folder: Path) -> Environment:
    """Run the Dockerfile's steps that make the image's environment, in `folder`."""
    steps = STEP.findall((PROJECT / "Dockerfile").read_text(encoding="utf-8"))
    install, trim = [text.replace("\\\n", " ").replace(VENV, str(folder)) for text in steps if VENV in text]
    tools = folder.with_name("tools")
    tools.mkdir()
    for name, call in (("python", ""), ("pip", " -m pip")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    _shell(install, path)
    untrimmed = sum(_measure_packages(folder).values())
    _shell(trim, path)
    return Environment(folder, str(folder / "bin" / "python"), _measure_packages(folder), untrimmed)


def _shell(step: str, path: str) -> None:
    shell, environment = ["/bin/sh", "-ec", step], os.environ | {"PATH": path}
    done = subprocess.run(shell, cwd=PROJECT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"The serving environment cannot be made: {done.stderr.strip().splitlines()[-1]}")


def _measure_packages(folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        parts = path.relative_to(folder).parts  # lib, python3.12, site-packages, package, ...
        name = parts[3].split("-")[0].removesuffix(".libs") if len(parts) > 4 else "other"
        sizes[name] = sizes.get(name, 0) + path.stat().st_size
    return sizes


@contextmanager
def serving(command: Sequence[str], health: str, bundle: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, float]]:
    """A server, its port, and the seconds from its start to its first healthy answer; PORT stands for the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [word.replace("PORT", str(port)) for word in command]
    variables = {"METAL_DEFECTS_BUNDLE": str(bundle), "MALLOC_ARENA_MAX": "2"}
    begin = time.perf_counter()
    process = subprocess.Popen(words, cwd=PROJECT, env=os.environ | variables, stdout=subprocess.DEVNULL)
    try:
        while not _answers(f"http://127.0.0.1:{port}{health}"):
            if process.poll() is not None or time.perf_counter() - begin > 60:
                raise UserError(f"The server did not start: {' '.join(words)}")
            time.sleep(0.01)
        yield process, port, time.perf_counter() - begin
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def read_memory(process: subprocess.Popen[bytes], field: str = "VmRSS") -> float:
    """Megabytes (10^6 bytes) of the process: VmRSS now, VmHWM at most."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


class Clients:
    """Connections that send image files one after the other, as fast as they are answered.

    Args:
        port: of the API.
        images: contents of image files.
        count: of connections.
    """

    def __init__(self, port: int, images: Sequence[bytes], count: int) -> None:
        head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        calls = [f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image for image in images]
        self._calls = itertools.cycle(calls)
        self._port = port
        self._count = count
        self._lock = threading.Lock()
        self.seconds: list[float] = []
        self.errors = 0

    def run(self, seconds: float = float("inf"), requests: int | None = None) -> float:
        """Send until the time or the number of requests is used up; seconds that it took."""
        begin = time.perf_counter()
        left = itertools.count()
        threads = [
            threading.Thread(target=self._work, args=(begin + seconds, left, requests or float("inf")))
            for _ in range(self._count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begin

    def _work(self, end: float, sent: "itertools.count[int]", most: float) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while time.perf_counter() < end:
                with self._lock:
                    if next(sent) >= most:
                        return
                    call = next(self._calls)
                begin = time.perf_counter()
                try:
                    connection.sendall(call)
                    is_good = _read_answer(connection)
                except OSError:
                    is_good = False
                took = time.perf_counter() - begin
                with self._lock:
                    self.seconds.append(took)
                    self.errors += not is_good
                if not is_good:
                    return


def _read_answer(connection: socket.socket) -> bool:
    """Whether the answer is a 200 with a label in it."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _receive(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += _receive(connection)
    return head.startswith(b"HTTP/1.1 200") and b'"label"' in body


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data

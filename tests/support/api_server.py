"""Starts the real API server as people do, on a free port of this machine."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import PROJECT


class ApiServer:
    """A running server.

    Attributes:
        process: of `main.py serve`.
        lines: what it wrote to standard output so far.
        address: such as "http://127.0.0.1:40123".
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        while not self.lines or "address" not in json.loads(self.lines[-1]):
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(process.stderr.read())
            self.lines.append(line)
        self.address: str = json.loads(self.lines[-1])["address"]
        self.port = int(self.address.rsplit(":", 1)[1])
        self._reader = threading.Thread(target=lambda: self.lines.extend(process.stdout), daemon=True)
        self._reader.start()

    def records(self) -> list[dict[str, Any]]:
        """The log so far; every line must be JSON."""
        return [json.loads(line) for line in self.lines]

    def resident_bytes(self) -> int:
        """Memory that the process has in use, where the system tells."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def wait(self) -> int:
        """Exit code, once it has stopped and all of its log is read."""
        code = self.process.wait(timeout=30)
        self._reader.join(timeout=10)
        return code


def command(*arguments: str) -> list[str]:
    """The command line of the server."""
    return [sys.executable, str(PROJECT / "main.py"), "serve", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """Of the process: this one's, without what would change the server's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("METAL_DEFECTS", "PORT"))}
    return kept | {"METAL_DEFECTS_ROOT": str(PROJECT), "PYTHONPATH": str(PROJECT / "src")} | variables


@contextmanager
def run_api(bundle: Path, *arguments: str, **variables: str) -> Iterator[ApiServer]:
    """A server that answers, stopped when the block ends."""
    process = subprocess.Popen(
        command("--port", "0", "--bundle", str(bundle), *arguments),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**variables),
    )  # fmt: skip
    try:
        yield ApiServer(process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()

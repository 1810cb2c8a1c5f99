"""Runs the API in one process: where it may listen, when it is ready, how it stops."""

import gc
import ipaddress
import os
import signal
import socket
import sys
import time
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from PIL import Image

from metal_defects.api.application import create_app
from metal_defects.api.service import Service
from metal_defects.api.telemetry import log_as_json
from metal_defects.config import Serving, Settings
from metal_defects.errors import ConfigError
from metal_defects.inference.bundle import find_bundle
from metal_defects.inference.predictor import Predictor
from metal_defects.log import logger
from metal_defects.system import count_cores

ENV_KEY = "METAL_DEFECTS_API_KEY"
BACKLOG = 1024
# Python's own 5 ms leave cores idle: a thread that comes back from the graph waits so long for the interpreter.
SWITCH_SECONDS = 0.0002


def run_server(settings: Settings, bundle: Path | None = None, is_insecure: bool = False) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: `config.serving` says where to listen and what to accept.
        bundle: to serve; searched for where None.
        is_insecure: listen on a public address without a key.

    Raises:
        ConfigError: the address is taken, unknown, or public and without a key.
        BundleError: there is no usable bundle.
    """
    limits = settings.config.serving
    api_key = os.environ.get(ENV_KEY, "").strip() or None
    require_safe_address(limits.host, api_key, is_insecure)
    listener = open_listener(limits.host, limits.port)
    folder = find_bundle(settings.config.paths.artifacts, bundle)
    # One more than there are cores: while a thread waits for the interpreter, another keeps its core busy.
    threads = count_cores() + 1
    predictor = Predictor.load(folder, threads=1)
    _warm_up(predictor)
    sys.setswitchinterval(SWITCH_SECONDS)
    log_as_json()
    app = create_app(predictor, limits, threads, api_key)
    options = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, ws="none", proxy_headers=False,
        timeout_graceful_shutdown=int(limits.timeout_seconds) + 1,
    )  # fmt: skip
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    fields: dict[str, Any] = {
        "address": address,
        "docs": f"{address}/docs",
        "bundle": str(folder),
        "hash": predictor.bundle.hash,
        "threads": threads,
        "needs_key": api_key is not None,
    }
    if api_key is None and not is_local(limits.host):
        logger.warning("no API key: anybody who can reach %s can use this server", limits.host)
    Server(options, app.state.service, limits, fields).run(sockets=[listener])


def require_safe_address(host: str, api_key: str | None, is_insecure: bool) -> None:
    """Refuse to let everybody in by accident.

    Raises:
        ConfigError: the address can be reached from elsewhere and no key guards it.
    """
    if not (api_key or is_insecure or is_local(host)):
        raise ConfigError(
            f"Anybody who can reach {host} could use this server. Set {ENV_KEY}, listen on 127.0.0.1, or add "
            f"--insecure if that is meant. Got no key."
        )


def is_local(host: str) -> bool:
    """Whether only this machine reaches it; a host name other than localhost may stand for any address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        ConfigError: the address is taken or unknown.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP)[0]
        # Not socket.create_server: it leaves the protocol open, asyncio then does not switch Nagle's algorithm off,
        # and every answer waits 40 ms for an acknowledgement.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        return listener
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}, port {port}; choose others with --host and --port. "
            f"Got '{error.strerror or error}'."
        ) from error


class Server(uvicorn.Server):
    """Stops in steps: readyz says no, then no new connections, then the calls that are being answered end.

    SIGTERM leaves load balancers `drain_seconds` to notice; SIGINT, or a second signal, does not.

    Args:
        options: of uvicorn.
        service: to drain.
        limits: bounds in time.
        fields: of the log line that says that the server is ready to answer, and to be stopped.
    """

    def __init__(self, options: uvicorn.Config, service: Service, limits: Serving, fields: dict[str, Any]) -> None:
        super().__init__(options)
        self._fields = fields
        self._service = service
        self._limits = limits
        self._stop_at = float("inf")
        self._idle_since: dict[object, tuple[object, float]] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called once the signals are caught."""
        await super().startup(sockets)
        logger.info("listening", extra={"fields": self._fields})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called once no more connections are wanted."""
        logger.info("stopping")
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal's handler, between any two instructions: only sets values."""
        is_first = not self._service.is_draining
        self._service.is_draining = True
        delay = self._limits.drain_seconds if is_first and sig == signal.SIGTERM else 0
        self.force_exit = self.should_exit
        self._stop_at = min(self._stop_at, time.monotonic() + delay)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if time.monotonic() >= self._stop_at:
            self.should_exit = True
        if counter % 10 == 0:
            self._drop_stalled()
        return await super().on_tick(counter)

    def _drop_stalled(self) -> None:
        """Close connections that have been sending the headers of one call for longer than a call may take.

        uvicorn has no such bound. `connection.cycle`, its `response_complete` and `connection.transport` are private to
        its HTTP protocols, so the pinned version matters: the test of slow clients tells when they change.
        """
        now = time.monotonic()
        known, self._idle_since = self._idle_since, {}
        connection: Any
        for connection in self.server_state.connections:
            cycle = connection.cycle
            if cycle is not None and not cycle.response_complete:
                continue
            before, since = known.get(connection, (cycle, now))
            if before is not cycle:
                since = now
            if now - since > self._limits.timeout_seconds:
                connection.transport.close()
            self._idle_since[connection] = (cycle, since)


def _warm_up(predictor: Predictor) -> None:
    """The first images cost more than all others: let nobody wait for them."""
    side = max(predictor.bundle.image_size, predictor.bundle.limits.min_side)
    stream = BytesIO()
    Image.new("L", (side, side)).save(stream, "PNG")
    predictor.predict(stream.getvalue())
    # What is there now stays for good: the collector need not look through it again while calls wait.
    gc.collect()
    gc.freeze()

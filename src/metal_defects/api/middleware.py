"""What happens to every call before and after its route: id, key, log line, metrics, and an end to its body."""

import asyncio
import re
import time
import uuid
from collections.abc import Set
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metal_defects.api.errors import INTERNAL, CallError
from metal_defects.api.security import KeyCheck
from metal_defects.api.telemetry import Metrics, current_request_id
from metal_defects.log import logger

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LINGER_SECONDS = 2.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class Edge:
    """ASGI middleware.

    Args:
        app: the routes.
        metrics: to count in.
        paths: of the application's routes; calls to all others are counted together.
        api_key: that calls must show; None where none is needed.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Set[str], api_key: str | None) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths
        self._key = KeyCheck(api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, receive, send)
        current_request_id.set(call.request_id)
        scope.setdefault("state", {})["call"] = call
        try:
            await self._answer(scope, call)
        finally:
            self._record(scope, call)

    async def _answer(self, scope: Scope, call: "_Call") -> None:
        if not await self._key.may_enter(Request(scope)):
            message = "Send the API key in the header X-API-Key, or as Authorization: Bearer."
            response = respond(CallError(401, "unauthorized", message), call.request_id)
            await response(scope, call.receive, call.send)
            return
        try:
            await self._app(scope, call.receive, call.send)
        except ClientDisconnect:
            call.notes["error"] = "disconnected"
        except Exception:
            logger.exception("a call failed")
            if call.status:
                raise
            refusal = CallError(500, INTERNAL, "The server made a mistake; its log says more under this request_id.")
            await respond(refusal, call.request_id)(scope, call.receive, call.send)

    def _record(self, scope: Scope, call: "_Call") -> None:
        seconds = time.perf_counter() - call.start
        # Anybody can make up paths: a series for each of them would fill the memory.
        path = scope["path"] if scope["path"] in self._paths else "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        # A client that hangs up before its answer has no status; 499 is what proxies log.
        status = call.status or 499
        self._metrics.requests.labels(method, path, str(status)).inc()
        self._metrics.request_seconds.labels(path).observe(seconds)
        fields = {
            "method": method,
            "path": scope["path"][:200],
            "status": status,
            "milliseconds": round(1000 * seconds, 2),
            "bytes": call.body_bytes,
            "client": scope["client"][0] if scope.get("client") else None,
            **call.notes,
        }
        logger.info("request", extra={"fields": fields})


class _Call:
    """One call, and what is known of it so far.

    Attributes:
        request_id: the client's own where it is harmless, else a new one.
        start: `time.perf_counter` at its beginning.
        status: of the answer; 0 before it starts.
        body_bytes: read so far.
        notes: further fields for the log line.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        self.request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        self.start = time.perf_counter()
        self.status = 0
        self.body_bytes = 0
        self.notes: dict[str, Any] = {}
        self._receive = receive
        self._send = send
        self._is_read = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"

    async def receive(self) -> Message:
        message = await self._receive()
        self.body_bytes += len(message.get("body", b""))
        self._is_read |= not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.request_id
            if not self._is_read and self.status >= 400:
                headers["Connection"] = "close"
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and not self._is_read and self.status >= 400:
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        """Read and forget what the client still sends: closing at once would destroy the answer on its way."""
        end = time.perf_counter() + LINGER_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._is_read and time.perf_counter() < end:
                    await self.receive()


def respond(refusal: CallError, request_id: str) -> JSONResponse:
    """The HTTP response of a refusal."""
    return JSONResponse(refusal.body(request_id), refusal.status, refusal.headers())

"""The API key: which calls need it, how it is shown, and whether it is the right one."""

import hashlib
import hmac

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency
from fastapi.security import APIKeyHeader, HTTPBearer

# The description says how to call, and answers nothing.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
OPEN_FOLDER = "/static-offline-docs/"  # scripts and styles of /docs
_header = APIKeyHeader(name="X-API-Key", auto_error=False)
_bearer = HTTPBearer(auto_error=False)
# On a router, they put its routes under the Authorize button of /docs; it is `KeyCheck` that refuses.
SCHEMES: list[Dependency] = [Depends(_header), Depends(_bearer)]


def is_open(path: str) -> bool:
    """Whether a path needs no key; one that does not exist needs it too, so that nothing is told about it."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


class KeyCheck:
    """Who may call.

    Args:
        api_key: that calls must show; None where none is needed.
    """

    def __init__(self, api_key: str | None) -> None:
        self._digest = None if api_key is None else _digest(api_key.encode())

    async def may_enter(self, request: Request) -> bool:
        """Whether the call needs no key or shows the right one."""
        # Not request.url: that is made from the Host header too, which the client chooses.
        if self._digest is None or is_open(request.scope["path"]):
            return True
        bearer = await _bearer(request)
        shown = await _header(request) or (bearer.credentials.strip() if bearer else "")
        return hmac.compare_digest(_digest(shown.encode("latin-1")), self._digest)


def _digest(key: bytes) -> bytes:
    """Of equal length for any key, so that a comparison tells nothing about it."""
    return hashlib.sha256(key).digest()

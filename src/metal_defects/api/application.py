"""The REST API as an application: the routes of `api.routes` behind the middleware."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route

from metal_defects import __version__
from metal_defects.api.errors import CallError
from metal_defects.api.middleware import Edge, respond
from metal_defects.api.routes import ROUTERS
from metal_defects.api.security import SCHEMES, is_open
from metal_defects.api.service import Service
from metal_defects.api.workers import Classifier
from metal_defects.config import Serving

DESCRIPTION = """\
Classifies images of metal surfaces. Send files to `/v1/predict`:

    curl -F files=@a.png -F files=@b.jpg http://127.0.0.1:8000/v1/predict
    curl --data-binary @a.png -H "Content-Type: image/png" http://127.0.0.1:8000/v1/predict

`/v1/heatmap` takes one image in the same two ways and shows where the model looked.

Where the server has an API key, every call but the health checks and this page must show it in the header `X-API-Key`
or as `Authorization: Bearer`. Every error has a stable `code` and a sentence for people.
"""
_REASONS = {404: "not_found", 405: "method_not_allowed"}


def create_app(classifier: Classifier, limits: Serving, threads: int = 1, api_key: str | None = None) -> FastAPI:
    """The application; `app.state.service` is its `Service`.

    Args:
        classifier: answers for one image; shared between threads.
        limits: bounds on a call.
        threads: images that are worked on at once.
        api_key: that every call must show, but health checks and the description; None where none is needed.
    """
    service = Service(classifier, limits, threads)

    @asynccontextmanager
    async def close_workers(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.workers.close()

    app = FastAPIOffline(
        title="Metal surface defects",
        version=__version__,
        description=DESCRIPTION,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=close_workers,
    )
    app.state.service = service
    for router in ROUTERS:
        needs_key = api_key is not None and not all(is_open(path) for path in _list_paths(router.routes))
        app.include_router(router, dependencies=SCHEMES if needs_key else None)
    paths = frozenset(path for routes in (app, *ROUTERS) for path in _list_paths(routes.routes))
    app.add_middleware(Edge, metrics=service.metrics, paths=paths, api_key=api_key)
    app.add_exception_handler(CallError, _show_refusal)
    app.add_exception_handler(HTTPException, _show_http_error)
    return app


def _list_paths(routes: Sequence[BaseRoute]) -> list[str]:
    return [route.path for route in routes if isinstance(route, Route)]


async def _show_refusal(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, CallError)
    request.state.call.notes["error"] = refusal.code
    return respond(refusal, request.state.call.request_id)


async def _show_http_error(request: Request, error: Exception) -> Response:
    """Of the router: no such path, no such method."""
    assert isinstance(error, HTTPException)
    refusal = CallError(error.status_code, _REASONS.get(error.status_code, "http_error"), f"{error.detail}.")
    response = respond(refusal, request.state.call.request_id)
    response.headers.update(error.headers or {})
    return response

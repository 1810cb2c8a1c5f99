"""The REST API: routes, and what they answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from metal_defects import __version__
from metal_defects.api.errors import CallError, refuse_all
from metal_defects.api.middleware import Edge, respond
from metal_defects.api.schemas import (
    HEATMAP_ANSWERS,
    HEATMAP_BODY,
    PREDICT_BODY,
    REFUSALS,
    Answer,
    Health,
    Limits,
    ModelCard,
)
from metal_defects.api.telemetry import Metrics
from metal_defects.api.uploads import Upload, read_uploads
from metal_defects.api.workers import Classifier, Memory, Overlay, Workers
from metal_defects.config import Serving
from metal_defects.inference.predictor import Failure, Prediction

DESCRIPTION = """\
Classifies images of metal surfaces. Send files to `/v1/predict`:

    curl -F files=@a.png -F files=@b.jpg http://127.0.0.1:8000/v1/predict
    curl --data-binary @a.png -H "Content-Type: image/png" http://127.0.0.1:8000/v1/predict

`/v1/heatmap` takes one image in the same two ways and shows where the model looked.

Where the server has an API key, every call but the health checks must show it in the header `X-API-Key` or as
`Authorization: Bearer`. Every error has a stable `code` and a sentence for people.
"""
Result = TypeVar("Result")
Work = Callable[[Sequence[Upload]], Awaitable[list[Result | Failure]]]
_REASONS = {404: "not_found", 405: "method_not_allowed"}


class Service:
    """What the routes share.

    Attributes:
        is_draining: the server will stop soon; calls are still answered.
    """

    def __init__(self, classifier: Classifier, limits: Serving, threads: int) -> None:
        self.bundle = classifier.bundle
        self.limits = limits
        self.workers = Workers(classifier, limits, threads)
        self.memory = Memory(limits.max_waiting_bytes)
        self.metrics = Metrics(lambda: self.workers.waiting, lambda: self.memory.used)
        self.metrics.model.labels(self.bundle.card["name"], self.bundle.hash).set(1)
        self.is_draining = False

    async def predict(self, request: Request) -> list[Prediction | Failure]:
        """Read the files of a call and answer each, within the time for one call.

        Raises:
            CallError: no file could be read or classified.
        """
        return await self._answer(request, self.limits, self.workers.answer)

    async def paint(self, request: Request) -> bytes:
        """Read the one image of a call: a PNG file of it with the heat map over it.

        Raises:
            CallError: the image could not be read or classified, or the model has no heat map.
        """
        one = self.limits.model_copy(update={"max_files": 1})
        overlay = (await self._answer(request, one, self.workers.paint))[0]
        if overlay.png is None:
            raise CallError(409, "no_heat_map", "The model that is being served cannot say where it looked.")
        return overlay.png

    async def _answer(self, request: Request, limits: Serving, work: Work[Result]) -> list[Result | Failure]:
        uploads: Sequence[Upload | Failure] | None = None
        try:
            async with asyncio.timeout(limits.timeout_seconds):
                with self.memory.lease() as lease:
                    uploads = await read_uploads(request.headers, request.stream(), limits, lease.take)
                    answered = iter(await work([item for item in uploads if isinstance(item, Upload)]))
        except TimeoutError as error:
            if uploads is None:
                message = f"The body must arrive within {limits.timeout_seconds:g} seconds. It did not."
                raise CallError(408, "too_slow", message) from error
            message = f"No answer within {limits.timeout_seconds:g} seconds; send fewer files or try again."
            raise CallError(503, "deadline", message, retry_after=1) from error
        results = [next(answered) if isinstance(item, Upload) else item for item in uploads]
        self._count(results)
        failures = [result for result in results if isinstance(result, Failure)]
        request.state.call.notes.update(files=len(results), failed=len(failures))
        if len(failures) == len(results):
            raise refuse_all(failures)
        return results

    def _count(self, results: Sequence[Prediction | Overlay | Failure]) -> None:
        for result in results:
            if isinstance(result, Failure):
                self.metrics.images.labels("error", result.code).inc()
                continue
            prediction = result.prediction if isinstance(result, Overlay) else result
            self.metrics.images.labels("label", prediction.label).inc()
            self.metrics.image_seconds.observe(prediction.milliseconds / 1000)


def create_app(classifier: Classifier, limits: Serving, threads: int = 1, api_key: str | None = None) -> FastAPI:
    """The application; `app.state.service` is its `Service`.

    Args:
        classifier: answers for one image; shared between threads.
        limits: bounds on a call.
        threads: images that are worked on at once.
        api_key: that every call but health checks must show; None where none is needed.
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
    app.add_middleware(Edge, metrics=service.metrics, api_key=api_key)
    app.add_exception_handler(CallError, _show_refusal)
    app.add_exception_handler(HTTPException, _show_http_error)
    _add_routes(app, service)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    guarded = {401: REFUSALS[401]}

    @app.post(
        "/v1/predict",
        summary="Classify one or many images",
        response_model=Answer,
        responses=REFUSALS,
        openapi_extra={"requestBody": PREDICT_BODY},
    )
    async def predict(request: Request) -> Response:
        """Answers come in the order of the files, good ones beside bad ones.

        The status is 200 when at least one file was classified. When none was, it says what they have in common
        (413 too large, 415 not a known image, else 422), and `error` and `results` say more.
        """
        results = await service.predict(request)
        body = {
            "request_id": request.state.call.request_id,
            "model": {"name": service.bundle.card["name"], "hash": service.bundle.hash},
            "notice": service.bundle.notice,
            "results": [result.to_dict() for result in results],
        }
        return JSONResponse(body)

    @app.post(
        "/v1/heatmap",
        summary="Show where the model looked",
        response_class=Response,
        responses=HEATMAP_ANSWERS,
        openapi_extra={"requestBody": HEATMAP_BODY},
    )
    async def heat_map(request: Request) -> Response:
        """The image with a heat map over it, yellow to red, and boxes around what was found: a PNG file."""
        return Response(await service.paint(request), media_type="image/png")

    @app.get("/v1/model", summary="What is being served", response_model=ModelCard, responses=guarded)
    async def model() -> Response:
        """The model's names, data, metrics and limits."""
        return JSONResponse(_describe(service))

    @app.get("/healthz", summary="Is the process alive?", response_model=Health)
    async def health() -> Response:
        """Answers 200 as long as the process can answer. Needs no key."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", summary="Should calls be sent here?", response_model=Health, responses={503: {"model": Health}})
    async def ready() -> Response:
        """Answers 503 once the server was told to stop. Needs no key."""
        if service.is_draining:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ready"})

    @app.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}, **guarded},
    )
    async def metrics() -> Response:
        """Calls, images by label and error, times, waiting images, memory."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _describe(service: Service) -> dict[str, Any]:
    card = service.bundle.card
    return {
        "name": card["name"],
        "hash": service.bundle.hash,
        "created": card.get("created"),
        "code_version": card.get("code_version"),
        "classes": list(service.bundle.classes),
        "notice": service.bundle.notice,
        "input": card["input"],
        "limits": {name: getattr(service.limits, name) for name in Limits.model_fields},
        **{key: card[key] for key in ("variants", "default", "data", "metrics", "provenance")},
    }


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

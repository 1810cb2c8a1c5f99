"""What the routes share: the model, its workers, the memory for uploads, the metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from metal_defects.api.errors import CallError, refuse_all
from metal_defects.api.telemetry import Metrics
from metal_defects.api.uploads import Upload, read_uploads
from metal_defects.api.workers import Classifier, Memory, Overlay, Workers
from metal_defects.config import Serving
from metal_defects.inference.answer import Failure, Outcome, Prediction

Result = TypeVar("Result", Prediction, Overlay)
Work = Callable[[Sequence[Upload]], Awaitable[list[Result | Failure]]]


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
        self.metrics.model.labels(self.bundle.card.name, self.bundle.hash).set(1)
        self.is_draining = False

    async def predict(self, request: Request) -> list[Outcome]:
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
        [overlay] = await self._answer(request, one, self.workers.paint)
        assert isinstance(overlay, Overlay)  # a failure alone was raised
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


async def _get_service(request: Request) -> Service:
    return request.app.state.service


# A parameter of this type gets a route the service of its application.
TheService = Annotated[Service, Depends(_get_service)]

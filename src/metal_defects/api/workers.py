"""Inference in a pool sized to the machine, behind a queue of bounded length and size."""

import asyncio
import contextvars
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from metal_defects.api.errors import INTERNAL, CallError
from metal_defects.api.uploads import Upload
from metal_defects.config import Serving
from metal_defects.data.imaging import ImageError, decode_image, require_pixels
from metal_defects.inference.answer import Failure, Outcome, Prediction
from metal_defects.inference.bundle import Bundle
from metal_defects.inference.overlay import paint_overlay
from metal_defects.inference.predictor import Input
from metal_defects.log import logger

# Two images as large as this at once would not fit into a small container's memory.
LARGE_IMAGE_PIXELS = 3_000_000
OVERLAY_SIDE = 1024
Result = TypeVar("Result")


class Classifier(Protocol):
    """What the API needs of a `Predictor`."""

    bundle: Bundle

    def predict(self, source: Input, name: str | None = None) -> Prediction: ...

    def explain(self, source: Input, name: str | None = None) -> tuple[Prediction, np.ndarray | None]: ...


@dataclass(frozen=True)
class Overlay:
    """An answer, and where the model looked.

    Attributes:
        png: the image with the heat map over it, `OVERLAY_SIDE` pixels at most; None where the model has no heat map.
    """

    prediction: Prediction
    png: bytes | None


@dataclass
class Memory:
    """Bytes of all calls that are being read or answered.

    Attributes:
        limit: for all of them together.
        used: at this moment.
    """

    limit: int
    used: int = 0

    @contextmanager
    def lease(self) -> Iterator["Lease"]:
        """What one call takes; given back when the block ends."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self.used -= lease.taken


@dataclass
class Lease:
    """The share of one call."""

    memory: Memory
    taken: int = 0

    def take(self, count: int) -> None:
        """Reserve `count` bytes more.

        Raises:
            CallError: other calls hold the rest.
        """
        if self.memory.used + count > self.memory.limit:
            raise CallError(503, "overloaded", "Other calls hold all memory for uploads; try again.", retry_after=1)
        self.memory.used += count
        self.taken += count


class Workers:
    """Threads that decode and classify, one image each; the graph runs on one core per thread.

    Args:
        classifier: safe to share between threads.
        limits: bounds on images.
        threads: that work at once.
    """

    def __init__(self, classifier: Classifier, limits: Serving, threads: int) -> None:
        self.waiting = 0
        self._classifier = classifier
        self._limits = limits
        self._threads = threads
        self._seconds_per_image = 0.01
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        self._one_large_image = threading.Lock()

    async def answer(self, uploads: Sequence[Upload]) -> list[Outcome]:
        """One answer per file, in their order; to be awaited in one event loop only.

        Raises:
            CallError: too many images wait already.
        """
        return await self._run(self._classify, uploads)

    async def paint(self, uploads: Sequence[Upload]) -> list[Overlay | Failure]:
        """The same as `answer`, with a picture of where the model looked."""
        return await self._run(self._paint, uploads)

    def close(self) -> None:
        """Finish the images that are being worked on and drop those that wait."""
        self._pool.shutdown(cancel_futures=True)

    async def _run(self, work: Callable[[Upload], Result], uploads: Sequence[Upload]) -> list[Result | Failure]:
        if self.waiting + len(uploads) > self._limits.max_waiting_images:
            seconds = math.ceil(self.waiting * self._seconds_per_image / self._threads)
            raise CallError(503, "overloaded", "Too many images are waiting; try again.", retry_after=max(1, seconds))
        return list(await asyncio.gather(*[self._submit(work, upload) for upload in uploads]))

    def _submit(self, work: Callable[[Upload], Result], upload: Upload) -> asyncio.Future[Result | Failure]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result | Failure] = loop.create_future()

        def finish(job: Future[Result | Failure]) -> None:
            # The job counts until it is done, not until its caller gives up: that leaves its image at work.
            self.waiting -= 1
            if job.cancelled():
                answer.cancel()
            elif not answer.done():
                answer.set_result(job.result())

        job = self._pool.submit(contextvars.copy_context().run, self._try, work, upload)
        self.waiting += 1
        answer.add_done_callback(lambda _: job.cancel())
        # asyncio.wrap_future would wake the loop a second time for each image.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(finish, job))
        return answer

    def _try(self, work: Callable[[Upload], Result], upload: Upload) -> Result | Failure:
        try:
            pixels = require_pixels(upload.data, self._limits.max_pixels, upload.name or "The image")
            with self._one_large_image if pixels > LARGE_IMAGE_PIXELS else nullcontext():
                return work(upload)
        except ImageError as error:
            return Failure.of(upload.name, error.reason, str(error))
        except Exception:
            logger.exception("an image could not be classified")
            return Failure.of(upload.name, INTERNAL, "The image could not be classified; the server's log says why.")

    def _classify(self, upload: Upload) -> Prediction:
        prediction = self._classifier.predict(upload.data, upload.name)
        self._seconds_per_image += 0.05 * (prediction.milliseconds / 1000 - self._seconds_per_image)
        return prediction

    def _paint(self, upload: Upload) -> Overlay:
        pixels = decode_image(upload.data, self._classifier.bundle.limits)
        prediction, heat_map = self._classifier.explain(pixels, upload.name)
        if heat_map is None:
            return Overlay(prediction, None)
        picture = Image.fromarray(pixels)
        picture.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
        stream = BytesIO()
        paint_overlay(picture, heat_map, prediction.boxes).save(stream, "PNG", compress_level=1)
        return Overlay(prediction, stream.getvalue())

"""Inference in a pool as large as the machine, behind a queue of bounded length and size."""

import asyncio
import contextvars
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

from PIL import Image

from metal_defects.config import Serving
from metal_defects.data.imaging import ImageError
from metal_defects.log import logger
from metal_defects.serving.bundle import Bundle
from metal_defects.serving.call_errors import INTERNAL, CallError
from metal_defects.serving.predictor import Failure, Input, Prediction
from metal_defects.serving.uploads import Upload

LARGE_IMAGE_PIXELS = 3_000_000


class Classifier(Protocol):
    """What the API needs of a `Predictor`."""

    bundle: Bundle

    def predict(self, source: Input, name: str | None = None) -> Prediction: ...


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

    async def answer(self, uploads: Sequence[Upload]) -> list[Prediction | Failure]:
        """One answer per file, in their order; to be awaited in one event loop only.

        Raises:
            CallError: too many images wait already.
        """
        if self.waiting + len(uploads) > self._limits.max_waiting_images:
            seconds = math.ceil(self.waiting * self._seconds_per_image / self._threads)
            raise CallError(503, "overloaded", "Too many images are waiting; try again.", retry_after=max(1, seconds))
        return list(await asyncio.gather(*[self._submit(upload) for upload in uploads]))

    def close(self) -> None:
        """Finish the images that are being worked on and drop those that wait."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, upload: Upload) -> asyncio.Future[Prediction | Failure]:
        loop = asyncio.get_running_loop()
        future = self._pool.submit(contextvars.copy_context().run, self._answer_one, upload)
        self.waiting += 1
        # The thread's own future counts, not the caller's: a call that gives up leaves its image at work.
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._forget))
        return asyncio.wrap_future(future)

    def _forget(self) -> None:
        self.waiting -= 1

    def _answer_one(self, upload: Upload) -> Prediction | Failure:
        try:
            is_large = self._check_pixels(upload)
            with self._one_large_image if is_large else nullcontext():
                prediction = self._classifier.predict(upload.data, upload.name)
        except ImageError as error:
            return Failure(upload.name, error.reason, str(error))
        except Exception:
            logger.exception("an image could not be classified")
            return Failure(upload.name, INTERNAL, "The image could not be classified; the server's log says why.")
        self._seconds_per_image += 0.05 * (prediction.milliseconds / 1000 - self._seconds_per_image)
        return prediction

    def _check_pixels(self, upload: Upload) -> bool:
        """Whether the image is so large that two of its kind would not fit into a small container's memory."""
        try:
            with Image.open(BytesIO(upload.data)) as image:
                width, height = image.size
        except Exception:  # whatever is wrong with it, the classifier finds again and explains
            return False
        if width * height > self._limits.max_pixels:
            raise ImageError(
                "too_many_pixels",
                f"{upload.name or 'The image'}: at most {self._limits.max_pixels} pixels are accepted; shrink it. "
                f"Got {width}x{height} instead.",
            )
        return width * height > LARGE_IMAGE_PIXELS

"""From named images to rows of the result list, in order, with bounded memory."""

import base64
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice

import numpy as np
from PIL import Image

from metal_defects.data.imaging import ImageError, decode_image, resize_image
from metal_defects.serving.app.intake import Item
from metal_defects.serving.bundle import Bundle
from metal_defects.serving.predictor import Failure, Prediction, Predictor

_CHUNK = 16  # images that are decoded while as many are being answered
_WORKERS = 2
_THUMBNAIL_SIDE = 72
_PREVIEW_SIDE = 448


@dataclass(frozen=True)
class Row:
    """One answered image; the file itself is not kept.

    Attributes:
        digest: hexadecimal SHA-256 of the file.
        thumbnail: data URI of a small JPEG.
        preview: JPEG, its longer side at most 448 pixels.
        width: of the original, in pixels.
        height: of the original, in pixels.
    """

    prediction: Prediction
    digest: str
    thumbnail: str
    preview: bytes
    width: int
    height: int

    @property
    def name(self) -> str:
        return self.prediction.name or "unnamed"


@dataclass(frozen=True)
class _Ready:
    """An image on its way to the model: `pixels` as the graph takes them."""

    name: str
    digest: str
    thumbnail: str
    preview: bytes
    width: int
    height: int
    pixels: np.ndarray
    milliseconds: float


def score(items: Iterable[Item], predictor: Predictor, known: Mapping[str, Row]) -> Iterator[Row | Failure]:
    """Answer every item, in order; what cannot be answered becomes a `Failure`.

    Decoding runs beside inference, and at most two chunks of images are held at a time.

    Args:
        known: rows by digest, which are not computed again.
    """
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="decode") as pool:
        rest = iter(items)

        def submit() -> list[Future]:
            return [pool.submit(_prepare, item, predictor.bundle, known) for item in islice(rest, _CHUNK)]

        coming = submit()
        while coming:
            current, coming = [future.result() for future in coming], submit()
            yield from _answer(current, predictor)


def load_preview(row: Row, bundle: Bundle) -> np.ndarray:
    """uint8 (image_size, image_size, 3) of the stored preview."""
    pixels = np.asarray(Image.open(BytesIO(row.preview)).convert("RGB"))
    return resize_image(pixels, bundle.image_size, bundle.card["input"]["resize"])


def _prepare(item: Item, bundle: Bundle, known: Mapping[str, Row]) -> _Ready | Row | Failure:
    start = time.perf_counter()
    try:
        data = item.read()
        digest = hashlib.sha256(data).hexdigest()
        if digest in known:
            row = known[digest]
            return replace(row, prediction=replace(row.prediction, name=item.name))
        image = decode_image(data, bundle.limits)
    except ImageError as error:
        return Failure(item.name, error.reason, str(error))
    pixels = resize_image(image, bundle.image_size, bundle.card["input"]["resize"])
    milliseconds = 1000 * (time.perf_counter() - start)
    height, width = image.shape[:2]
    preview = Image.fromarray(image)
    preview.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE), Image.Resampling.BILINEAR)
    return _Ready(
        item.name, digest, make_thumbnail(preview), _encode(preview, 90), width, height, pixels, milliseconds
    )


def _answer(chunk: list[_Ready | Row | Failure], predictor: Predictor) -> Iterator[Row | Failure]:
    fresh = [(one.name, one.pixels) for one in chunk if isinstance(one, _Ready)]
    answers = iter(list(predictor.predict_many(fresh, batch_size=_CHUNK)))
    for one in chunk:
        if not isinstance(one, _Ready):
            yield one
            continue
        answer = next(answers)
        if isinstance(answer, Failure):
            yield answer
            continue
        timed = replace(answer, milliseconds=answer.milliseconds + one.milliseconds)
        yield Row(timed, one.digest, one.thumbnail, one.preview, one.width, one.height)


def make_thumbnail(image: Image.Image) -> str:
    """Data URI of a small JPEG."""
    small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    return "data:image/jpeg;base64," + base64.b64encode(_encode(small, 80)).decode()


def _encode(image: Image.Image, quality: int) -> bytes:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()

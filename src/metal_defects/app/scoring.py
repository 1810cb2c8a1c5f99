"""From named images to rows of the result list, one image at a time."""

import base64
import hashlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from PIL import Image

from metal_defects.app.intake import Item
from metal_defects.data.imaging import ImageError, decode_image, require_pixels
from metal_defects.inference.answer import Failure, Prediction
from metal_defects.inference.predictor import Predictor
from metal_defects.log import logger

_THUMBNAIL_SIDE = 72
_PREVIEW_SIDE = 448
# Two large photos at a time, of two visitors, would not fit into a small container's memory.
_turn = threading.Lock()


@dataclass(frozen=True)
class Row:
    """One answered image; the file itself is not kept.

    Attributes:
        digest: hexadecimal SHA-256 of the file.
        thumbnail: data URI of a small JPEG.
        preview: JPEG, its longer side at most 448 pixels.
        width, height: of the original, in pixels.
        heat_map: how likely each part shows a defect, float32 (rows, columns) in [0, 1]; None where the bundle has no
            locator.
    """

    prediction: Prediction
    digest: str
    thumbnail: str
    preview: bytes
    width: int
    height: int
    heat_map: np.ndarray | None

    @property
    def name(self) -> str:
        return self.prediction.name or "unnamed"


def score(
    items: Iterable[Item], predictor: Predictor, known: Mapping[str, Row], max_pixels: int
) -> Iterator[Row | Failure]:
    """Answer every item, in order; what cannot be answered becomes a `Failure`.

    Args:
        known: rows by digest, which are not computed again.
        max_pixels: of one image, width times height.
    """
    for item in items:
        try:
            with _turn:
                result: Row | Failure = _score_one(item, predictor, known, max_pixels)
        except ImageError as error:
            result = Failure.of(item.name, error.reason, str(error))
        except Exception:  # whatever it is, it must not cost the other images their answers
            logger.exception("%s could not be answered", item.name)
            result = Failure.of(item.name, "internal", "The image could not be answered; the server's log says why.")
        yield result


def load_preview(row: Row) -> np.ndarray:
    """uint8 (H, W, 3) of the stored preview."""
    return np.asarray(Image.open(BytesIO(row.preview)).convert("RGB"))


def make_thumbnail(image: Image.Image) -> str:
    """Data URI of a small JPEG."""
    small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    return "data:image/jpeg;base64," + base64.b64encode(_encode(small, 80)).decode()


def _score_one(item: Item, predictor: Predictor, known: Mapping[str, Row], max_pixels: int) -> Row:
    start = time.perf_counter()
    data = item.read()
    digest = hashlib.sha256(data).hexdigest()
    if digest in known:
        row = known[digest]
        return replace(row, prediction=row.prediction.model_copy(update={"name": item.name}))
    require_pixels(data, max_pixels, item.name)
    image = decode_image(data, predictor.bundle.limits)
    answer, heat_map = predictor.explain(image, item.name)
    milliseconds = round(1000 * (time.perf_counter() - start), 3)
    preview = _make_preview(image)
    height, width = image.shape[:2]
    answer = answer.model_copy(update={"milliseconds": milliseconds})
    return Row(answer, digest, make_thumbnail(preview), _encode(preview, 90), width, height, heat_map)


def _make_preview(image: np.ndarray) -> Image.Image:
    # Of a large photo every n-th pixel is enough; a whole Pillow copy of it would be larger than the app.
    step = max(1, max(image.shape) // (3 * _PREVIEW_SIDE))
    preview = Image.fromarray(np.ascontiguousarray(image[::step, ::step]))
    preview.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE), Image.Resampling.BILINEAR)
    return preview


def _encode(image: Image.Image, quality: int) -> bytes:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()

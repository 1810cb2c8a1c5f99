"""From the bytes of any image file to the one form that everything else works on: uint8 RGB."""

import logging
import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from metal_defects.config import FitMode, ImageSchema
from metal_defects.data.geometry import Frame
from metal_defects.errors import DataError
from metal_defects.log import logger

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEPTHS = (8, 10, 12, 14, 16, 32)
_SAME_DECODER = {"MPO": "JPEG"}  # what phones write: a JPEG followed by smaller ones
_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


class ImageError(DataError):
    """An image cannot be used.

    Attributes:
        reason: "unreadable" (no such file, no permission), "empty", "too_large" (bytes), "not_an_image", "format",
            "too_small", "too_many_pixels", "truncated" (or damaged), "mode" (an unknown colour model), "values"
            (grey levels that are negative, not finite or of more than 32 bits) or "array" (of another shape or type).
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True)
class Preprocessor:
    """Decodes an image file and makes it the square that the models take; callable and picklable.

    Attributes:
        image_size: side of the result in pixels.
        resize: "nearest", "bilinear", "bicubic" or "lanczos".
        limits: what is accepted.
        fit: "stretch" or "letterbox"; see `Frame`.
    """

    image_size: int
    resize: str
    limits: ImageSchema
    fit: FitMode = "stretch"

    def __call__(self, source: Path | bytes | Image.Image | np.ndarray) -> np.ndarray:
        """uint8 (image_size, image_size, 3) of whatever `decode_image` takes; raises `ImageError`."""
        return self.place(source)[0]

    def place(self, source: Path | bytes | Image.Image | np.ndarray) -> tuple[np.ndarray, Frame]:
        """The same, and where in it the image lies."""
        image = _read_image(source, self.limits)
        frame = Frame.of(*image.size, self.image_size, self.fit)
        return _resize(image, frame, self.resize), frame


def decode_image(source: Path | bytes | Image.Image | np.ndarray, limits: ImageSchema) -> np.ndarray:
    """Decode every pixel of the first frame, upright.

    Grey values of more than 8 bits are scaled by the smallest of 8, 10, 12, 14, 16 and 32 bits that holds the
    image's largest value, because a camera stores its 12 bits as small numbers in a 16-bit file; no other stretching
    takes place. Float images may range from 0 to 1 or as integers do. Transparent pixels show black.

    Args:
        source: an image file, its bytes, a Pillow image, or uint8 (H, W), (H, W, 1) or RGB (H, W, 3).
        limits: accepted formats, bytes and sides; the sides are checked before a pixel is decoded.

    Returns:
        uint8 (H, W, 3), RGB; the three channels are equal where the file is grey.

    Raises:
        ImageError: with the reason.
    """
    return np.array(_read_image(source, limits))


def _read_image(source: Path | bytes | Image.Image | np.ndarray, limits: ImageSchema) -> Image.Image:
    """What `decode_image` promises, as an RGB image of Pillow's."""
    name = source.name if isinstance(source, Path) else "The image"
    _silence_pillow()
    if isinstance(source, np.ndarray):
        return _decode_opened(_wrap_array(source, name), name, limits)
    if isinstance(source, Image.Image):
        return _decode_opened(source, name, limits)
    with _open(_read_bytes(source, name, limits.max_bytes), name) as image:
        return _decode_opened(image, name, limits)


def read_size(source: Path) -> tuple[int, int] | None:
    """Width and height in pixels that a file's header tells; None where it tells none. No pixel is decoded."""
    _silence_pillow()
    try:
        with Image.open(source) as image:
            return image.size
    except Exception:  # whatever is wrong with the file, decoding it will say
        return None


def require_pixels(data: bytes, most: int, name: str) -> int:
    """Pixels of an image file by its header; 0 where that cannot be read, for `decode_image` to explain.

    Raises:
        ImageError: there are more than `most`.
    """
    _silence_pillow()
    try:
        with Image.open(BytesIO(data)) as image:
            width, height = image.size
    except Exception:  # decoders of damaged bytes raise almost anything
        return 0
    if width * height > most:
        message = f"{name}: at most {most:,} pixels are accepted; shrink the image. Got {width:,} x {height:,} instead."
        raise ImageError("too_many_pixels", message)
    return width * height


def resize_image(image: np.ndarray, size: int, method: str, fit: FitMode = "stretch") -> np.ndarray:
    """Make a square of an image.

    Args:
        image: uint8 (H, W, 3).
        size: side of the result in pixels.
        method: "nearest", "bilinear", "bicubic" or "lanczos"; when shrinking, all but "nearest" average over
            the pixels that fall together.
        fit: "stretch" or "letterbox"; see `Frame`.

    Returns:
        uint8 (size, size, 3).
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"The image must be uint8 (H, W, 3). Got {image.dtype} {image.shape} instead.")
    return _resize(Image.fromarray(image), Frame.of(image.shape[1], image.shape[0], size, fit), method)


def _resize(image: Image.Image, frame: Frame, method: str) -> np.ndarray:
    return frame.fill(np.array(image.resize((frame.width, frame.height), _FILTERS[method], reducing_gap=None)))


def _wrap_array(array: np.ndarray, name: str) -> Image.Image:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if array.dtype != np.uint8 or not is_image or array.size == 0:
        raise ImageError(
            "array",
            f"{name}: an array must be uint8 (H, W), (H, W, 1) or RGB (H, W, 3). "
            f"Got {array.dtype} {array.shape} instead.",
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _decode_opened(image: Image.Image, name: str, limits: ImageSchema) -> Image.Image:
    _check_header(image, name, limits)
    try:
        image.load()
    except Exception as error:  # decoders of damaged bytes raise almost anything
        raise _damaged(name, error) from error
    turn = _UPRIGHT.get(_read_orientation(image, name))
    upright = image if turn is None else image.transpose(turn)
    return _convert_to_rgb(upright, name)


def _read_bytes(source: Path | bytes, name: str, max_bytes: int) -> bytes:
    try:
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        if size > max_bytes:
            raise ImageError(
                "too_large",
                f"{name}: the file may have {max_bytes} bytes at most; shrink it or raise image.max_bytes in "
                f"schema.yaml. Got {size} bytes instead.",
            )
        data = source.read_bytes() if isinstance(source, Path) else source
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        cause = getattr(error, "strerror", error)
        raise ImageError("unreadable", f"{name}: cannot read the file. Got '{cause}' instead.") from error
    if not data:
        raise ImageError("empty", f"{name}: the file has no content; copy it again. Got 0 bytes.")
    return data


def _silence_pillow() -> None:
    """Keep Pillow's remarks on odd metadata off the terminal; what matters is raised.

    A filter on Pillow's modules alone, set once: `warnings.catch_warnings` is not safe in threads.
    """
    if _PILLOW_WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageError(
            "too_many_pixels", f"{name}: far more pixels than a surface image has; shrink it. Got '{error}' instead."
        ) from error
    except UnidentifiedImageError as error:
        start = data[:8].hex(" ")
        raise ImageError(
            "not_an_image", f"{name}: no known image format, whatever its suffix. Got a file that starts with {start}."
        ) from error
    except Exception as error:  # decoders of damaged bytes raise almost anything
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(
        "truncated",
        f"{name}: the image is cut short or damaged; copy or export it again. Got '{error or type(error).__name__}'.",
    )


def _check_header(image: Image.Image, name: str, limits: ImageSchema) -> None:
    found = _SAME_DECODER.get(image.format or "", image.format)
    accepted = [accepted.upper() for accepted in limits.formats]
    if found is not None and found not in accepted:  # None: made in memory
        raise ImageError(
            "format",
            f"{name}: the format must be one of {', '.join(accepted)}; convert the file or extend image.formats in "
            f"schema.yaml. Got {found} instead.",
        )
    width, height = image.size
    if max(width, height) > limits.max_side:
        raise ImageError(
            "too_many_pixels",
            f"{name}: the longer side may have {limits.max_side} pixels at most; shrink it or raise image.max_side in "
            f"schema.yaml. Got {width}x{height} instead.",
        )
    if min(width, height) < limits.min_side:
        raise ImageError(
            "too_small",
            f"{name}: the shorter side must have {limits.min_side} pixels at least. Got {width}x{height} instead.",
        )


def _read_orientation(image: Image.Image, name: str) -> int:
    """EXIF orientation, 1 to 8; 1 is upright. To be read after the pixels: some decoders turn them themselves."""
    try:
        orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation
    except Exception as error:  # the pixels are good: damaged EXIF must not cost the image
        logger.warning("%s: its EXIF block is damaged and was ignored (%s)", name, error)
        return 1


def _convert_to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_scale_to_8_bits(np.asarray(image), name)).convert("RGB")
    try:
        if image.has_transparency_data:
            layers = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layers.size, "black"), layers)
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise ImageError(
            "mode", f"{name}: the colour model must be grey, RGB, CMYK or a palette. Got {image.mode} instead."
        ) from error


def _scale_to_8_bits(values: np.ndarray, name: str) -> np.ndarray:
    """uint8 (H, W) of deep grey values, by the rule in `decode_image`."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high < 2**32):  # false for NaN as well
        raise ImageError(
            "values", f"{name}: pixels must be finite, not negative and below 2^32. Got {low} to {high} instead."
        )
    is_share = values.dtype.kind == "f" and high <= 1
    white = 1 if is_share else next(2**bits - 1 for bits in _DEPTHS if high < 2**bits)
    return np.rint(values * (255.0 / white)).astype(np.uint8)

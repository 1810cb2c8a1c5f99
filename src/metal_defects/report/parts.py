"""Pieces of a report: figures in words, and pictures small enough to embed."""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from metal_defects.log import logger
from metal_defects.metrics import Score

PLOT_COLOURS, JPEG_QUALITY = 96, 84
# A plot stays a PNG, whose text is sharp, unless a JPEG is this much smaller.
PNG_MAY_COST = 1.6


@dataclass(frozen=True)
class Picture:
    """An embedded picture: a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


class Album:
    """Embeds pictures until its budget is spent.

    Args:
        budget: characters of all data URIs together.
    """

    def __init__(self, budget: int) -> None:
        self.left = budget

    def embed(self, source: Path, width: int, photo: bool = False) -> Picture | None:
        """A file as a data URI; None where it is too large for what is left.

        Args:
            source: of any format that Pillow reads.
            width: pixels, at most.
            photo: JPEG, whatever it costs to the sharpness of text.
        """
        with Image.open(source) as opened:
            image = _flatten(opened)
        if image.width > width:
            size = (width, max(1, round(image.height * width / image.width)))
            image = image.resize(size, Image.Resampling.LANCZOS)
        kind, data = _encode(image, photo)
        uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        if len(uri) > self.left:
            logger.warning("The report goes without the picture %s: it would grow too large.", source.name)
            return None
        self.left -= len(uri)
        return Picture(uri, image.width, image.height)


def _flatten(image: Image.Image) -> Image.Image:
    """White where it was transparent; grey where no pixel has a colour."""
    rgba = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    red, green, blue = (channel.tobytes() for channel in flat.split())
    return flat.convert("L") if red == green == blue else flat


def _encode(image: Image.Image, photo: bool) -> tuple[str, bytes]:
    jpeg, png = BytesIO(), BytesIO()
    image.save(jpeg, "JPEG", quality=JPEG_QUALITY, optimize=True)
    if photo:
        return "jpeg", jpeg.getvalue()
    # A median cut spends its colours on what covers most of a plot, and turns a green line blue.
    method = Image.Quantize.MAXCOVERAGE
    # Not "optimize": it takes four times as long for 3 % fewer bytes.
    image.quantize(PLOT_COLOURS, method=method, dither=Image.Dither.NONE).save(png, "PNG")
    if len(png.getvalue()) <= PNG_MAY_COST * len(jpeg.getvalue()):
        return "png", png.getvalue()
    return "jpeg", jpeg.getvalue()


def show(value: Score | str | float | bool | None, digits: int = 4) -> str:
    """A value as people write it: a score as percent with its interval, a number with its first `digits`."""
    if value is None:
        return "–"
    if isinstance(value, Score):
        return percent(value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def percent(share: Score | float | None, digits: int = 1) -> str:
    """Percent, with the interval of a score: "99.9 % (99.5–100.0)"."""
    if share is None:
        return "–"
    if isinstance(share, Score):
        low, high = (_percent(limit, digits).removesuffix(" %") for limit in (share.low, share.high))
        return f"{_percent(share.value, digits)} ({low}–{high})"
    return _percent(share, digits)


def ratio(score: Score) -> str:
    """A figure that is no share, with its interval: "0.693 (0.658–0.727)"."""
    return f"{score.value:.3f} ({score.low:.3f}–{score.high:.3f})"


def of_hundred(share: float) -> str:
    """How many of 100: "99.9", "100"."""
    return _percent(share, 1).removesuffix(" %").removesuffix(".0")


def _percent(share: float, digits: int) -> str:
    """With its sign; a share below 1 never reads 100, one above 0 never 0."""
    step = 10.0**-digits
    shown = round(100 * share, digits)
    if 0 < share < 1 and shown >= 100:
        return f"{100 - step:.{digits}f} %"
    if share > 0 and shown == 0:
        return f"< {step:g} %"
    return f"{shown:.{digits}f} %"


def say(name: str) -> str:
    """A name of code in words: "gaussian_noise" becomes "gaussian noise"."""
    return name.replace("_", " ")

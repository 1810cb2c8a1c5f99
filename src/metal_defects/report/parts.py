"""Pieces of a report: figures in words, tables of whatever was measured, and pictures small enough to embed."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from metal_defects.log import logger
from metal_defects.metrics import accuracy_interval

MOST_ROWS, MOST_COLUMNS, MOST_LISTED = 60, 12, 12
PLOT_COLOURS, JPEG_QUALITY = 96, 84
# A plot stays a PNG, whose text is sharp, unless a JPEG is this much smaller.
PNG_MAY_COST = 1.6
SHARES = re.compile(
    r"accura|share|coverage|precision|recall|\bf1|\bece\b|accepted|rejected|acceptance|pointing|energy|"
    r"among|flagged|silent|spread|covered|confidence|lowest|highest|^mean$|^sizes$|errors accepted|area"
)
CAPITALS = {"ece": "ECE", "nll": "NLL", "auroc": "AUROC", "iou": "IoU", "ap50": "AP50", "fpr": "FPR", "db": "dB"}
NOT_SHARES = re.compile(r"auroc|auc\b|brier|nll|log|temperature|iou|ap50|distance|seconds|size$|p value|scale")
# Names of the results that do not speak for themselves.
NAMES = {
    "n": "images", "negative_log_likelihood": "negative log likelihood, nats", "brier": "Brier score",
    "exact": "sets that may be empty", "served": "sets as they are answered", "mean_size": "mean number of classes",
    "sizes": "images with 0, 1, 2 … classes", "covered": "true class in the set", "per_class": "per class",
    "silent_errors": "wrong and accepted", "silent_errors_mean": "wrong and accepted, mean",
    "errors_accepted": "of the wrong answers, accepted", "macro_f1": "macro F1", "f1": "F1",
    "distances": "distance below which 5, 50, 95 and 100 % of the images lie",
    "only_best_wrong": "only the best is wrong", "only_this_wrong": "only this one is wrong",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns; `left_out` rows did not fit."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0


@dataclass(frozen=True)
class Picture:
    """An embedded picture: a data URI, its size in pixels, and the text that stands below it."""

    uri: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True)
class Section:
    """One chapter: sentences, or why there is nothing to show; then tables, pictures, cases, code."""

    key: str
    title: str
    text: tuple[str, ...] = ()
    absent: str | None = None
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    cases: tuple[dict[str, Any], ...] = ()
    code: str | None = None


class Album:
    """Embeds pictures until its budget is spent.

    Args:
        budget: characters of all data URIs together.
    """

    def __init__(self, budget: int) -> None:
        self.left = budget

    def embed(self, source: Path, caption: str, width: int, photo: bool = False) -> Picture | None:
        """A file as a data URI; None where it is missing, unreadable or too large for what is left.

        Args:
            source: of any format that Pillow reads.
            caption: the text below it.
            width: pixels, at most.
            photo: JPEG, whatever it costs to the sharpness of text.
        """
        if not source.is_file():
            return None
        try:
            with Image.open(source) as opened:
                image = _flatten(opened)
        except OSError as error:
            logger.warning("The report goes without the picture %s: %s.", source.name, error)
            return None
        if image.width > width:
            size = (width, max(1, round(image.height * width / image.width)))
            image = image.resize(size, Image.Resampling.LANCZOS)
        kind, data = _encode(image, photo)
        uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        if len(uri) > self.left:
            logger.warning("The report goes without the picture %s: it would grow too large.", source.name)
            return None
        self.left -= len(uri)
        return Picture(uri, image.width, image.height, caption)


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
    method = Image.Quantize.MEDIANCUT
    image.quantize(PLOT_COLOURS, method=method, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
    if len(png.getvalue()) <= PNG_MAY_COST * len(jpeg.getvalue()):
        return "png", png.getvalue()
    return "jpeg", jpeg.getvalue()


def dig(value: Any, *keys: str) -> Any:
    """What lies at the end of `keys` in nested mappings; None where one of them is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def percent(share: float, digits: int = 1) -> str:
    """Percent with its sign; a share below 1 never reads 100, one above 0 never 0."""
    step = 10.0**-digits
    shown = round(100 * share, digits)
    if 0 < share < 1 and shown >= 100:
        return f"{100 - step:.{digits}f} %"
    if share > 0 and shown == 0:
        return f"< {step:g} %"
    return f"{shown:.{digits}f} %"


def of_hundred(share: float) -> str:
    """How many of 100: "99.9", "100"."""
    return percent(share).removesuffix(" %").removesuffix(".0")


def proportion(hits: int, total: int) -> dict[str, Any]:
    """A share with its 95 % Wilson interval and the counts behind it."""
    low, high = accuracy_interval(hits, total)
    return {"value": hits / total, "low": low, "high": high, "hits": hits, "n": total}


def humanise(key: str) -> str:
    """A name of the results in words: "auroc_photographs" becomes "AUROC photographs"."""
    return NAMES.get(key) or " ".join(CAPITALS.get(word, word) for word in key.replace("_", " ").split(" "))


def show(value: Any, key: str = "") -> str:
    """One figure as a text; whether a number is a share is told by its name.

    Args:
        value: number, text, short list, or {"value", "low", "high"}.
        key: its name in the results.
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return _show_score(value, key)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(show(item, key) for item in value[:MOST_LISTED]) + (" …" if len(value) > MOST_LISTED else "")
    if isinstance(value, int):
        return str(value) if "seed" in key else f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    words = key.replace("_", " ")
    if SHARES.search(words) and not NOT_SHARES.search(words) and -1 <= value <= 1:
        return percent(value, 2 if "ece" in words else 1)
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def _show_score(score: Mapping[str, Any], key: str) -> str:
    """A value with its interval: "99.9 % (99.5–100.0)"."""
    name = next((name for name in ("value", "mean") if name in score), None)
    if name is None:
        return "; ".join(f"{humanise(part)} {show(item, part)}" for part, item in score.items())
    text = show(score[name], key)
    if score.get("low") is not None and score.get("high") is not None:
        low, high = (show(score[part], key).removesuffix(" %") for part in ("low", "high"))
        text += f" ({low}–{high})"
    return text


def is_score(value: Any) -> bool:
    """Whether it is one figure, perhaps with an interval."""
    if isinstance(value, Mapping):
        return isinstance(value.get("value", value.get("mean")), int | float)
    return not isinstance(value, list | tuple)


def tabulate(value: Any, title: str = "", most: int = MOST_ROWS) -> list[Table]:
    """Tables of nested results: figures as name and value, equal mappings as rows, the rest one level deeper.

    Lists of numbers that are longer than a line are curves and stay out: the plots show them.

    Args:
        value: mappings, lists, numbers and texts, as JSON has them.
        title: of the first table.
        most: rows of a table.
    """
    if isinstance(value, Mapping):
        return _tabulate_mapping(value, title, most)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return [_rows_table(title, [("", item) for item in value], most)]
    return []


def _tabulate_mapping(value: Mapping[str, Any], title: str, most: int) -> list[Table]:
    single = {key: item for key, item in value.items() if is_score(item) or _is_short(item)}
    nested = {key: item for key, item in value.items() if key not in single and item}
    if not single and len(nested) > 1 and _are_alike(list(nested.values())):
        return [_rows_table(title, list(nested.items()), most)]
    tables = []
    if single and all(isinstance(item, list) for item in single.values()) and len(single) > 1:
        longest = max(len(item) for item in single.values())
        rows = [(humanise(key), *(show(part, title or key) for part in item)) for key, item in single.items()]
        columns = ("", *(str(number) for number in range(1, longest + 1)))
        tables.append(Table(title, columns, tuple(row + ("",) * (longest + 1 - len(row)) for row in rows)))
    elif single:
        tables.append(Table(title, (), tuple((humanise(key), show(item, key)) for key, item in single.items())))
    for key, item in nested.items():
        tables += tabulate(item, f"{title}, {humanise(key)}" if title else humanise(key), most)
    return tables


def _is_short(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MOST_LISTED and all(is_score(item) for item in value)


def _are_alike(values: list[Any]) -> bool:
    """Mappings of figures that share their names."""
    if not all(isinstance(item, Mapping) for item in values):
        return False
    names = {key for item in values for key in item}
    flat = all(is_score(part) or _is_short(part) for item in values for part in item.values())
    return flat and len(names) <= MOST_COLUMNS and all(len(item) * 2 > len(names) for item in values)


def _rows_table(title: str, named: list[tuple[str, Mapping[str, Any]]], most: int) -> Table:
    """One row per mapping; the union of their names as columns."""
    columns = list(dict.fromkeys(key for _, item in named for key in item))
    columns = [key for key in columns if any(is_score(item.get(key)) or _is_short(item.get(key)) for _, item in named)]
    columns = columns[:MOST_COLUMNS]
    has_names = any(name for name, _ in named)
    rows = []
    for name, item in named[:most]:
        cells = tuple(show(item.get(key), key) for key in columns)
        rows.append((humanise(name), *cells) if has_names else cells)
    headings = tuple(humanise(key) for key in columns)
    return Table(title, ("", *headings) if has_names else headings, tuple(rows), max(0, len(named) - most))

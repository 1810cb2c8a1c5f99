"""A drawn stand-in for NEU-DET: six kinds of hot-rolled steel defects, for where no real images can be had.

Good for a first run, a demonstration and tests; a model trained on it knows nothing about a real line.
"""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from metal_defects.files import write_text
from metal_defects.log import track

SIDE = 200
MIN_BOX = 3  # pixels
_Drawing = tuple[np.ndarray, np.ndarray]  # grey levels, and where the defect is (0 to 1); both float (SIDE, SIDE)
_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
_CYCLES_Y = np.fft.fftfreq(SIDE)[:, None].astype(np.float32)
_CYCLES_X = np.fft.rfftfreq(SIDE)[None, :].astype(np.float32)


def write_synthetic_set(root: Path, images_per_class: int, seed: int) -> None:
    """Draw a data set in the flat layout of NEU-DET.

    Writes IMAGES/<class>_<n>.png (200x200, grey) and ANNOTATIONS/<class>_<n>.xml (Pascal VOC boxes) for each of
    `NEU_CLASSES`, n from 1. Image n of a class depends on the seed, the class and n alone.

    Args:
        root: folder to fill; made where missing.
        images_per_class: how many of each class.
        seed: the same seed gives the same pixels.
    """
    images, annotations = root / "IMAGES", root / "ANNOTATIONS"
    images.mkdir(parents=True, exist_ok=True)
    names = [(index, name, n) for index, name in enumerate(NEU_CLASSES) for n in range(1, images_per_class + 1)]
    for index, name, n in track(names, "Drawing synthetic images", total=len(names)):
        pixels, mask = draw_image(name, np.random.default_rng([seed, index, n]))
        stem = f"{name}_{n}"
        Image.fromarray(pixels).save(images / f"{stem}.png", compress_level=1)
        write_text(annotations / f"{stem}.xml", _format_voc(stem, name, _find_boxes(mask)))


def draw_image(label: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels, uint8 (SIDE, SIDE), and where the defect is, float (SIDE, SIDE) from 0 to 1.

    Args:
        label: of `NEU_CLASSES`.
        rng: all that is drawn depends on it.
    """
    levels, mask = _DRAWERS[label](rng)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8), mask


# --- brushes ---------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, along: float, across: float, degrees: float = 0) -> np.ndarray:
    """Gaussian noise of unit variance, smoothed over `along` pixels in a direction and `across` at right angles.

    0 degrees is horizontal, 90 vertical. It wraps around at the edges.
    """
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    u = _CYCLES_X * cosine + _CYCLES_Y * sine
    v = _CYCLES_Y * cosine - _CYCLES_X * sine
    response = np.exp(-2 * np.pi**2 * ((along * u) ** 2 + (across * v) ** 2))
    white = np.fft.rfft2(rng.standard_normal((SIDE, SIDE), dtype=np.float32))
    smooth = np.fft.irfft2(white * response, s=(SIDE, SIDE))
    scaled: np.ndarray = (smooth - smooth.mean()) / smooth.std()
    return scaled


def _step(values: np.ndarray, softness: float) -> np.ndarray:
    """0 well below zero, 1 well above; the width of the edge is about four times `softness`."""
    steps: np.ndarray = 1 / (1 + np.exp(-np.clip(values / softness, -40, 40)))
    return steps


def _share(values: np.ndarray, share: float, softness: float) -> np.ndarray:
    """Soft mask of the highest `share` of the values."""
    return _step(values - np.quantile(values, 1 - share), softness)


def _bump(rng: np.random.Generator, width: float) -> np.ndarray:
    """A vertical zone, 1 on a random column and falling off over `width` pixels."""
    bump: np.ndarray = np.exp(-0.5 * ((_COLUMNS - rng.uniform(0, SIDE)) / width) ** 2)
    return bump


def _light(rng: np.random.Generator, level: float, strength: float) -> np.ndarray:
    """Uneven lighting: a ramp in some direction, bent, around `level`; `strength` is its share of the level."""
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (np.cos(angle) * (_COLUMNS - SIDE / 2) + np.sin(angle) * (_ROWS - SIDE / 2)) / SIDE
    light: np.ndarray = level * (1 + strength * (ramp + 0.6 * ramp * abs(ramp)) + 0.15 * strength * _noise(rng, 40, 40))
    return light


def _bands(rng: np.random.Generator) -> np.ndarray:
    """Vertical bands with sharp borders, as neighbouring cooling zones leave; about -1 to 1, (1, SIDE)."""
    borders = np.sort(rng.uniform(0, SIDE, rng.integers(3, 8)))
    levels = np.append(rng.uniform(-1, 1, len(borders)), 0)
    bands: np.ndarray = levels[np.searchsorted(borders, _COLUMNS[:1])]
    return bands


def _either(rng: np.random.Generator, chance: float, first: tuple[float, float], second: tuple[float, float]) -> float:
    """A value of the first range with this chance, else of the second."""
    return rng.uniform(*(first if rng.random() < chance else second))


# --- the six classes -------------------------------------------------------------------------


def _draw_crazing(rng: np.random.Generator) -> _Drawing:
    """A net of thin, jagged, mostly horizontal dark cracks on coarse grain."""
    level = rng.uniform(90, 185)
    surface = _light(rng, level, rng.uniform(0, 0.6)) + rng.uniform(4, 13) * _bands(rng)
    surface += rng.uniform(15, 21) * _noise(rng, 0.8, 0.75) + 6 * _noise(rng, 8, 8)
    surface += rng.uniform(2, 8) * _noise(rng, 12, 0.9, rng.uniform(-25, 5))
    field = _noise(rng, rng.uniform(9, 14), rng.uniform(4, 6), rng.uniform(-12, 12))
    field += 0.35 * _noise(rng, 3, 2.5) + 0.1 * _noise(rng, 1.5, 1.5)
    downward, sideward = np.gradient(field)
    slope = np.hypot(downward, sideward) + 0.03
    lines = np.exp(-np.square(field / slope / rng.uniform(0.9, 1.5))) * np.square(downward / slope)
    visible = _share(_noise(rng, 7, 5), rng.uniform(0.3, 0.6), 0.25)
    knots = _share(_noise(rng, 2.5, 1.6, rng.uniform(0, 90)) + 1.2 * lines, rng.uniform(0.002, 0.012), 0.1)
    cracks = np.maximum(lines * visible, knots)
    return surface - level * rng.uniform(0.45, 0.7) * cracks, cracks


def _draw_inclusion(rng: np.random.Generator) -> _Drawing:
    """Dark upright streaks with ragged ends, and specks, on a smooth surface."""
    level = _either(rng, 0.88, (65, 120), (150, 230))
    surface = _light(rng, level, rng.uniform(0, 0.5)) + rng.uniform(0.5, 2.5) * _noise(rng, 60, 5, 90)
    surface += rng.uniform(1.5, 3) * _noise(rng, 0.8, 0.7) + rng.uniform(0, 2) * _noise(rng, 5, 0.7)
    surface += rng.uniform(0, 3) * _noise(rng, 14, 8, 90)
    streaks = np.zeros_like(surface)
    if rng.random() < 0.8:
        zone = _bump(rng, rng.uniform(4, 14)) + _either(rng, 0.5, (0, 0), (0.8, 0.8)) * _bump(rng, rng.uniform(3, 8))
        ragged = _noise(rng, 22, 2.5, 90) + 0.5 * _noise(rng, 7, 1.2, 90) + 0.7 * _noise(rng, 60, 12, 90)
        streaks = _share(ragged + 3 * zone, rng.uniform(0.02, 0.1), 0.25)
    scattered = _noise(rng, rng.uniform(5, 9), 1.3, rng.uniform(85, 95)) + 1.2 * _noise(rng, 40, 25)
    mask = np.maximum(streaks, _share(scattered, rng.uniform(0.004, 0.02), 0.2))
    return surface - level * rng.uniform(0.18, 0.42) * mask * (1 + 0.15 * _noise(rng, 9, 2, 90)), mask


def _draw_patches(rng: np.random.Generator) -> _Drawing:
    """Large dark irregular blotches on a bright, grainy surface."""
    level = _either(rng, 0.35, (60, 120), (140, 240))
    surface = _light(rng, level, rng.uniform(0.1, 0.7)) + 0.12 * level * _noise(rng, 60, 12, 90)
    surface += rng.uniform(3, 8) * _noise(rng, 6, 0.8, rng.uniform(-30, 110))
    blots = _noise(rng, rng.uniform(16, 34), rng.uniform(11, 17), rng.uniform(70, 110)) + 0.12 * _noise(rng, 3, 3)
    share = rng.uniform(0.06, 0.35)
    mask = _share(blots, share, rng.uniform(0.05, 0.16))
    faint = _share(blots + 0.5 * _noise(rng, 7, 7), min(1.8 * share, 0.5), 0.3)
    rim = _step(0.3 - abs(blots - np.quantile(blots, 1 - share)), 0.08)
    inside = 1 + 0.12 * _noise(rng, 5, 5) - 0.2 * rim
    surface *= 1 - rng.uniform(0.55, 0.75) * mask * inside - rng.uniform(0, 0.22) * faint * (1 - mask)
    specks = _share(_noise(rng, 1.5, 1.2) + 1.5 * _noise(rng, 12, 7), rng.uniform(0, 0.006), 0.1)
    grain = (0.1 * level + 4) * _noise(rng, 0.7, 0.7) * (1 - 0.6 * mask)
    return surface * (1 - 0.8 * specks) + grain, mask


def _draw_pitted(rng: np.random.Generator) -> _Drawing:
    """Countless small dark pits, and now and then a corroded area with a sharp border."""
    level = _either(rng, 0.25, (70, 130), (140, 255))
    surface = _light(rng, level, rng.uniform(0.1, 0.6)) + 2.5 * _noise(rng, 0.8, 0.8)
    surface += rng.uniform(1, 4) * _noise(rng, 60, 3, 90)
    size = rng.uniform(0.8, 1.5)
    where = rng.uniform(0, 0.6) * _noise(rng, 45, 25, 90) + _either(rng, 0.6, (0, 0), (1, 2)) * _bump(rng, 50)
    pits = _noise(rng, 1.3 * size, size, 90) - 0.5 * _noise(rng, 3 * size, 3 * size)
    mask = _share(pits + where, rng.uniform(0.08, 0.3), rng.uniform(0.3, 0.9))
    dark = rng.uniform(0.15, 0.35) * mask
    if rng.random() < 0.3:
        coarse = _noise(rng, 2.6 * size, 2 * size, 90) + 1.2 * _noise(rng, 25, 25)
        large = _share(coarse, rng.uniform(0.01, 0.04), 0.15)
        dark, mask = np.maximum(dark, 0.4 * large), np.maximum(mask, large)
    if rng.random() < 0.12:
        ragged = _noise(rng, 40, 40) + 0.25 * _noise(rng, 5, 5) + 0.15 * _noise(rng, 1.5, 1.5)
        corroded = _share(ragged, rng.uniform(0.02, 0.15), 0.04)
        dark, mask = np.maximum(dark, 0.5 * corroded), np.maximum(mask, corroded)
    if rng.random() < 0.2:
        dark = np.maximum(dark, 0.22 * _share(_noise(rng, 150, 1, 90), rng.uniform(0.01, 0.02), 0.3))
    return surface * (1 - dark), mask


def _draw_rolled(rng: np.random.Generator) -> _Drawing:
    """Groups of small dark scale marks pressed into a brushed surface, each with a light lower edge."""
    level = _either(rng, 0.3, (65, 95), (105, 155))
    tilt = rng.uniform(-30, 5)
    surface = _light(rng, level, rng.uniform(0, 0.3)) + 5 * _noise(rng, 12, 8) + rng.uniform(0, 8) * _bands(rng)
    surface += rng.uniform(0, 14) * _noise(rng, 200, 14, 90)
    surface += rng.uniform(7, 10) * _noise(rng, 1.5, 0.75, tilt) + 3 * _noise(rng, 12, 0.9, tilt)
    groups = 0.5 * _noise(rng, 24, 18) + _either(rng, 0.5, (0, 0), (0.5, 1)) * _bump(rng, 30)
    size = rng.uniform(1.1, 1.7)
    marks = _noise(rng, 2.6 * size, size, rng.uniform(-8, 8)) - 0.6 * _noise(rng, 9, 5)
    mask = _share(marks + groups, rng.uniform(0.015, 0.06), 0.25)
    blurred = _share(groups + 0.8 * _noise(rng, 7, 4), 0.12, 0.5)
    relief = np.roll(mask, 4, axis=0) * (1 - mask)
    return surface - level * (rng.uniform(0.3, 0.5) * mask + 0.12 * blurred - 0.18 * relief), mask


def _draw_scratches(rng: np.random.Generator) -> _Drawing:
    """Bright straight lines, alone or in bundles, mostly upright, on a dark surface."""
    level = rng.uniform(50, 140)
    surface = _light(rng, level, rng.uniform(0, 0.4)) + rng.uniform(1, 4) * _noise(rng, 45, 7, 90)
    surface += rng.uniform(1, 3.5) * _noise(rng, 0.8, 0.7) + rng.uniform(0, 2.5) * _noise(rng, 6, 0.8)
    stains = _share(_noise(rng, 40, 8, 90) + 0.3 * _noise(rng, 9, 2, 90), rng.uniform(0, 0.3), 0.15)
    surface *= 1 - rng.uniform(0.05, 0.25) * stains
    lines = np.zeros_like(surface)
    direction = rng.random()
    lean = rng.normal(0, 2) if direction < 0.68 else rng.normal(90, 3) if direction < 0.92 else rng.uniform(-60, 60)
    for _ in range(rng.integers(1, 4)):
        lines = np.maximum(lines, _draw_bundle(rng, lean + rng.normal(0, 1)))
    if rng.random() < 0.4:
        lines = np.maximum(lines, 0.7 * _share(_noise(rng, 9, 0.8, 90 + lean) + 3 * lines, 0.012, 0.4))
    return surface + rng.uniform(70, 190) * lines, lines


def _draw_bundle(rng: np.random.Generator, lean: float) -> np.ndarray:
    """1 to 9 nearly parallel lines, `lean` degrees from upright; 0 to 1."""
    cosine, sine = float(np.cos(np.radians(lean))), float(np.sin(np.radians(lean)))
    x, y = _COLUMNS - rng.uniform(25, SIDE - 25), _ROWS - rng.uniform(25, SIDE - 25)
    across, along = x * cosine + y * sine, y * cosine - x * sine
    across += rng.normal(0, 3) * np.square(along / SIDE) + 0.2 * _noise(rng, 2, 2)
    beads = np.clip(0.8 + rng.uniform(0.1, 0.4) * _noise(rng, 3, 1, 90 + lean), 0, 1.3)
    dashes = _step(_noise(rng, 12, 4, 90 + lean) + 0.3, 0.2) if rng.random() < 0.35 else 1
    gap = rng.uniform(2.5, 7)
    bundle = np.zeros_like(across)
    for number in range(int(rng.choice([1, 2, 3, 6, 9], p=[0.35, 0.25, 0.2, 0.1, 0.1]))):
        length = _either(rng, 0.35, (15, 60), (400, 400))
        reach = _step(length - abs(along - rng.normal(0, 30)), rng.uniform(2, 12))
        width = _either(rng, 0.8, (0.8, 1.8), (2.5, 5))
        line = np.square(np.square((across - number * gap * rng.uniform(0.7, 1.3)) / width))
        bundle = np.maximum(bundle, np.exp(-line) * reach * rng.uniform(0.4 if number else 0.75, 1))
    scratches: np.ndarray = np.clip(bundle * beads * dashes, 0, 1)
    return scratches


_DRAWERS: dict[str, Callable[[np.random.Generator], _Drawing]] = {
    "crazing": _draw_crazing,
    "inclusion": _draw_inclusion,
    "patches": _draw_patches,
    "pitted_surface": _draw_pitted,
    "rolled-in_scale": _draw_rolled,
    "scratches": _draw_scratches,
}
NEU_CLASSES = tuple(_DRAWERS)


# --- boxes -----------------------------------------------------------------------------------


def _find_boxes(mask: np.ndarray, most: int = 5) -> list[tuple[int, int, int, int]]:
    """Boxes (xmin, ymin, xmax, ymax; pixels, from 1 as in Pascal VOC) around the largest groups of marked pixels."""
    from scipy import ndimage

    marked = mask > 0.3
    groups, _ = ndimage.label(ndimage.uniform_filter(marked.astype(np.float32), 15) > 0.02)
    boxes = [
        (columns.start + 1, rows.start + 1, columns.stop, rows.stop)
        for rows, columns in filter(None, ndimage.find_objects(groups * marked))
    ]
    boxes = [box for box in boxes if min(box[2] - box[0], box[3] - box[1]) >= MIN_BOX]
    boxes.sort(key=lambda box: (-(box[2] - box[0]) * (box[3] - box[1]), box))
    return boxes[:most] or [(1, 1, SIDE, SIDE)]


def _format_voc(stem: str, label: str, boxes: list[tuple[int, int, int, int]]) -> str:
    """Pascal VOC XML of one image."""
    annotation = ElementTree.Element("annotation")
    ElementTree.SubElement(annotation, "filename").text = f"{stem}.png"
    size = ElementTree.SubElement(annotation, "size")
    for key, value in (("width", SIDE), ("height", SIDE), ("depth", 1)):
        ElementTree.SubElement(size, key).text = str(value)
    for box in boxes:
        item = ElementTree.SubElement(annotation, "object")
        ElementTree.SubElement(item, "name").text = label
        corners = ElementTree.SubElement(item, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ElementTree.SubElement(corners, key).text = str(value)
    ElementTree.indent(annotation)
    return ElementTree.tostring(annotation, encoding="unicode") + "\n"

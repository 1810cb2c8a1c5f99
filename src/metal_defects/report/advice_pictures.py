"""Rules of the advice: what the pictures can show, and what tells their class besides the defect."""

from collections import Counter, defaultdict
from math import log2
from statistics import median

from metal_defects.metrics import Metrics
from metal_defects.report.advice_parts import ROOM, Advice, errors_of
from metal_defects.report.findings import Findings
from metal_defects.report.parts import of_hundred

# The deepest feature map has a cell for so many pixels of each side; what fills less than 1.5 of them is averaged away.
CELL, CELLS = 32, 1.5
# Sides of the images over the side of the input: beyond, a mark two pixels wide is less than one pixel to the model.
SHRUNK, MAGNIFIED = 2.0, 0.5
# Images whose sides differ by less than a fifth of an octave, 15 %, count as of one size.
STEPS_PER_OCTAVE = 5
# The share of what chance leaves open that the size of the image alone must tell.
TOLD_BY_SIZE = 0.25


def find_small_defects(found: Findings, metrics: Metrics) -> Advice | None:
    """Are the defects smaller than what the deepest feature map can tell?"""
    side = found.bundle.input.image_size
    # A defect of several pieces is found by its largest one.
    areas = [
        float(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).max())
        for row in found.manifest
        if len(boxes := row.box_shares)
    ]
    if not areas or errors_of(metrics) < ROOM:
        return None
    small, share = [area for area in areas if side * area**0.5 < CELLS * CELL], median(areas)
    if len(small) < len(areas) / 2:
        return None
    pixels = side * share**0.5
    return Advice(
        "The defects are small for the input size.",
        f"The largest box of an image covers {100 * share:.2g} % of it in the median of {len(areas):,} images: "
        f"{pixels:.0f} × {pixels:.0f} of the model's {side} × {side} pixels, where one cell of the deepest feature map "
        f"stands for {CELL} × {CELL}.",
        "Cut pictures around the places where defects occur, or raise data_preprocessing.image_size.",
        errors_of(metrics) * len(small) / len(areas),
    )


def find_misfit(found: Findings, metrics: Metrics) -> Advice | None:
    """Are the images much larger or much smaller than the input of the model?"""
    side = found.bundle.input.image_size
    times = [(row.width * row.height) ** 0.5 / side for row in found.manifest]
    shrunk, magnified = (sum(map(test, times)) / len(times) for test in (SHRUNK.__le__, MAGNIFIED.__ge__))
    if max(shrunk, magnified) < 0.5 or errors_of(metrics) < ROOM:
        return None
    if shrunk >= magnified:
        limit = "Fine detail is lost where the images are shrunk."
        action = "Cut them into tiles around what is inspected, or raise data_preprocessing.image_size."
    else:
        limit = "The images hold less detail than the model could use."
        action = "Take them with a higher magnification or resolution: enlarging them adds nothing."
    return Advice(
        limit,
        f"Side of the images, in the median: {median(times) * side:,.0f} px; the model sees {side} × {side}.",
        action,
        errors_of(metrics) * max(shrunk, magnified),
    )


def find_shortcut(found: Findings, _metrics: Metrics) -> Advice | None:
    """Can the class be told from the width and height of the file?"""
    kinds: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for row in found.manifest:
        kinds[_round_size(row.width), _round_size(row.height)][row.label] += 1
    counts = Counter(row.label for row in found.manifest)
    total, (usual, base) = counts.total(), counts.most_common(1)[0]
    told = sum(_guess_rightly(sizes, usual) for sizes in kinds.values())
    if total == base or told - base < TOLD_BY_SIZE * (total - base):
        return None
    return Advice(
        "The size of an image tells its class.",
        f"By width and height alone {of_hundred(told / total)} of 100 images are named rightly; always saying {usual} "
        f"would give {of_hundred(base / total)}.",
        "The model can learn the camera or the crop instead of the defect: take images of every class in the same "
        "way, or score a folder whose sizes do not differ by class (python main.py evaluate FOLDER).",
        (told - base) / total,
    )


def _round_size(pixels: int) -> int:
    return round(STEPS_PER_OCTAVE * log2(pixels))


def _guess_rightly(counts: Counter[str], usual: str) -> int:
    """Images of one size that get their class from the other images of this size, `usual` where there is none."""
    right = 0
    for label, count in counts.items():
        others = counts - Counter([label])
        guess = max(others, key=lambda name: (others[name], name == usual), default=usual)
        right += count if guess == label else 0
    return right

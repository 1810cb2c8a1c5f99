"""Boxes around what a heat map shows."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from metal_defects.config import Share
from metal_defects.data.geometry import Frame
from metal_defects.records import Record

MOST_BOXES = 20
# Of the image; smaller spots are noise of the heat map.
SMALLEST_AREA = 0.002


class Box(Record):
    """Where a defect is.

    Attributes:
        box: 0 <= left < right <= 1 and 0 <= top < bottom <= 1, from the left and from the top.
        score: mean of the heat map over the cells inside that are part of the defect.
    """

    box: tuple[Share, Share, Share, Share] = Field(
        description="Left, top, right, bottom as shares of the image's width and height."
    )
    score: Share = Field(description="How sure the model is that a defect is there.")

    @property
    def left(self) -> float:
        """Of the image's width."""
        return self.box[0]

    @property
    def top(self) -> float:
        """Of the image's height."""
        return self.box[1]

    @property
    def right(self) -> float:
        """Of the image's width."""
        return self.box[2]

    @property
    def bottom(self) -> float:
        """Of the image's height."""
        return self.box[3]


def find_boxes(
    heat_map: np.ndarray, threshold: float, smallest_area: float = SMALLEST_AREA, most: int = MOST_BOXES
) -> tuple[Box, ...]:
    """One box around each connected region of a heat map, the surest first.

    Cells that touch at a side or a corner are connected. Edges lie where the heat, interpolated between the centres
    of neighbouring cells, falls to the threshold.

    Args:
        heat_map: float (rows, columns) in [0, 1].
        threshold: cells with at least this belong to a region, in (0, 1].
        smallest_area: share of the image that a box must cover.
        most: number of boxes.
    """
    rows, columns = heat_map.shape
    boxes = []
    for region, score in _find_regions(heat_map, threshold):
        top, bottom, left, right = region
        inside = heat_map[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]
        across, down = inside.max(axis=0), inside.max(axis=1)
        x = _refine(across, left, right, columns, threshold)
        y = _refine(down, top, bottom, rows, threshold)
        if (x[1] - x[0]) * (y[1] - y[0]) >= smallest_area:
            edges = (round(x[0], 4), round(y[0], 4), round(x[1], 4), round(y[1], 4))
            boxes.append(Box(box=edges, score=round(score, 4)))
    boxes.sort(key=lambda box: (-box.score, box.top, box.left))
    return tuple(boxes[:most])


def return_boxes(found: Sequence[Box], frame: Frame) -> tuple[Box, ...]:
    """Boxes of the square as boxes of the image; those that only show a mirror image are left out."""
    if frame.is_full:
        return tuple(found)
    placed = frame.to_image(np.array([box.box for box in found])).round(4).tolist()
    return tuple(
        Box(box=(left, top, right, bottom), score=box.score)
        for box, (left, top, right, bottom) in zip(found, placed, strict=True)
        if left < right and top < bottom
    )


def interpolation_matrix(cells: int, points: int) -> np.ndarray:
    """Weights, float32 (points, cells), that interpolate linearly between the centres of cells.

    Points lie evenly, at the centres of as many parts of the same length; beyond the outermost centres the value of
    the outermost cell holds.
    """
    position = np.clip((np.arange(points) + 0.5) * cells / points - 0.5, 0, cells - 1)
    lower = np.minimum(position.astype(int), max(cells - 2, 0))
    share = position - lower
    matrix = np.zeros((points, cells), np.float32)
    matrix[np.arange(points), lower] = 1 - share
    matrix[np.arange(points), np.minimum(lower + 1, cells - 1)] += share
    return matrix


def _find_regions(heat_map: np.ndarray, threshold: float) -> list[tuple[tuple[int, int, int, int], float]]:
    """First row, end row, first column and end column of every connected region, and its mean heat.

    The runs of hot cells within the rows are joined, row by row: a heat map has a few dozen runs, but hundreds of
    cells.
    """
    hot = np.zeros((heat_map.shape[0], heat_map.shape[1] + 2), np.int8)
    hot[:, 1:-1] = heat_map >= threshold
    steps = np.diff(hot, axis=1)
    run_rows, starts = (part.tolist() for part in np.nonzero(steps == 1))
    ends = np.nonzero(steps == -1)[1].tolist()
    totals = np.zeros((heat_map.shape[0], heat_map.shape[1] + 1))
    np.cumsum(heat_map, axis=1, out=totals[:, 1:])
    heats = (totals[run_rows, ends] - totals[run_rows, starts]).tolist()
    owner = list(range(len(starts)))

    def find(run: int) -> int:
        while owner[run] != run:
            owner[run] = owner[owner[run]]
            run = owner[run]
        return run

    above = 0
    for run, row in enumerate(run_rows):
        # Runs of the row above that end before this one begins touch nothing that follows either.
        while run_rows[above] < row - 1 or (run_rows[above] == row - 1 and ends[above] < starts[run]):
            above += 1
        other = above
        while run_rows[other] == row - 1 and starts[other] <= ends[run]:
            owner[find(other)] = find(run)
            other += 1
    regions: dict[int, list[int]] = {}
    heat: dict[int, float] = {}
    for run, row in enumerate(run_rows):
        start, end = starts[run], ends[run]
        first = find(run)
        known = regions.setdefault(first, [row, row + 1, start, end, 0])
        known[0], known[1] = min(known[0], row), max(known[1], row + 1)
        known[2], known[3] = min(known[2], start), max(known[3], end)
        known[4] += end - start
        heat[first] = heat.get(first, 0.0) + heats[run]
    return [((top, end, left, right), heat[first] / cells) for first, (top, end, left, right, cells) in regions.items()]


def _refine(profile: np.ndarray, first: int, end: int, cells: int, threshold: float) -> tuple[float, float]:
    """Where a profile rises to the threshold and falls below it again, as shares of the side.

    Args:
        profile: largest heat of each row or column, from one before `first`, where there is one, to one after `end`.
        first, end: cells of the region.
        cells: of the whole side.
        threshold: of the region.
    """
    low, high = 0.0, 1.0
    if first > 0:
        outside, inside = float(profile[0]), float(profile[1])
        low = (first - 0.5 + _crossing(outside, inside, threshold)) / cells
    if end < cells:
        outside, inside = float(profile[-1]), float(profile[-2])
        high = (end + 0.5 - _crossing(outside, inside, threshold)) / cells
    return low, high


def _crossing(outside: float, inside: float, threshold: float) -> float:
    """How far from the outer cell's centre towards the inner one's the threshold is reached, in [0, 1]."""
    if not outside < threshold <= inside:
        return 0.5
    return (threshold - outside) / (inside - outside)

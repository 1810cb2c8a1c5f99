"""How an image of any shape fills the square that the networks take, and the way back."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from metal_defects.config import FitMode
from metal_defects.records import Record


class Candidate(Record):
    """A way to make a square of an image: how it fills it, and the side in pixels."""

    fit: FitMode
    image_size: int

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.fit} at {self.image_size} px"


class CandidateScore(Candidate):
    """What a linear head on frozen features made of the training images, out of fold.

    Attributes:
        log_loss: mean over the images, in nats.
        difference: of the log loss from the lowest one, in nats.
        standard_error: of that difference, images of one group counting as one.
        accuracy: in [0, 1].
        relative_cost: pixels of the square, as a multiple of those of 224 px.
    """

    log_loss: float
    difference: float
    standard_error: float
    accuracy: float
    relative_cost: float


class Geometry(Candidate):
    """geometry.json: the way that was chosen.

    Attributes:
        reason: why, in words.
        images: training images that were measured; 0 where nothing was to be chosen, or nothing to measure with.
        backbone: whose features were measured; None where none was.
        candidates: the simplest and cheapest first.
    """

    reason: str
    images: int = 0
    backbone: str | None = None
    candidates: tuple[CandidateScore, ...] = ()


@dataclass(frozen=True)
class Frame:
    """Where an image lies in its square; what it leaves free shows its mirror images, one beside the other.

    Mirrored content has the texture of the image itself, which means and variances of feature maps are made of; bars
    of one colour would be a texture of their own, and their edges the strongest ones in the picture.

    Attributes:
        side: of the square in pixels.
        left, top: first column and row of the image.
        width, height: of the image, at least 1; one of them is `side`.
    """

    side: int
    left: int
    top: int
    width: int
    height: int

    @classmethod
    def of(cls, width: int, height: int, side: int, fit: FitMode) -> "Frame":
        """The frame of an image of so many pixels.

        Args:
            width, height: of the image in pixels.
            side: of the square in pixels.
            fit: "stretch" fills the square whatever the shape of the image; "letterbox" keeps the shape, the longer
                side fills the square and the image is centred.
        """
        if fit == "stretch":
            return cls(side, 0, 0, side, side)
        longer = max(width, height)
        across, down = (max(1, round(side * length / longer)) for length in (width, height))
        return cls(side, (side - across) // 2, (side - down) // 2, across, down)

    @property
    def is_full(self) -> bool:
        """Whether the image fills the square."""
        return self.width == self.height == self.side

    def fill(self, content: np.ndarray) -> np.ndarray:
        """The whole square around the image's pixels, (height, width, …) to (side, side, …)."""
        if self.is_full:
            return content
        rows = _mirror(self.side, self.top, self.height)
        columns = _mirror(self.side, self.left, self.width)
        return content.take(rows, axis=0).take(columns, axis=1)

    def crop(self, heat_map: np.ndarray) -> np.ndarray:
        """What of a heat map of the square lies over the image, with as many cells, interpolated linearly.

        Args:
            heat_map: float32 (rows, columns).
        """
        if self.is_full:
            return heat_map
        rows, columns = (cells / self.side for cells in heat_map.shape)
        edges = (self.left * columns, self.top * rows)
        box = (*edges, edges[0] + self.width * columns, edges[1] + self.height * rows)
        return np.array(Image.fromarray(heat_map).resize(heat_map.shape[::-1], Image.Resampling.BILINEAR, box=box))

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the square as shares of the image, clipped to it; one beside the image has no area left.

        Args:
            boxes: left, top, right, bottom as shares of the square's side, (n, 4).
        """
        start, length = np.array([self.left, self.top] * 2), np.array([self.width, self.height] * 2)
        inside: np.ndarray = np.clip((np.asarray(boxes, float).reshape(-1, 4) * self.side - start) / length, 0, 1)
        return inside

    def to_square(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the image, and those of its mirror images, as shares of the square's side, (m, 4).

        A box at an edge of the image and its mirror image are one box. The first rows are those of `boxes` in their
        order: `to_image` makes the same boxes of them again, and nothing of the others.

        Args:
            boxes: left, top, right, bottom as shares of the image's sides, (n, 4).
        """
        own, mirrored = [], []
        for left, top, right, bottom in np.asarray(boxes, float).reshape(-1, 4).tolist():
            across = list(_repeat(left, right, self.left, self.width, self.side))
            down = list(_repeat(top, bottom, self.top, self.height, self.side))
            first, *others = [(x[0], y[0], x[1], y[1]) for x in across for y in down]
            own.append(first)
            mirrored += others
        return np.array([*own, *mirrored], float).reshape(-1, 4)


def _mirror(side: int, start: int, length: int) -> np.ndarray:
    """Which pixel of the image stands at each place of the square, int (side,)."""
    place = (np.arange(side) - start) % (2 * length)
    return np.minimum(place, 2 * length - 1 - place)


def _repeat(low: float, high: float, start: int, length: int, side: int) -> Iterator[tuple[float, float]]:
    """A stretch of the image and its mirror images as shares of the square, the image's own first.

    Args:
        low, high: ends of the stretch as shares of the image.
        start, length: of the image in the square, in pixels.
        side: of the square in pixels.
    """
    reach = math.ceil(side / length)
    merged: list[list[float]] = []
    for number in range(-reach, reach + 1):
        ends = [number + low, number + high] if number % 2 == 0 else [number + 1 - high, number + 1 - low]
        if merged and merged[-1][1] == ends[0]:
            merged[-1][1] = ends[1]
        else:
            merged.append(ends)
    merged.sort(key=lambda ends: not ends[0] <= low < ends[1])
    for ends in merged:
        first, last = (min(max((start + length * end) / side, 0.0), 1.0) for end in ends)
        if first < last:
            yield first, last

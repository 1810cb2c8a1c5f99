"""Puts overlapping images where they lie on their common piece of surface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metal_defects.data.overlaps import Overlap
from metal_defects.data.surface import TURNS, find_turn


@dataclass(frozen=True)
class Place:
    """Where an image lies.

    Attributes:
        turn: position in `TURNS`.
        centre: row and column of its middle, reduced pixels from the middle of the first image, float (2,).
    """

    turn: int
    centre: np.ndarray


def stitch(
    first: int, overlaps: Sequence[Overlap], shapes: Mapping[int, tuple[int, int]], most: int
) -> dict[int, Place]:
    """Places of the images that overlaps connect to the first one, the surest overlap of those at hand at each step.

    Args:
        first: the image that lies upright in the middle.
        overlaps: of its piece.
        shapes: rows and columns of every image, reduced pixels.
        most: images to place.
    """
    places = {first: Place(0, np.zeros(2))}
    open_ = sorted(overlaps, key=lambda overlap: -overlap.correlation)
    while len(places) < most:
        found = next((one for one in open_ if (one.first in places) != (one.second in places)), None)
        if found is None:
            break
        known, new = (found.first, found.second) if found.first in places else (found.second, found.first)
        matrix, shift = _relate(found, shapes)
        if known == found.second:
            matrix, shift = matrix.T, -matrix.T @ shift
        here = places[known]
        whole = TURNS[here.turn]
        places[new] = Place(find_turn(whole @ matrix), here.centre + whole @ shift)
    return places


def _relate(overlap: Overlap, shapes: Mapping[int, tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """What turns the second image as the first one lies, and its middle from the middle of the first."""
    matrix = TURNS[overlap.turn]
    one, other = np.array(shapes[overlap.first]), np.abs(matrix @ np.array(shapes[overlap.second]))
    return matrix, np.array([overlap.down, overlap.across]) + (other - one) / 2

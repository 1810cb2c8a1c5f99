"""The surface that an image shows, and how well two images agree where they lie on one another.

Light and contrast are taken out, so that what is left is the structure of the surface. Two images of one piece agree
in every direction and nearly everywhere; parallel scratches agree across their streaks alone, equal outlines along the
outlines alone, and a drawn pattern of few corners says too little either way.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from PIL import Image

SIDE = 100  # pixels of a typical image once reduced: what is finer differs from shot to shot
_FINEST, _COARSEST, _CONTRAST = 0.8, 4.0, 8.0  # pixels, standard deviations: noise, light, and the reach of contrast
_STEP = 1 / 32
_FLAT = 1.0  # grey levels: what varies less is nothing but noise and is not blown up
_CORNER = 2.5  # pixels: the reach within which structure has one direction or two
# Of the structure's squared slope: below, there is nothing to compare. NEU-DET and X-SDD have 5 % of their area below
# 0.013 and 0.016, drawn circuit boards 75 % below 0.002.
_FAINT = 0.02
MIN_SHARED = 0.15  # of the smaller image
_MIN_STRIP = 10  # pixels, of the shorter side of a common area
_BLOCK = 12  # pixels

_MIRROR, _QUARTER = np.array([[1, 0], [0, -1]]), np.array([[0, -1], [1, 0]])
# Turn t is np.rot90(image, t % 4), of the mirrored image from 4. What each does to (row, column) from the centre:
TURNS = np.stack(
    [np.linalg.matrix_power(_QUARTER, turn) @ (_MIRROR if mirrored else np.eye(2, dtype=int))
     for mirrored, turn in product((False, True), range(4))]
)  # fmt: skip


@dataclass(frozen=True)
class Surface:
    """An image reduced to the structure of its surface.

    Attributes:
        steps: the structure, without light and contrast, in steps of `_STEP`, int8 (rows, columns): all images
            of a set are kept.
    """

    steps: np.ndarray

    def structure(self, turn: int = 0) -> np.ndarray:
        """About 1 in standard deviation, in one of the eight `TURNS`, float32 (rows, columns)."""
        structure: np.ndarray = np.multiply(turn_image(self.steps, turn), _STEP, dtype=np.float32)
        return structure

    @cached_property
    def corners(self) -> np.ndarray:
        """Where the structure has two directions, 0 to 1, float16 (rows, columns).

        The smaller eigenvalue of the structure tensor: J. Shi & C. Tomasi, "Good features to track", CVPR 1994.
        """
        from scipy.ndimage import gaussian_filter

        structure = self.structure()
        down, across = (np.diff(structure, axis=axis, append=structure.take([-1], axis)) for axis in (0, 1))
        first, second, mixed = (gaussian_filter(part, _CORNER) for part in (down**2, across**2, down * across))
        smaller = (first + second) / 2 - np.hypot((first - second) / 2, mixed)
        corners: np.ndarray = np.clip(smaller / _FAINT, 0, 1).astype(np.float16)
        return corners


def find_turn(matrix: np.ndarray) -> int:
    """Position in `TURNS` of what does the same to (row, column)."""
    return int(np.flatnonzero((matrix == TURNS).all(axis=(1, 2)))[0])


@dataclass(frozen=True)
class Common:
    """The common area of two images at one shift; both float32 (rows, columns)."""

    one: np.ndarray
    other: np.ndarray


def choose_reduction(sizes: list[tuple[int, int]]) -> float:
    """By how much to reduce every image of a set, one factor for all: crops of one scale keep it.

    Args:
        sizes: width and height of the images, pixels.

    Returns:
        At least 1; a typical image is then `SIDE` pixels wide and high.
    """
    return max(1.0, float(np.median([np.sqrt(width * height) for width, height in sizes])) / SIDE) if sizes else 1.0


def reduce_image(pixels: np.ndarray, reduction: float) -> np.ndarray:
    """Grey levels of an image, reduced, float32 (rows, columns); `pixels` are uint8 (H, W, 3)."""
    image = Image.fromarray(pixels).convert("L")
    size = max(1, round(image.width / reduction)), max(1, round(image.height / reduction))
    return np.asarray(image.resize(size, Image.Resampling.BOX), np.float32)


def take_surface(pixels: np.ndarray, reduction: float) -> Surface:
    """The surface of a decoded image.

    Args:
        pixels: uint8 (H, W, 3).
        reduction: of `choose_reduction`.
    """
    from scipy.ndimage import gaussian_filter

    grey = reduce_image(pixels, reduction)
    fine = gaussian_filter(grey, _FINEST, mode="nearest") - gaussian_filter(grey, _COARSEST, mode="nearest")
    contrast = np.sqrt(gaussian_filter(fine**2, _CONTRAST, mode="nearest"))
    return Surface(np.clip(np.rint(fine / (contrast + _FLAT) / _STEP), -127, 127).astype(np.int8))


def turn_image(image: np.ndarray, turn: int) -> np.ndarray:
    """A view of an image in one of the eight `TURNS`."""
    return np.rot90(image[:, ::-1] if turn >= 4 else image, turn % 4)


def cut_common(one: np.ndarray, other: np.ndarray, down: int, across: int) -> Common | None:
    """Where two images overlap once the other's corner lies `down` rows and `across` columns from that of the first.

    Returns:
        None where the common area is too small to say anything.
    """
    top, bottom = max(0, down), min(one.shape[0], down + other.shape[0])
    left, right = max(0, across), min(one.shape[1], across + other.shape[1])
    height, width = bottom - top, right - left
    if min(height, width) < _MIN_STRIP or height * width < MIN_SHARED * min(one.size, other.size):
        return None
    return Common(one[top:bottom, left:right], other[top - down : bottom - down, left - across : right - across])


def correlate_coarsely(common: Common) -> float:
    """Correlation of every second pixel down and across: cheap, and enough to rule most proposals out."""
    one, other = (image[::2, ::2].astype(np.float32).ravel() for image in (common.one, common.other))
    return float(one @ other) / max(float(np.sqrt((one @ one) * (other @ other))), 1e-6)


def correlate_slopes(common: Common) -> float:
    """Correlation of the slopes in the direction in which they agree least, -1 to 1.

    With G the matrix of the products of both images' slopes and E the mean of their own, it is the smallest
    generalised eigenvalue of (G, E): the least of u'Gu / u'Eu over all directions u. 0 where the structure has but one
    direction, because then nothing fixes the shift along it.
    """
    down, across, other_down, other_across = _slopes(common)
    first = float(down @ down + other_down @ other_down) / 2
    second = float(across @ across + other_across @ other_across) / 2
    mixed = float(down @ across + other_down @ other_across) / 2
    determinant = first * second - mixed**2
    if determinant <= 1e-6 * first * second or not determinant:
        return 0.0
    agree_down, agree_across = float(down @ other_down), float(across @ other_across)
    agree_mixed = float(down @ other_across + across @ other_down) / 2
    trace = (agree_down * second + agree_across * first - 2 * agree_mixed * mixed) / determinant
    product_ = (agree_down * agree_across - agree_mixed**2) / determinant
    return trace / 2 - float(np.sqrt(max(trace**2 / 4 - product_, 0.0)))


def correlate_blocks(common: Common) -> float:
    """Lower quartile, over blocks with any structure, of the correlation of the slopes within a block, -1 to 1.

    Equal parts on different boards agree along their outlines; one surface agrees between them as well.
    """
    height, width = ((side - 1) // _BLOCK * _BLOCK for side in common.one.shape)
    if not height or not width:
        return 0.0

    def sum_blocks(values: np.ndarray) -> np.ndarray:
        sums: np.ndarray = values.reshape(height // _BLOCK, _BLOCK, -1, _BLOCK).sum(axis=(1, 3)).ravel()
        return sums

    down, across, other_down, other_across = _slopes(Common(*(
        image[: height + 1, : width + 1] for image in (common.one, common.other)
    )))  # fmt: skip
    energy, other_energy = sum_blocks(down**2 + across**2), sum_blocks(other_down**2 + other_across**2)
    told = np.maximum(energy, other_energy) > _FAINT * _BLOCK**2
    agreed = sum_blocks(down * other_down + across * other_across)[told]
    if not len(agreed):
        return 0.0
    return float(np.percentile(agreed / np.sqrt(np.maximum(energy * other_energy, 1e-12)[told]), 25))


def count_corners(corners: Common) -> float:
    """How many separate patches of two-directional structure both images show in their common area.

    Args:
        corners: of both, from `Surface.corners`.
    """
    both = np.minimum(corners.one, corners.other).sum(dtype=np.float64)
    return float(both / (4 * np.pi * _CORNER**2))


def _slopes(common: Common) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Differences to the next row and to the next column, of the first image and of the other, flat."""
    one, other = common.one, common.other
    start, other_start = one[:-1, :-1], other[:-1, :-1]
    return (
        (one[1:, :-1] - start).ravel(),
        (one[:-1, 1:] - start).ravel(),
        (other[1:, :-1] - other_start).ravel(),
        (other[:-1, 1:] - other_start).ravel(),
    )

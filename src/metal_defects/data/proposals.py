"""Which images may overlap, and where: patches that look alike propose a turn and a shift, without trying all pairs.

Every image gives patches around the extrema of its structure. A patch is turned and mirrored until its first moment
points one way, so that the eight orientations of a spot give one descriptor: its principal components (Y. Ke & R.
Sukthankar, PCA-SIFT, CVPR 2004). A forest of random projection trees (S. Dasgupta & Y. Freund, STOC 2008) brings
like descriptors into one leaf; only within leaves are they compared. Cost: n log n in the number of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metal_defects.data.surface import TURNS, Surface, find_turn, turn_image
from metal_defects.log import track
from metal_defects.system import map_ordered

_RADIUS = 6  # pixels, of a patch
_APART = 5  # pixels: one extremum within them
_AREA_PER_PATCH, _MOST_PATCHES = 60, 1000  # pixels; per image
_MIN_CORNER = 0.5  # a patch on a straight line fits everywhere along it
_DIMENSIONS, _SAMPLED_IMAGES = 24, 200
_TREES, _LEAF = 8, 64
_ALIKE, _ALIKE_ALONE = 0.9, 0.95  # cosine of descriptors; of a pair that no second one supports
_CELL = 3  # pixels: proposals of one shift
_MOST_PER_IMAGE = 100

_OFFSETS = np.arange(-_RADIUS, _RADIUS + 1)
# For each turn, where the values of a turned patch stand in the patch, (8, values).
_TURNED = np.stack(
    [turn_image(np.arange(len(_OFFSETS) ** 2).reshape(len(_OFFSETS), -1), turn).ravel() for turn in range(8)]
)
_WINDOW = np.exp(-(_OFFSETS[:, None] ** 2 + _OFFSETS**2) / (2 * 4.0**2)).astype(np.float32)


@dataclass(frozen=True)
class Proposals:
    """Where images may overlap, the likeliest first; arrays of one length.

    Attributes:
        first, second: positions of the images, the smaller first.
        turn: of the second image, a position in `TURNS`.
        shift: rows and columns from the first image's corner to that of the turned second, (n, 2).
    """

    first: np.ndarray
    second: np.ndarray
    turn: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class _Patches:
    """Patches of one image or of many.

    Attributes:
        values: (n, columns).
        turns: that was applied to each, (n,).
        places: row and column of each centre from the middle of its image, (n, 2).
    """

    values: np.ndarray
    turns: np.ndarray
    places: np.ndarray


def propose(surfaces: Sequence[Surface], seed: int = 0) -> Proposals:
    """Pairs of images with a turn and a shift that patches of both agree on.

    Args:
        surfaces: of all images.
        seed: of the forest.
    """
    step = max(1, len(surfaces) // _SAMPLED_IMAGES)
    sample = np.concatenate([_cut_patches(surface).values for surface in surfaces[::step]] or [np.zeros((0, 1))])
    if len(sample) < 2:
        return _order(np.zeros((0, 4), int), np.zeros(0), len(surfaces))
    _, vectors = np.linalg.eigh(sample.T @ sample)
    components = vectors[:, ::-1][:, :_DIMENSIONS].astype(np.float32)

    def describe(surface: Surface) -> _Patches:
        found = _cut_patches(surface)
        projected = found.values @ components
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        return _Patches(projected / np.maximum(norms, 1e-6), found.turns, found.places)

    found = list(track(map_ordered(describe, surfaces), "Describing surfaces", total=len(surfaces)))
    owners = np.repeat(np.arange(len(found)), [len(patches.values) for patches in found])
    values, turns, places = (
        np.concatenate([getattr(patches, name) for patches in found]) for name in ("values", "turns", "places")
    )
    pairs, alike = _find_alike(values, owners, np.random.default_rng(seed))
    one, other = pairs.T
    turn = _COMPOSED[turns[one], turns[other]]
    shapes = np.array([surface.steps.shape for surface in surfaces])
    turned_shapes = np.where(turn[:, None] % 2, shapes[owners[other]][:, ::-1], shapes[owners[other]])
    moved = np.einsum("nab,nb->na", TURNS[turn], places[other])
    shift = places[one] + (shapes[owners[one]] - 1) / 2 - moved - (turned_shapes - 1) / 2
    rows = np.column_stack([owners[one] * len(surfaces) + owners[other], turn, np.floor((shift + 1) / _CELL)])
    return _vote(rows.astype(np.int64), shift, alike, len(surfaces))


def _cut_patches(surface: Surface) -> _Patches:
    """Patches around the strongest extrema, each turned so that its first moment points down more than right."""
    from scipy.ndimage import gaussian_filter, maximum_filter

    structure = surface.structure()
    strength = np.abs(gaussian_filter(structure, 1.0))
    extrema = (maximum_filter(strength, _APART) == strength) & (surface.corners > _MIN_CORNER)
    inside = np.zeros_like(extrema)
    inside[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS] = True
    rows, columns = np.nonzero(extrema & inside)
    most = min(structure.size // _AREA_PER_PATCH, _MOST_PATCHES)
    chosen = np.argsort(-strength[rows, columns], kind="stable")[:most]
    rows, columns = rows[chosen], columns[chosen]
    patches = structure[rows[:, None, None] + _OFFSETS[:, None], columns[:, None, None] + _OFFSETS] * _WINDOW
    moments = np.stack([(patches.sum(axis=2) @ _OFFSETS), (patches.sum(axis=1) @ _OFFSETS)], axis=1)
    up, left = (moments < 0).T.astype(int)
    turns = _UPRIGHT[up, left, (np.abs(moments[:, 0]) < np.abs(moments[:, 1])).astype(int)]
    flat = np.take_along_axis(patches.reshape(len(patches), len(_OFFSETS) ** 2), _TURNED[turns], axis=1)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    middle = (np.array(structure.shape) - 1) / 2
    return _Patches(flat, turns, np.stack([rows, columns], axis=1) - middle)


def _find_alike(values: np.ndarray, owners: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of like descriptors of two images, (n, 2), and the cosine of each, (n,).

    Every level of a tree halves its nodes along a random direction, so that all leaves have one size and are compared
    by one product of matrices.
    """
    count = len(values)
    levels = (count // _LEAF).bit_length()
    leaves = 1 << levels
    size = -(-count // leaves) * leaves
    found, cosines = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    for _ in track(range(_TREES), "Looking for overlaps", total=_TREES):
        order = np.concatenate([np.arange(count), rng.integers(0, count, size - count)])[None]
        for _ in range(levels):
            direction = np.asarray(rng.standard_normal(values.shape[1]), np.float32)
            along = (values @ direction)[order]
            halves = np.argpartition(along, order.shape[1] // 2, axis=1)
            order = np.take_along_axis(order, halves, axis=1).reshape(2 * len(order), -1)
        alike = values[order] @ values[order].transpose(0, 2, 1)
        alike[owners[order][:, :, None] >= owners[order][:, None, :]] = -1
        leaf, one, other = np.nonzero(alike > _ALIKE)
        found.append(np.stack([order[leaf, one], order[leaf, other]], axis=1))
        cosines.append(alike[leaf, one, other])
    pairs, cosine = np.concatenate(found), np.concatenate(cosines)
    _, kept = np.unique(pairs[:, 0] * count + pairs[:, 1], return_index=True)
    return pairs[kept], cosine[kept]


def _vote(rows: np.ndarray, shift: np.ndarray, alike: np.ndarray, images: int) -> Proposals:
    """One proposal for each pair of images, turn and cell of shifts, if two pairs of patches or one very like agree."""
    order = np.lexsort(rows.T[::-1])
    rows, shift, alike = rows[order], shift[order], alike[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(rows, axis=0) != 0).any(axis=1)]) if len(rows) else np.zeros(0, int)
    votes = np.diff(np.append(starts, len(rows)))
    best = np.maximum.reduceat(alike, starts) if len(rows) else alike
    mean = np.add.reduceat(shift, starts, axis=0) / votes[:, None] if len(rows) else shift
    kept = (votes > 1) | (best > _ALIKE_ALONE)
    table = np.column_stack([rows[starts, 0], rows[starts, 1], np.rint(mean)]).astype(np.int64)[kept]
    return _order(table, (votes + best)[kept], images)


def _order(table: np.ndarray, merit: np.ndarray, images: int) -> Proposals:
    chosen = np.argsort(-merit, kind="stable")[: _MOST_PER_IMAGE * images]
    pair, turn, down, across = table[chosen].T
    return Proposals(pair // max(images, 1), pair % max(images, 1), turn, np.stack([down, across], axis=1))


# The turn that brings an image to where another is upright, given the turns that make a patch of each upright.
_COMPOSED = np.array([[find_turn(one.T @ other) for other in TURNS] for one in TURNS])
# By the signs of a moment's two parts and by which is larger: the turn that makes both positive, the first larger.
_UPRIGHT = np.array([
    [[find_turn(np.array(swap) @ np.diag([1 - 2 * up, 1 - 2 * left])) for swap in ([[1, 0], [0, 1]], [[0, 1], [1, 0]])]
     for left in (0, 1)] for up in (0, 1)
])  # fmt: skip

"""Finds images that show one piece of a surface: crops that overlap, at any shift, in all eight turns and reflections.

What like patches propose is verified by correlating the slopes of both images over their whole common area. Groups of
overlapping images are pieces of steel (or plates, or boards): they are what a split may not tear apart.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metal_defects.data.duplicates import Match, group_pairs
from metal_defects.data.proposals import propose
from metal_defects.data.surface import (
    Common,
    Surface,
    correlate_blocks,
    correlate_coarsely,
    correlate_slopes,
    count_corners,
    cut_common,
    turn_image,
)
from metal_defects.log import track

# Of NEU-DET's proposals, 2,500 pairs lie above 0.5 (nine tenths of them above 0.7), 20 between 0.3 and 0.5 and all
# others around 0; of X-SDD's 100, 250 (the pattern of one roll, printed again and again) and the rest.
MIN_CORRELATION = 0.5
MIN_BLOCK_CORRELATION = 0.5
# With fewer patches of two-directional structure in common, drawn circuit boards agree by chance; a common area of 15 %
# of a NEU-DET image has 15 to 40 of them.
MIN_CORNERS = 15.0
SURE_CORRELATION = 0.7  # a less certain overlap needs a second one beside it
_SURE_COPY = 0.98
_PROMISING, _COARSELY_PROMISING = 0.2, 0.35
_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_RIVALS = 4  # shifts at which an image resembles itself most


@dataclass(frozen=True)
class Overlap:
    """Two images, by index, that show one piece of surface.

    Attributes:
        first: the smaller index.
        second: the larger index.
        turn: of the second, position in `metal_defects.data.surface.TURNS`.
        down, across: from the first image's corner to that of the turned second, in reduced pixels.
        correlation: of the slopes in the direction in which they agree least.
        shared: common area over that of the smaller image.
    """

    first: int
    second: int
    turn: int
    down: int
    across: int
    correlation: float
    shared: float


def find_overlaps(surfaces: Sequence[Surface], seed: int = 0) -> list[Overlap]:
    """Pairs of images that overlap, each at its best turn and shift.

    Of two overlaps between pieces that are sure, or of two images that have no other, one may be less certain; a single
    doubtful one never joins two pieces, because a chain of such would unite a class.

    Args:
        surfaces: of all images.
        seed: of the search.

    Returns:
        In the order of their indices.
    """
    proposals = propose(surfaces, seed)
    best: dict[tuple[int, int], Overlap] = {}
    rows = zip(
        proposals.first.tolist(), proposals.second.tolist(), proposals.turn.tolist(), proposals.shift.tolist(),
        strict=True,
    )  # fmt: skip
    for first, second, turn, (down, across) in track(rows, "Comparing surfaces", total=len(proposals.first)):
        known = best.get((first, second))
        if known and known.correlation >= SURE_CORRELATION:
            continue
        found = _climb(surfaces, first, second, turn, down, across)
        if found and found.correlation >= MIN_CORRELATION and (not known or found.correlation > known.correlation):
            best[first, second] = found
    verified = [overlap for _, overlap in sorted(best.items()) if _holds(surfaces, overlap)]
    return _drop_doubtful(len(surfaces), verified)


def drop_poor_copies(matches: Sequence[Match], surfaces: Sequence[Surface]) -> list[Match]:
    """Leave out look-alikes of so few corners that drawn patterns of one style correlate as highly by chance."""

    def is_rich(match: Match) -> bool:
        return all(
            count_corners(Common(surfaces[index].corners, surfaces[index].corners)) >= MIN_CORNERS
            for index in (match.first, match.second)
        )

    return [
        match
        for match in matches
        if match.kind in ("file", "pixels") or match.correlation >= _SURE_COPY or is_rich(match)
    ]


def _climb(surfaces: Sequence[Surface], first: int, second: int, turn: int, down: int, across: int) -> Overlap | None:
    """The best shift near the one that is proposed; None where the images share too little there."""
    proposed = cut_common(surfaces[first].steps, turn_image(surfaces[second].steps, turn), down, across)
    if proposed is None or correlate_coarsely(proposed) < _COARSELY_PROMISING:
        return None
    one, other = surfaces[first].structure(), surfaces[second].structure(turn)

    def score(place: tuple[int, int]) -> float:
        common = cut_common(one, other, *place)
        return correlate_slopes(common) if common else -1.0

    place, value = (down, across), score((down, across))
    while value > _PROMISING:
        around = [(place[0] + rows, place[1] + columns) for rows, columns in _NEIGHBOURS]
        higher, better = max((score(beside), beside) for beside in around)
        if higher <= value:
            break
        place, value = better, higher
    common = cut_common(one, other, *place)
    share = common.one.size / min(one.size, other.size) if common else 0.0
    return Overlap(first, second, turn, *place, round(value, 3), round(share, 3))


def _holds(surfaces: Sequence[Surface], overlap: Overlap) -> bool:
    """Whether the images agree nearly everywhere, on enough, and at no other shift as well."""
    one, other, place = surfaces[overlap.first], surfaces[overlap.second], (overlap.down, overlap.across)
    images = one.structure(), other.structure(overlap.turn)
    common, corners = (
        cut_common(*images, *place),
        cut_common(one.corners, turn_image(other.corners, overlap.turn), *place),
    )
    if common is None or corners is None or count_corners(corners) < MIN_CORNERS:
        return False
    if correlate_blocks(common) < MIN_BLOCK_CORRELATION:
        return False
    # A perforated sheet agrees with every other one, a hole further as well as here.
    allowed = max(overlap.correlation / 2, 2 * overlap.correlation - 1)
    rivals = (
        cut_common(*images, place[0] + sign * rows, place[1] + sign * columns)
        for rows, columns in _find_periods(common.one)
        for sign in (1, -1)
    )
    return all(correlate_slopes(rival) <= allowed for rival in rivals if rival)


def _find_periods(image: np.ndarray) -> list[tuple[int, int]]:
    """The shifts, none of them small, at which an image resembles itself most: rows and columns."""
    from scipy.fft import irfft2, rfft2
    from scipy.ndimage import maximum_filter

    shape = tuple(2 * side for side in image.shape)
    spectrum, mask = rfft2(image, shape), rfft2(np.ones_like(image), shape)
    area = irfft2(np.abs(mask) ** 2, shape)
    resemblance = np.where(area > image.size / 4, irfft2(np.abs(spectrum) ** 2, shape) / np.maximum(area, 1), 0)
    rows, columns = np.meshgrid(*(np.fft.fftfreq(side, 1 / side).astype(int) for side in shape), indexing="ij")
    resemblance[(np.hypot(rows, columns) < 5) | (rows < 0)] = 0
    peaks = (maximum_filter(resemblance, 5, mode="wrap") == resemblance) & (resemblance > 0)
    places = np.argwhere(peaks)
    strongest = places[np.argsort(-resemblance[peaks], kind="stable")[:_RIVALS]]
    return [(int(rows[row, column]), int(columns[row, column])) for row, column in strongest]


def _drop_doubtful(count: int, overlaps: list[Overlap]) -> list[Overlap]:
    """Leave out uncertain overlaps that nothing supports."""
    sure = [overlap for overlap in overlaps if overlap.correlation >= SURE_CORRELATION]
    piece = group_pairs(count, [(overlap.first, overlap.second) for overlap in sure])
    joined = Counter(frozenset((piece[overlap.first], piece[overlap.second])) for overlap in overlaps)
    links = Counter(index for overlap in overlaps for index in (overlap.first, overlap.second))

    def is_supported(overlap: Overlap) -> bool:
        ends = overlap.first, overlap.second
        return joined[frozenset(piece[end] for end in ends)] > 1 or all(links[end] == 1 for end in ends)

    return [overlap for overlap in overlaps if overlap.correlation >= SURE_CORRELATION or is_supported(overlap)]

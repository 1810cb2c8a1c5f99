"""Overlaps: crops of one surface are found whatever their light, turn and shift; look-alikes are not."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from metal_defects.data.duplicates import Match
from metal_defects.data.overlaps import Overlap, drop_poor_copies, find_overlaps
from metal_defects.data.stitching import stitch
from metal_defects.data.surface import (
    TURNS,
    Surface,
    choose_reduction,
    correlate_slopes,
    cut_common,
    find_turn,
    take_surface,
    turn_image,
)

SIDE = 100


@cache
def draw_sheet(seed: int, grain: tuple[float, float] = (2.5, 2.5), side: int = 260) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), grain)
    return 128 + 30 * noise / noise.std()


def photograph(crop: np.ndarray, brightness: float = 1.0, noise: float = 2.0, seed: int = 0) -> np.ndarray:
    lit = crop * brightness + np.random.default_rng(seed).normal(0, noise, crop.shape)
    return np.repeat(np.clip(np.rint(lit), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def take(*crops: np.ndarray) -> list[Surface]:
    return [take_surface(photograph(crop, seed=index), 1.0) for index, crop in enumerate(crops)]


def cut(sheet: np.ndarray, top: int, left: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return sheet[top : top + height, left : left + width]


def strangers(count: int, grain: tuple[float, float] = (2.5, 2.5)) -> list[np.ndarray]:
    return [cut(draw_sheet(1000 + number, grain), 0, 0) for number in range(count)]


def pairs(found: Sequence[Overlap]) -> set[tuple[int, int]]:
    return {(one.first, one.second) for one in found}


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(-45, 45),
    st.integers(-45, 45),
    st.integers(0, 7),
    st.floats(0.8, 1.2),
    st.floats(0, 4),
)
def test_crops_of_one_sheet_overlap_whatever_light_contrast_turn_and_shift(
    seed: int, down: int, across: int, turn: int, brightness: float, noise: float
) -> None:
    sheet = draw_sheet(seed)
    other = turn_image(cut(sheet, 80 + down, 80 + across), turn)
    surfaces = [
        *take(cut(sheet, 80, 80), *strangers(3)),
        take_surface(photograph(0.7 * (other - 128) + 128, brightness, noise, 9), 1.0),
    ]
    found = find_overlaps(surfaces)
    assert pairs(found) == {(0, 4)}
    # The turn that undoes the one that was made, and where the crop was cut.
    assert (found[0].turn, found[0].down, found[0].across) == (find_turn(TURNS[turn].T), down, across)
    assert found[0].shared == pytest.approx((SIDE - abs(down)) * (SIDE - abs(across)) / SIDE**2, abs=1e-3)


@settings(max_examples=3, deadline=None)
@given(st.permutations(range(8)))
def test_order_of_the_images_changes_nothing(order: list[int]) -> None:
    crops = [cut(draw_sheet(5), 0, 40 * step) for step in range(4)] + strangers(4)
    expected = {frozenset(pair) for pair in pairs(find_overlaps(take(*crops)))}
    mixed = find_overlaps(take(*(crops[index] for index in order)))
    assert {frozenset(order[index] for index in pair) for pair in pairs(mixed)} == expected
    assert {frozenset((step, step + 1)) for step in range(3)} <= expected


def test_crops_of_any_size_and_shape_overlap() -> None:
    sheet = draw_sheet(7)
    crops = [cut(sheet, 0, 0, 60, 200), cut(sheet, 20, 120, 200, 70), cut(sheet, 150, 20, 100, 140)]
    assert pairs(find_overlaps(take(*crops, *strangers(2)))) == {(0, 1), (1, 2)}


@pytest.mark.parametrize("grain", [(1.5, 1.5), (4, 4), (2, 20), (30, 2)])
def test_independent_surfaces_of_one_grain_do_not_overlap(grain: tuple[float, float]) -> None:
    assert find_overlaps(take(*strangers(12, grain))) == []


def test_parallel_streaks_do_not_overlap() -> None:
    rows = np.random.default_rng(3).integers(60, 200, (20, 1, SIDE)).astype(float)
    assert find_overlaps(take(*np.repeat(rows, SIDE, axis=1))) == []


def test_images_without_structure_do_not_overlap() -> None:
    flat = [np.full((SIDE, SIDE), level) for level in (0.0, 90.0, 90.0, 255.0)]
    surfaces = [take_surface(photograph(image, noise=0), 1.0) for image in flat]
    assert find_overlaps(surfaces) == []
    assert find_overlaps([]) == []
    assert find_overlaps(take(np.full((3, 5), 70.0), np.full((1, 1), 70.0))) == []


def test_perforated_sheets_do_not_overlap() -> None:
    def perforate(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[:SIDE, :SIDE] + rng.integers(0, 16, (2, 1, 1))
        holes = np.hypot(rows % 16 - 8, columns % 16 - 8) < 4.5
        return np.where(holes, 40.0, 180.0) + 2 * rng.standard_normal((SIDE, SIDE))

    assert find_overlaps(take(*map(perforate, range(12)))) == []


def test_equal_parts_on_different_boards_do_not_overlap() -> None:
    """One outline on surfaces that differ: only the outline agrees."""
    outline = np.zeros((SIDE, SIDE))
    outline[20:80, 30:36] = outline[20:26, 30:75] = outline[60:66, 30:90] = 45
    assert find_overlaps(take(*(0.8 * crop + outline for crop in strangers(12)))) == []


def test_one_direction_of_structure_says_nothing() -> None:
    streaks = np.repeat(np.random.default_rng(0).standard_normal((1, SIDE)), SIDE, axis=0).astype(np.float32)
    common = cut_common(streaks, streaks, 7, 0)
    assert common is not None
    assert correlate_slopes(common) == 0
    rough = np.random.default_rng(1).standard_normal((SIDE, SIDE)).astype(np.float32)
    common = cut_common(rough, rough, 0, 0)
    assert common is not None
    assert correlate_slopes(common) == pytest.approx(1)
    assert cut_common(rough, rough, 90, 0) is None


def test_a_single_doubtful_overlap_joins_no_pieces() -> None:
    """A seam that shows two sheets half and half would chain them."""
    one, other = draw_sheet(20), draw_sheet(21)
    mixed = np.sqrt(0.5) * (cut(one, 0, 60) - 128) + np.sqrt(0.5) * (cut(other, 0, 60) - 128) + 128
    crops = [cut(one, 0, 60 + 10 * step) for step in range(3)] + [cut(other, 0, 60 + 10 * step) for step in range(3)]
    found = pairs(find_overlaps(take(*crops, mixed)))
    assert {(0, 1), (1, 2), (3, 4), (4, 5)} <= found
    assert not {(low, high) for low, high in found if low < 3 <= high < 6}


def test_drawn_copies_of_few_corners_count_only_when_almost_equal() -> None:
    bar = np.full((SIDE, SIDE), 255.0)
    bar[40:60] = 0
    surfaces = [take_surface(photograph(bar, noise=0), 1.0)] * 2 + take(draw_sheet(1)[:SIDE, :SIDE]) * 2
    doubtful, certain, equal = (
        Match(0, 1, kind, value) for kind, value in (("near", 0.9), ("turned", 0.99), ("file", 1.0))
    )
    rich = Match(2, 3, "near", 0.9)
    assert drop_poor_copies([doubtful, certain, equal, rich], surfaces) == [certain, equal, rich]


def test_one_factor_reduces_all_images() -> None:
    assert choose_reduction([(200, 200), (200, 200), (400, 100)]) == 2
    assert choose_reduction([(40, 40)]) == 1
    assert choose_reduction([]) == 1


@given(st.integers(0, 7), st.integers(0, 7))
def test_turns_are_a_group_and_match_their_matrices(one: int, other: int) -> None:
    image = np.arange(12).reshape(3, 4)
    composed = find_turn(TURNS[other] @ TURNS[one])
    assert np.array_equal(turn_image(turn_image(image, one), other), turn_image(image, composed))


def test_stitching_puts_turned_crops_where_they_were_cut() -> None:
    sheet, corners, turns = draw_sheet(9), [(0, 0), (30, 60), (70, 110), (120, 60)], [3, 5, 0, 6]
    crops = [turn_image(cut(sheet, *corner), turn) for corner, turn in zip(corners, turns, strict=True)]
    places = stitch(0, find_overlaps(take(*crops)), dict.fromkeys(range(4), (SIDE, SIDE)), 4)
    assert sorted(places) == [0, 1, 2, 3]
    for index, place in places.items():
        assert place.turn == find_turn(TURNS[turns[0]] @ TURNS[turns[index]].T)
        offset = TURNS[turns[0]] @ (np.array(corners[index]) - corners[0])
        assert np.abs(place.centre - offset).max() <= 1

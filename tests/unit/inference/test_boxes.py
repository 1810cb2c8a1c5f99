"""Boxes around the regions of a heat map."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metal_defects.data.geometry import Frame
from metal_defects.inference.boxes import MOST_BOXES, Box, find_boxes, interpolation_matrix, return_boxes

HEAT = hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.floats(0, 1, width=32))
THRESHOLD = st.floats(0.05, 1)
SLACK = 1e-4  # edges are rounded


def label_by_flooding(hot: np.ndarray) -> list[set[tuple[int, int]]]:
    """Regions of cells that touch at a side or a corner, the slow way."""
    left, regions = {tuple(cell) for cell in np.argwhere(hot)}, []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            region.add((row, column))
            near = {(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} & left
            left -= near
            edge += near
        regions.append(region)
    return regions


@settings(deadline=None, max_examples=200)
@given(heat=HEAT, threshold=THRESHOLD)
def test_one_box_per_region_that_holds_the_centres_of_its_cells(heat: np.ndarray, threshold: float) -> None:
    found = list(find_boxes(heat, threshold, smallest_area=0, most=1000))
    regions = label_by_flooding(heat >= threshold)
    assert len(found) == len(regions)
    rows, columns = heat.shape
    for region in regions:
        cells = np.array(sorted(region))
        score = heat[cells[:, 0], cells[:, 1]].astype(float).mean()
        first, last = (cells.min(axis=0) + 0.5) / heat.shape, (cells.max(axis=0) + 0.5) / heat.shape
        cell = 1 / np.array([rows, columns])
        assert any(
            np.all(first - cell - SLACK <= [box.top, box.left])
            and np.all([box.top, box.left] <= first + SLACK)
            and np.all(last - SLACK <= [box.bottom, box.right])
            and np.all([box.bottom, box.right] <= last + cell + SLACK)
            and box.score == pytest.approx(score, abs=1e-3)
            for box in found
        )


@settings(deadline=None)
@given(heat=HEAT, threshold=THRESHOLD, most=st.integers(0, 5), smallest=st.floats(0, 0.3))
def test_boxes_lie_inside_sorted_large_and_few(heat: np.ndarray, threshold: float, most: int, smallest: float) -> None:
    found = find_boxes(heat, threshold, smallest, most)
    assert len(found) <= most
    assert [box.score for box in found] == sorted((box.score for box in found), reverse=True)
    for box in found:
        assert 0 <= box.left <= box.right <= 1
        assert 0 <= box.top <= box.bottom <= 1
        assert (box.right - box.left) * (box.bottom - box.top) >= smallest - 1e-3
        assert threshold - 1e-4 <= box.score <= 1


@settings(deadline=None)
@given(heat=HEAT, threshold=THRESHOLD)
def test_a_mirrored_map_gives_mirrored_boxes(heat: np.ndarray, threshold: float) -> None:
    plain = find_boxes(heat, threshold, 0, 1000)
    mirrored = find_boxes(np.ascontiguousarray(heat[:, ::-1]), threshold, 0, 1000)
    assert len(plain) == len(mirrored)
    for box in mirrored:
        edges = (1 - box.right, box.top, 1 - box.left, box.bottom)
        assert any(
            np.allclose(edges, (other.left, other.top, other.right, other.bottom), atol=2 * SLACK) for other in plain
        )


def test_nothing_hot_gives_no_box() -> None:
    assert find_boxes(np.zeros((28, 28), np.float32), 0.5) == ()


def test_everything_hot_gives_the_whole_image() -> None:
    assert find_boxes(np.ones((7, 9), np.float32), 0.5) == (Box(box=(0.0, 0.0, 1.0, 1.0), score=1.0),)


def test_cells_that_touch_at_a_corner_are_one_region() -> None:
    assert len(find_boxes(np.eye(4, dtype=np.float32), 0.5)) == 1
    assert len(find_boxes(np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], np.float32), 0.5)) == 4


def test_arms_that_meet_below_are_one_region() -> None:
    heat = np.zeros((6, 7), np.float32)
    heat[:, [1, 3, 5]] = 1
    heat[-1, 1:6] = 1
    assert len(find_boxes(heat, 0.5)) == 1


def test_edges_follow_the_heat_between_cells() -> None:
    def edge(outside: float) -> float:
        heat = np.zeros((1, 8), np.float32)
        heat[0, 3], heat[0, 4:] = outside, 1
        return find_boxes(heat, 0.5)[0].left

    assert edge(0.0) == pytest.approx(0.5)
    assert edge(0.25) == pytest.approx((3.5 + 1 / 3) / 8, abs=1e-4)
    assert edge(0.4) < edge(0.25) < edge(0.0)


@settings(deadline=None)
@given(left=st.floats(0.1, 0.4), right=st.floats(0.6, 0.9))
def test_a_soft_rectangle_is_recovered_to_half_a_cell(left: float, right: float) -> None:
    """Cells filled by the share that a rectangle covers, as the locator learns to draw them, smoothed."""
    fine = ((np.arange(2800) + 0.5) / 2800 >= left) & ((np.arange(2800) + 0.5) / 2800 < right)
    cover = fine.reshape(28, 100).mean(axis=1)
    box = find_boxes(np.outer(np.ones(28), cover), 0.5)[0]
    assert abs(box.left - left) < 0.5 / 28
    assert abs(box.right - right) < 0.5 / 28


def test_default_limits() -> None:
    heat = np.zeros((40, 40), np.float32)
    heat[::2, ::2] = 1
    assert find_boxes(heat, 0.5) == ()
    heat = np.kron(heat[:14, :14], np.ones((4, 4), np.float32))
    assert len(find_boxes(heat, 0.5)) == MOST_BOXES


def test_a_box_tells_its_corners() -> None:
    box = Box(box=(0.1, 0.2, 0.3, 0.4), score=0.9)
    assert box.model_dump(mode="json") == {"box": [0.1, 0.2, 0.3, 0.4], "score": 0.9}
    assert (box.left, box.top, box.right, box.bottom) == box.box


def test_a_noisy_map_costs_little() -> None:
    """Beside one defect, in turns: how fast the machine is does not matter."""
    calm = np.zeros((28, 28), np.float32)
    calm[5:12, 8:20] = 1
    seconds = []
    for heat in 20 * [np.random.default_rng(0).random((28, 28), np.float32), calm]:
        start = time.perf_counter()
        find_boxes(heat, 0.7)
        seconds.append(time.perf_counter() - start)
    assert min(seconds[::2]) < 20 * min(seconds[1::2])


@pytest.mark.parametrize(("cells", "points"), [(1, 5), (7, 14), (28, 112), (28, 28), (14, 7)])
def test_interpolation_keeps_straight_lines(cells: int, points: int) -> None:
    matrix = interpolation_matrix(cells, points)
    assert np.allclose(matrix.sum(axis=1), 1)
    centres = (np.arange(cells) + 0.5) / cells
    expected = np.clip((np.arange(points) + 0.5) / points, centres[0], centres[-1])
    assert np.allclose(matrix @ centres, expected, atol=1e-6)


def test_boxes_return_to_the_image_and_mirror_images_are_left_out() -> None:
    frame = Frame.of(200, 100, 64, "letterbox")
    square = frame.to_square([[0.25, 0.0, 0.5, 0.5]])
    found = [Box(box=tuple(edges), score=0.9) for edges in (*square.tolist(), (0.1, 0.0, 0.2, 0.2))]
    assert [box.box for box in return_boxes(found, frame)] == [(0.25, 0.0, 0.5, 0.5)]
    assert return_boxes([], frame) == ()
    assert return_boxes(found, Frame.of(200, 100, 64, "stretch")) == tuple(found)

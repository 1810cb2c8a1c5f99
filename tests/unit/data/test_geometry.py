"""Frames: the way from an image of any shape to the square and back."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from metal_defects.data.geometry import Frame

SIZES = st.integers(1, 600)
FITS = st.sampled_from(["stretch", "letterbox"])
# Shares that are no nearer to one another than rounding can tell.
EDGES = st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True).map(
    lambda ends: (min(ends) / 1000, max(ends) / 1000)
)
BOXES = st.lists(st.tuples(EDGES, EDGES).map(lambda box: (box[0][0], box[1][0], box[0][1], box[1][1])), max_size=6)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    return Frame.of(draw(SIZES), draw(SIZES), 32 * draw(st.integers(2, 8)), draw(FITS))


@given(SIZES, SIZES, st.integers(2, 14))
def test_letterbox_keeps_the_shape_to_a_pixel_and_fills_the_longer_side(width: int, height: int, units: int) -> None:
    side = 32 * units
    frame = Frame.of(width, height, side, "letterbox")
    assert max(frame.width, frame.height) == side and min(frame.width, frame.height) >= 1
    longer = max(width, height)
    assert abs(frame.width - side * width / longer) <= 1 and abs(frame.height - side * height / longer) <= 1
    assert 0 <= frame.left <= side - frame.width and abs(side - frame.width - 2 * frame.left) <= 1
    assert 0 <= frame.top <= side - frame.height and abs(side - frame.height - 2 * frame.top) <= 1
    assert frame.is_full == (frame.width == frame.height)


@given(SIZES, SIZES)
def test_stretching_is_full_and_changes_no_share(width: int, height: int) -> None:
    frame, box, heat = Frame.of(width, height, 64, "stretch"), [[0.1, 0.2, 0.5, 1.0]], np.eye(4, dtype=np.float32)
    assert frame.is_full and frame.crop(heat) is heat
    assert frame.to_square(box).tolist() == box and frame.to_image(box).tolist() == box


@given(frames(), BOXES)
def test_there_and_back_gives_the_same_boxes_and_mirror_images_have_no_area(
    frame: Frame, boxes: list[tuple[float, float, float, float]]
) -> None:
    square = frame.to_square(boxes)
    assert square.shape[1:] == (4,) and square.min(initial=0) >= 0 and square.max(initial=1) <= 1
    assert (square[:, :2] < square[:, 2:]).all()
    back = frame.to_image(square)
    assert np.allclose(back[: len(boxes)], np.array(boxes).reshape(-1, 4), atol=1e-9)
    mirrored = back[len(boxes) :]
    assert np.isclose((mirrored[:, 2:] - mirrored[:, :2]).min(axis=1), 0, atol=1e-9).all()


@given(frames(), BOXES)
def test_boxes_lie_where_the_filled_pixels_show_what_they_hold(
    frame: Frame, boxes: list[tuple[float, float, float, float]]
) -> None:
    # Rounding may decide a pixel either way whose centre is on the very edge of a box.
    assume(not any(_is_centre(frame.width, box[0::2]) or _is_centre(frame.height, box[1::2]) for box in boxes))
    content = np.zeros((frame.height, frame.width), np.uint8)
    for left, top, right, bottom in boxes:
        content[_centres(frame.height, top, bottom)[:, None] & _centres(frame.width, left, right)] = 1
    square = np.zeros((frame.side, frame.side), np.uint8)
    for left, top, right, bottom in frame.to_square(boxes).tolist():
        square[_centres(frame.side, top, bottom)[:, None] & _centres(frame.side, left, right)] = 1
    assert np.array_equal(square, frame.fill(content))


def _is_centre(count: int, edges: tuple[float, float]) -> bool:
    """Whether one of the edges is at the centre of one of `count` even parts."""
    places = np.array(edges) * count - 0.5
    return bool((abs(places - places.round()) < 1e-6).any())


def _centres(count: int, low: float, high: float) -> np.ndarray:
    """Which of `count` even parts have their centre in [low, high)."""
    middles = (np.arange(count) + 0.5) / count
    return (middles >= low - 1e-9) & (middles < high - 1e-9)


@given(frames())
def test_fill_shows_the_content_in_its_place_and_only_its_levels_elsewhere(frame: Frame) -> None:
    content = np.random.default_rng(3).integers(0, 256, (frame.height, frame.width, 3), dtype=np.uint8)
    square = frame.fill(content)
    assert square.shape == (frame.side, frame.side, 3) and square.dtype == np.uint8
    rows, columns = slice(frame.top, frame.top + frame.height), slice(frame.left, frame.left + frame.width)
    assert np.array_equal(square[rows, columns], content)
    # Beside each edge stands its mirror image.
    if frame.top:
        assert np.array_equal(square[frame.top - 1, columns], content[0])
    if frame.left:
        assert np.array_equal(square[rows, frame.left - 1], content[:, 0])
    assert np.isin(square, content).all()


@pytest.mark.parametrize(("width", "height"), [(20, 400), (400, 20), (1, 500), (500, 1)])
def test_filling_keeps_mean_and_variance_of_a_long_texture(width: int, height: int) -> None:
    frame = Frame.of(width, height, 224, "letterbox")
    content = np.random.default_rng(0).normal(100, 20, (frame.height, frame.width))
    square = frame.fill(content)
    assert square.shape == (224, 224)
    assert square.mean() == pytest.approx(content.mean(), abs=1) and square.std() == pytest.approx(20, abs=2)


def test_a_box_at_the_edge_and_its_mirror_image_are_one() -> None:
    frame = Frame.of(200, 100, 64, "letterbox")
    assert frame.to_square([[0.0, 0.0, 0.5, 0.25]]).tolist() == [[0.0, 0.125, 0.5, 0.375]]
    inner = frame.to_square([[0.0, 0.25, 0.5, 0.5]])
    assert inner.tolist() == [[0.0, 0.375, 0.5, 0.5], [0.0, 0.0, 0.5, 0.125]]


def test_crop_of_a_heat_map_is_what_lies_over_the_image() -> None:
    frame = Frame.of(100, 200, 64, "letterbox")
    heat = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (8, 1))
    cropped = frame.crop(heat)
    assert cropped.shape == (8, 8) and cropped.dtype == np.float32
    # The image covers columns 2 to 6 of 8: its middles lie at 2.25, 2.75, ... less half a cell.
    expected = (2 + (np.arange(8) + 0.5) / 2 - 0.5) / 7
    assert np.allclose(cropped, expected[None], atol=1e-6)

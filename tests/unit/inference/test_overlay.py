"""Heat maps and boxes over pictures."""

import numpy as np
import pytest
from PIL import Image

from metal_defects.inference.boxes import Box
from metal_defects.inference.overlay import paint_overlay

COLD = np.zeros((4, 4))
BOX = Box(box=(0.25, 0.25, 0.75, 0.75), score=0.9)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_nothing_found_leaves_the_picture_as_it_is(mode: str) -> None:
    picture = Image.effect_noise((60, 40), 50).convert(mode)
    painted = paint_overlay(picture, COLD, None)
    assert painted.mode == "RGB" and np.array_equal(painted, picture.convert("RGB"))


def test_colours_run_from_yellow_to_red_as_the_heat_rises() -> None:
    rows = [np.asarray(paint_overlay(Image.new("L", (8, 8), 128), np.full((2, 2), heat), ()))[4, 4] for heat in
            (0.1, 0.5, 1.0)]  # fmt: skip
    green = [int(row[1]) for row in rows]
    assert green[0] > green[1] > green[2]
    assert all(row[0] > row[2] for row in rows)


def test_a_map_of_another_size_covers_the_whole_picture() -> None:
    heat = np.zeros((28, 28), np.float32)
    heat[:14, 14:] = 1
    painted = np.asarray(paint_overlay(Image.new("L", (300, 100), 128), heat, None)).astype(int)
    is_hot = painted[..., 0] - painted[..., 2] > 60
    assert is_hot[10:40, 160:].all() and not is_hot[60:].any() and not is_hot[:, :140].any()


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 255, 0)])
@pytest.mark.parametrize("side", [40, 1000])
def test_outlines_can_be_seen_on_any_background(background: tuple[int, int, int], side: int) -> None:
    painted = np.asarray(paint_overlay(Image.new("RGB", (side, side), background), COLD, [BOX]))
    crossing = painted[side // 2, : side // 2].astype(int)
    contrast = np.abs(crossing - np.array(background)).max(axis=1)
    start = round(0.25 * (side - 1))
    assert contrast.max() >= 127 and start <= np.flatnonzero(contrast).min() <= start + max(1, side // 200)
    assert {(0, 0, 0), (255, 255, 255)} <= set(map(tuple, crossing[start : start + side // 20 + 3].tolist()))
    assert not np.abs(painted[side // 2, side // 2].astype(int) - background).any()


@pytest.mark.parametrize("corners", [(0, 0, 1, 1), (0.5, 0.5, 0.5, 0.5), (0.99, 0.99, 1, 1)])
def test_boxes_at_the_edges_and_without_an_inside(corners: tuple[float, ...]) -> None:
    box = Box(box=corners, score=1.0)
    for size in ((1, 1), (64, 3), (200, 200)):
        assert paint_overlay(Image.new("RGB", size), COLD, [box]).size == size

"""Pictures of what the locator finds, beside the true boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.inference.boxes import find_boxes
from metal_defects.plots.style import GREEN, ORANGE, QUIET, new_figure, save_figure, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
SIDE = 1.7  # inches per image
OPACITY = 0.55


def draw_locations(
    images: Sequence[np.ndarray],
    heat_maps: np.ndarray,
    boxes: Sequence[np.ndarray],
    names: Sequence[str],
    box_threshold: float,
    target: Path,
    title: str,
) -> "Figure":
    """Each image twice: with its true boxes, and with its heat map and the boxes found.

    Args:
        images: uint8 (side, side, 3) each.
        heat_maps: (images, rows, columns) in [0, 1].
        boxes: true ones of each, left, top, right, bottom as shares of the sides, (n, 4); none where unknown.
        names: above the images.
        box_threshold: of the boxes found.
        target: file to write, PNG or JPEG.
        title: above the plot.

    Raises:
        ValueError: there is no image, or the arguments have different lengths.
    """
    lengths = {len(images), len(heat_maps), len(boxes), len(names)}
    if len(lengths) > 1 or not len(images):
        raise ValueError(f"images, heat_maps, boxes and names must be equally many, 1 or more. Got {sorted(lengths)}.")
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(2 * columns * SIDE, rows * (SIDE + 0.25) + 0.8)
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    pairs = grid.reshape(rows * columns, 2)
    for (plain, found), image, heat_map, true, name in zip(pairs, images, heat_maps, boxes, names, strict=False):
        for axes in (plain, found):
            axes.imshow(image, extent=(0, 1, 1, 0), interpolation="bilinear")
        found.imshow(
            heat_map, extent=(0, 1, 1, 0), vmin=0, vmax=1, cmap="inferno", alpha=OPACITY, interpolation="bilinear"
        )
        plain.set_title(shorten(name), fontsize=8, fontweight="normal", color=QUIET)
        _draw(plain, true, GREEN)
        marked = find_boxes(heat_map, box_threshold)
        _draw(found, [(box.left, box.top, box.right, box.bottom) for box in marked], ORANGE)
    figure.suptitle(title)
    figure.supxlabel("left: true boxes (green); right: heat map and the boxes found (orange)", fontsize=8, color=QUIET)
    save_figure(figure, target)
    return figure


def _draw(axes: "Axes", boxes: Sequence[Sequence[float]] | np.ndarray, color: str) -> None:
    from matplotlib.patches import Rectangle

    for left, top, right, bottom in boxes:
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=1.4))
    axes.set(xlim=(0, 1), ylim=(1, 0))

"""One plot of the pieces that images share: how large they are, and some of them stitched together."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.data.overlaps import Overlap
from metal_defects.data.stitching import Place, stitch
from metal_defects.data.surface import turn_image
from metal_defects.plots.style import BLUE, ORANGE, QUIET, new_figure, save_figure, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_STITCHED, MOST_IMAGES = 6, 12

Shapes = Mapping[int, tuple[int, int]]


def draw_overlaps(
    target: Path,
    groups: Sequence[str],
    overlaps: Sequence[Overlap],
    shapes: Shapes,
    titles: Sequence[str],
    read_reduced: Callable[[int], np.ndarray],
) -> None:
    """Draw the sizes of the pieces and, where images overlap, the largest pieces stitched.

    Args:
        target: file to write.
        groups: piece of every image.
        overlaps: of these images.
        shapes: rows and columns of every image that overlaps another, reduced pixels.
        titles: of every image, its class.
        read_reduced: the grey image of a position, float (rows, columns), reduced.
    """
    chosen = _choose_pieces(overlaps, groups, titles)
    figure = new_figure(9.5, 2.9 if not chosen else 6.4)
    grid = figure.add_gridspec(3 if chosen else 1, 3)
    _draw_sizes(figure.add_subplot(grid[0, :]), groups)
    for number, (first, own) in enumerate(chosen):
        axes = figure.add_subplot(grid[1 + number // 3, number % 3])
        places = stitch(first, own, shapes, MOST_IMAGES)
        _draw_stitched(axes, places, {index: turn_image(read_reduced(index), places[index].turn) for index in places})
        size = Counter(groups)[groups[first]]
        axes.set_title(f"{shorten(titles[first])}: {len(places)} of {size} images", fontsize=8.5)
    save_figure(figure, target)


def _choose_pieces(
    overlaps: Sequence[Overlap], groups: Sequence[str], titles: Sequence[str]
) -> list[tuple[int, list[Overlap]]]:
    """The most connected image and the overlaps of the largest pieces, of every class in turn."""
    pieces: dict[str, list[Overlap]] = {}
    for overlap in overlaps:
        pieces.setdefault(groups[overlap.first], []).append(overlap)
    ranked = sorted(pieces.values(), key=len, reverse=True)
    seen: Counter[str] = Counter()
    ranks = []
    for rank, own in enumerate(ranked):
        ranks.append((seen[titles[own[0].first]], rank))
        seen[titles[own[0].first]] += 1
    best = [ranked[rank] for _, rank in sorted(ranks)[:MOST_STITCHED]]
    ends = [Counter(index for overlap in own for index in (overlap.first, overlap.second)) for own in best]
    return [(min(count, key=lambda index: (-count[index], index)), own) for count, own in zip(ends, best, strict=True)]


def _draw_sizes(axes: "Axes", groups: Sequence[str]) -> None:
    """How many pieces have how many images."""
    from matplotlib.ticker import FuncFormatter

    sizes = Counter(Counter(groups).values())
    names = sorted(sizes)
    axes.bar(range(len(names)), [sizes[size] for size in names], color=[BLUE if size > 1 else QUIET for size in names])
    for place, size in enumerate(names):
        axes.annotate(
            str(sizes[size]), (place, sizes[size]), (0, 2), textcoords="offset points", ha="center", fontsize=7
        )
    shared = sum(size * count for size, count in sizes.items() if size > 1)
    pieces = sum(count for size, count in sizes.items() if size > 1)
    axes.set_title(f"{shared} of {len(groups)} images share surface with others, in {pieces} pieces")
    axes.set_xticks(range(len(names)), [str(size) for size in names])
    axes.set(xlabel="images of one piece", ylabel="pieces", yscale="symlog")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(y=0.15)


def _draw_stitched(axes: "Axes", places: Mapping[int, Place], images: Mapping[int, np.ndarray]) -> None:
    """Images laid on one another, each with its outline; light and contrast of each are made alike."""
    corners = {
        index: np.rint(places[index].centre - np.array(image.shape) / 2).astype(int) for index, image in images.items()
    }
    start = np.min(list(corners.values()), axis=0)
    end = np.max([corners[index] + image.shape for index, image in images.items()], axis=0)
    sheet = np.full(end - start, np.nan)
    for index, image in reversed(list(images.items())):
        top, left = corners[index] - start
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = (image - image.mean()) / (image.std() + 1)
    axes.imshow(sheet, cmap="gray", vmin=-2.5, vmax=2.5, interpolation="nearest")
    for index, image in images.items():
        (top, left), (height, width) = corners[index] - start, image.shape
        axes.plot(
            [left, left + width, left + width, left, left], [top, top, top + height, top + height, top],
            color=ORANGE, linewidth=0.7,
        )  # fmt: skip
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)

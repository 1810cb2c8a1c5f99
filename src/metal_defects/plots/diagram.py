"""Block diagram of a network, drawn without Graphviz."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metal_defects.plots.style import BLUE, CENTRED, INK, ORANGE, QUIET, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In inches, one data unit each.
BOX_WIDTH, BOX_HEIGHT, PITCH = 2.9, 0.46, 0.66
POOL_WIDTH, GAP, MARGIN = 1.25, 0.5, 0.3
TITLE_HEIGHT = 0.45
POOLING = "mean, variance"


@dataclass(frozen=True)
class Block:
    """One box of a diagram.

    Attributes:
        name: what it is, at most about 30 characters.
        detail: smaller line below, such as the shape of its output; may be empty.
        tap: whether the moments of its output are pooled and go straight to the head.
    """

    name: str
    detail: str
    tap: bool = False


def draw_diagram(blocks: Sequence[Block], target: Path, title: str) -> "Figure":
    """Draw `blocks` from input to output.

    Without a tap they form one column. With taps, those up to the last tap form the trunk on the left; from each tap
    an arrow leads through moment pooling to the first block behind them, where the right column, the head, begins.

    Args:
        blocks: in the order of the computation.
        target: file to write.
        title: above the diagram.

    Raises:
        ValueError: there is no block, or nothing follows the last tap.
    """
    taps = [index for index, block in enumerate(blocks) if block.tap]
    if not blocks or (taps and taps[-1] == len(blocks) - 1):
        raise ValueError(f"A diagram needs blocks, and one behind the last tap. Got {len(blocks)} blocks, taps {taps}.")
    trunk_length = taps[-1] + 1 if taps else len(blocks)
    trunk, head = blocks[:trunk_length], blocks[trunk_length:]
    # A single column still needs room for its title.
    margin = MARGIN if taps else 3 * MARGIN
    width = BOX_WIDTH + 2 * margin + (2 * GAP + POOL_WIDTH + BOX_WIDTH if taps else 0)
    # The head ends level with the trunk, or begins with it where it is longer.
    rows = max(len(trunk), len(head))
    height = rows * PITCH + MARGIN + TITLE_HEIGHT
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(width / 2, TITLE_HEIGHT / 2 + 0.05, title, **CENTRED, fontsize=12, fontweight="bold")

    left = margin + BOX_WIDTH / 2
    levels = [TITLE_HEIGHT + PITCH * (row + 0.5) for row in range(rows)]
    _draw_column(axes, trunk, left, levels)
    if taps:
        pool = left + BOX_WIDTH / 2 + GAP + POOL_WIDTH / 2
        right = pool + POOL_WIDTH / 2 + GAP + BOX_WIDTH / 2
        head_levels = levels[rows - len(head) :]
        _draw_column(axes, head, right, head_levels)
        bus = pool + POOL_WIDTH / 2 + GAP / 2
        for index in taps:
            _draw_box(axes, Block(POOLING, ""), pool, levels[index], POOL_WIDTH, ORANGE)
            _draw_arrow(axes, (left + BOX_WIDTH / 2, levels[index]), (pool - POOL_WIDTH / 2, levels[index]))
            axes.plot((pool + POOL_WIDTH / 2, bus), (levels[index],) * 2, color=QUIET, linewidth=1.2)
        ends = [levels[index] for index in taps] + [head_levels[0]]
        axes.plot((bus, bus), (min(ends), max(ends)), color=QUIET, linewidth=1.2)
        _draw_arrow(axes, (bus, head_levels[0]), (right - BOX_WIDTH / 2, head_levels[0]))
    save_figure(figure, target)
    return figure


def _draw_column(axes: "Axes", blocks: Sequence[Block], x: float, levels: Sequence[float]) -> None:
    for index, block in enumerate(blocks):
        _draw_box(axes, block, x, levels[index], BOX_WIDTH, BLUE)
        if index:
            _draw_arrow(axes, (x, levels[index - 1] + BOX_HEIGHT / 2), (x, levels[index] - BOX_HEIGHT / 2))


def _draw_box(axes: "Axes", block: Block, x: float, y: float, width: float, color: str) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2, y - BOX_HEIGHT / 2)
    face = to_rgba(color, 0.22 if block.tap else 0.1)
    style = "round,pad=0,rounding_size=0.07"
    axes.add_patch(FancyBboxPatch(corner, width, BOX_HEIGHT, boxstyle=style, facecolor=face, edgecolor=color))
    axes.text(x, y - (0.09 if block.detail else 0), block.name, **CENTRED, fontsize=8.5, color=INK)
    axes.text(x, y + 0.11, block.detail, **CENTRED, fontsize=7, color=QUIET)


def _draw_arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": QUIET, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=arrow)

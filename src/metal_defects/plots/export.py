"""The plot of stage 09."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from metal_defects.plots.style import BLUE, GREEN, QUIET, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"keras": QUIET, "float32": BLUE, "int8": GREEN}
SMALLEST = 1e-9


class Timed(Protocol):
    """A model file: its size and the time it takes for one image."""

    bytes: int
    milliseconds_per_image: float


def draw_variants(
    usual: Timed,
    variants: Mapping[str, Timed],
    differences: Mapping[str, np.ndarray],
    tolerances: Mapping[str, float],
    target: Path,
    title: str,
) -> "Figure":
    """Latency and size of every variant, and how far its answers lie from the Keras model's.

    Args:
        usual: the Keras model.
        variants: graphs by name.
        differences: per variant, the largest difference of a probability in each image, (images,).
        tolerances: per variant, what counts as the same answer.
        target: file to write.
        title: above the plot.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = new_figure(8.4, 3.0)
    figure.suptitle(title)
    latency, parity = figure.subplots(1, 2)
    rows = {"keras": usual, **variants}
    names, times = list(rows), [row.milliseconds_per_image for row in rows.values()]
    bars = latency.barh(names, times, color=[COLOURS[name] for name in names], height=0.6)
    labels = [f" {time:.1f} ms, {row.bytes / 1e6:.1f} MB" for row, time in zip(rows.values(), times, strict=True)]
    latency.bar_label(bars, labels)
    latency.invert_yaxis()
    latency.set(title="one image", xlabel="milliseconds, median", xlim=(0, 1.5 * max(times)))
    for name, values in differences.items():
        shares = np.arange(1, len(values) + 1) / len(values)
        parity.step(np.sort(np.maximum(values, SMALLEST)), shares, color=COLOURS[name], label=name, where="post")
        parity.axvline(tolerances[name], color=COLOURS[name], linestyle=":")
    parity.set(
        xscale="log", ylim=(0, 1.02), title="difference from the Keras model",
        xlabel="largest difference of a probability (dotted: allowed)", ylabel="share of images",
    )  # fmt: skip
    parity.xaxis.set_major_locator(LogLocator(base=100))
    parity.xaxis.set_minor_locator(NullLocator())
    parity.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    parity.legend(loc="lower right")
    save_figure(figure, target)
    return figure

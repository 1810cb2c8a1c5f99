"""Plots of accuracy on damaged images and with fewer labels; each writes one figure and returns it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metal_defects.metrics import Score
from metal_defects.plots.style import (
    BLUE,
    CENTRED,
    FAINT,
    INK,
    VERMILION,
    new_figure,
    save_figure,
    use_log_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from metal_defects.evaluation.learning_curve import CurvePoint
    from metal_defects.evaluation.robustness import Robustness


def draw_robustness_map(result: "Robustness", target: Path, title: str) -> "Figure":
    """Accuracy of every corruption and severity; beside it the wrong answers that were accepted, where known.

    Args:
        result: measured.
        target: file to write.
        title: above the plot.
    """
    accuracy = {name: [cell.value for cell in row] for name, row in result.accuracy.items()}
    silent = result.silent_errors
    figure = new_figure(10.5 if silent else 6.2, 1.5 + 0.32 * len(accuracy))
    axes = figure.subplots(1, 2 if silent else 1, squeeze=False)[0]
    _draw_cells(axes[0], accuracy, result.severities, "Right answers, %", "RdYlBu", 0.5, 1.0)
    if silent:
        _draw_cells(axes[1], silent, result.severities, "Wrong and accepted, %", "Reds", 0.0, 0.3)
        axes[1].set_yticklabels([])
    figure.suptitle(f"{title}: {result.images} held-out images per cell", x=0.01, ha="left")
    save_figure(figure, target)
    return figure


def draw_noise_curve(result: "Robustness", target: Path, title: str) -> "Figure":
    """Accuracy against the signal-to-noise ratio of Gaussian noise, with 95 % intervals.

    Args:
        result: measured, with "gaussian_noise" in it.
        target: file to write.
        title: above the plot.
    """
    decibels, cells = result.levels["gaussian_noise"], result.accuracy["gaussian_noise"]
    figure = new_figure(5.2, 3.4)
    axes = figure.subplots()
    _draw_intervals(axes, decibels, cells)
    axes.set(xlabel="Signal-to-noise ratio, dB (less is noisier)", ylabel="Right answers, %", title=title)
    axes.invert_xaxis()
    save_figure(figure, target)
    return figure


def draw_learning_curve(points: "Sequence[CurvePoint]", target: Path, title: str) -> "Figure":
    """Accuracy against training images, with 95 % intervals and the spread of single draws.

    Args:
        points: the smallest number of images first.
        target: file to write.
        title: above the plot.
    """
    figure = new_figure(6.2, 3.8)
    axes = figure.subplots()
    images = [point.images for point in points]
    lows, highs = [100 * point.lowest for point in points], [100 * point.highest for point in points]
    axes.fill_between(images, lows, highs, color=FAINT, label="lowest to highest draw")
    _draw_intervals(axes, images, [point.accuracy for point in points])
    for point in points:
        text = "all" if point.per_class is None else str(point.per_class)
        place = (point.images, 100 * point.accuracy.value)
        axes.annotate(text, place, (5, -11), textcoords="offset points")
    if len(set(images)) > 1:
        use_log_axis(axes, "x", images)
    axes.set(xlabel="Labelled images (on the points: per class)", ylabel="Right answers, %", title=title)
    axes.legend(loc="lower right")
    save_figure(figure, target)
    return figure


def _draw_cells(
    axes: "Axes",
    rows: Mapping[str, Sequence[float]],
    severities: Sequence[int],
    title: str,
    colours: str,
    low: float,
    high: float,
) -> None:
    axes.imshow(list(rows.values()), cmap=colours, vmin=low, vmax=high, aspect="auto")
    for y, values in enumerate(rows.values()):
        for x, value in enumerate(values):
            strength = (value - low) / (high - low)
            # White letters where the cell is dark: at the ends of one scale, at the top of the other.
            dark = strength > 0.75 if colours == "Reds" else not 0.12 < strength < 0.9
            axes.text(x, y, f"{100 * value:.3g}", color="white" if dark else INK, fontsize=7.5, **CENTRED)
    axes.set_xticks(range(len(severities)), severities)
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    axes.set(xlabel="Severity", title=title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_intervals(axes: "Axes", x: Sequence[float], cells: Sequence[Score]) -> None:
    values = [100 * cell.value for cell in cells]
    below = [100 * (cell.value - cell.low) for cell in cells]
    above = [100 * (cell.high - cell.value) for cell in cells]
    axes.errorbar(x, values, [below, above], color=BLUE, ecolor=VERMILION, marker="o", markersize=4, capsize=3)
    axes.grid(axis="y")

"""Plots of calibration, conformal sets, guard and verdicts.

Each function draws one figure, writes it atomically (PNG or JPEG by the suffix of the target) and returns it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metal_defects.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PALETTE,
    QUIET,
    VERMILION,
    new_figure,
    save_figure,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VERDICT_COLORS = {"accept": GREEN, "review": ORANGE, "unknown": VERMILION}
HISTOGRAM_BINS = 60
# Distances beyond this many limits share the last bar.
FARTHEST = 6.0


def reliability_diagram(report: Mapping[str, Any], target: Path, title: str) -> "Figure":
    """Accuracy against confidence in bins of equally many images, before and after the temperature.

    Args:
        report: of `calibration_report`.
        target: file to write.
        title: above the plot.
    """
    figure = new_figure(7.4, 3.8)
    grid = figure.subplots(1, 2, sharex=True, sharey=True)
    lowest = min(
        one[key] for stage in ("before", "after") for one in report[stage]["ece"]["bins"]
        for key in ("confidence", "accuracy")
    )  # fmt: skip
    low = max(0.0, np.floor(10 * lowest - 0.2) / 10)
    headings = {"before": "before", "after": f"after (temperature {report['temperature']:.2f})"}
    for axes, (stage, heading) in zip(grid, headings.items(), strict=True):
        ece = report[stage]["ece"]
        confidence, accuracy = (np.array([one[key] for one in ece["bins"]]) for key in ("confidence", "accuracy"))
        axes.plot([low, 1], [low, 1], color=QUIET, linewidth=0.8, linestyle="--", zorder=1)
        axes.vlines(confidence, confidence, accuracy, color=FAINT, linewidth=2, zorder=1)
        axes.plot(confidence, accuracy, "o", color=BLUE, markersize=4.5, clip_on=False)
        axes.set_title(heading)
        told = (100 * ece[key] for key in ("value", "low", "high"))
        text = "ECE {:.2f} points\n95 % interval {:.2f} to {:.2f}".format(*told)
        axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", color=INK)
        margin = 0.03 * (1 - low)
        axes.set(xlabel="confidence", xlim=(low, 1 + margin), ylim=(low, 1 + margin), aspect="equal")
    grid[0].set_ylabel("share that is right")
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def guard_distances(distances: Mapping[str, np.ndarray], target: Path, title: str) -> "Figure":
    """Distributions of the distance from the training images, with the limit.

    Args:
        distances: in units of the limit, one series per name, (n,); NaN are left out. The first is the training's own.
        target: file to write.
        title: above the plot.

    Raises:
        ValueError: there is no series, or one without a number.
    """
    series = {name: values[~np.isnan(values)] for name, values in distances.items()}
    if not series or not all(len(values) for values in series.values()):
        sizes = {name: len(values) for name, values in series.items()}
        raise ValueError(f"guard_distances needs at least one series of numbers each. Got {sizes} instead.")
    most = min(max(2.0, *(float(values.max()) for values in series.values())), FARTHEST)
    edges = np.linspace(0, most, HISTOGRAM_BINS + 1)
    figure = new_figure(7.0, 1.0 + 1.15 * len(series))
    grid = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    for index, (axes, (name, values)) in enumerate(zip(grid, series.items(), strict=True)):
        color = PALETTE[index % len(PALETTE)]
        axes.hist(np.minimum(values, most), edges, weights=np.full(len(values), 100 / len(values)), color=color)
        axes.axvline(1, color=INK, linewidth=1)
        within = 100 * (values <= 1).mean()
        axes.set_title(f"{shorten(name)}: {within:.1f} % of {len(values)} within the limit", fontsize=9)
        axes.set_ylabel("%")
        axes.margins(x=0)
    beyond = any(values.max() > most for values in series.values())
    label = "distance from the training images (1 = the limit)"
    grid[-1].set_xlabel(f"{label}; the last bar holds all beyond {most:g}" if beyond else label)
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def coverage_bars(report: Mapping[str, Any], target: Path, title: str) -> "Figure":
    """How often the set of possible classes holds the true one, per class, exact and as served.

    Args:
        report: of `coverage_report`.
        target: file to write.
        title: above the plot.
    """
    exact, served = report["exact"], report["served"]
    rows = [("all classes", exact["covered"]["value"], served["covered"]["value"])]
    both = zip(exact["per_class"], served["per_class"], strict=True)
    rows += [(shorten(one["name"]), one["covered"], other["covered"]) for one, other in both if one["images"]]
    figure = new_figure(7.0, 1.3 + 0.26 * len(rows))
    axes = figure.subplots()
    y = np.arange(len(rows))[::-1]
    for column, (name, color, sets) in enumerate((("exact", BLUE, exact), ("as served", ORANGE, served))):
        values = [100 * row[column + 1] for row in rows]
        label = f"{name}: {sets['mean_size']:.3f} classes per image"
        axes.plot(values, y + 0.12 - 0.24 * column, "os"[column], color=color, label=label, clip_on=False)
    lowest = min(min(row[1:]) for row in rows)
    axes.axvline(100 * report["coverage"], color=INK, linewidth=1)
    axes.set_yticks(y, [row[0] for row in rows])
    axes.set(
        xlim=(min(100 * lowest, 100 * report["coverage"]) - 0.5, 100.2),
        ylim=(-0.6, len(rows) - 0.4),
        xlabel=f"% of images whose set holds the true class (promised: {100 * report['coverage']:g} %)",
    )
    axes.grid(axis="y")
    figure.legend(loc="outside upper right", ncols=2)
    figure.suptitle(title, x=0.01, ha="left")
    save_figure(figure, target)
    return figure


def verdict_bars(counts: Mapping[str, Mapping[str, Sequence[int]]], target: Path, title: str) -> "Figure":
    """Share of images that each verdict gets, with the errors among them hatched.

    Args:
        counts: per set of images and verdict: images, and how many of them have a wrong label.
        target: file to write.
        title: above the plot.
    """
    figure = new_figure(7.0, 1.5 + 0.5 * len(counts))
    axes = figure.subplots()
    for row, verdicts in enumerate(counts.values()):
        total = max(1, sum(images for images, _ in verdicts.values()))
        left = 0.0
        for verdict, color in VERDICT_COLORS.items():
            images, wrong = (100 * number / total for number in verdicts.get(verdict, (0, 0)))
            axes.barh(row, images - wrong, left=left, color=color, height=0.6)
            axes.barh(row, wrong, left=left + images - wrong, color=color, height=0.6, hatch="////", edgecolor="white")
            if images >= 6:
                _write(axes, left + images / 2, row, f"{images:.1f} %")
            left += images
    axes.set_yticks(range(len(counts)), [shorten(name) for name in counts])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="% of the images")
    from matplotlib.patches import Patch

    handles = [Patch(color=color, label=verdict) for verdict, color in VERDICT_COLORS.items()]
    handles.append(Patch(facecolor=QUIET, edgecolor="white", hatch="////", label="of these wrong"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def _write(axes: "Axes", x: float, y: float, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "boxstyle": "round,pad=0.15"}
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=INK, bbox=box)

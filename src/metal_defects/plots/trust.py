"""Plots of calibration, conformal sets, guard and verdicts.

Each function draws one figure, writes it atomically (PNG or JPEG by the suffix of the target) and returns it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.inference.verdict import VERDICTS
from metal_defects.plots.style import (
    BLUE,
    FAINT,
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

    # Plots stand below the rooms that make these values; nothing of theirs is needed but their fields.
    from metal_defects.evaluation.results import VerdictCounts
    from metal_defects.trust.calibration import Calibration
    from metal_defects.trust.conformal import Coverage
    from metal_defects.trust.selective import RiskCoverage

HISTOGRAM_BINS = 60
# Distances beyond this many limits share the last bar.
FARTHEST = 6.0


def draw_reliability(calibration: "Calibration", target: Path, title: str) -> "Figure":
    """Reliability: accuracy against confidence in bins of equally many images, before and after the temperature.

    Args:
        calibration: measured.
        target: file to write.
        title: above the plot.
    """
    figure = new_figure(7.4, 3.8)
    grid = figure.subplots(1, 2, sharex=True, sharey=True)
    stages = {
        "before": calibration.before.ece,
        f"after (temperature {calibration.scaling.temperature:.2f})": calibration.after.ece,
    }
    lowest = min(min(one.confidence, one.accuracy) for ece in stages.values() for one in ece.bins)
    low = max(0.0, np.floor(10 * lowest - 0.2) / 10)
    for axes, (heading, ece) in zip(grid, stages.items(), strict=True):
        confidence = np.array([one.confidence for one in ece.bins])
        accuracy = np.array([one.accuracy for one in ece.bins])
        axes.plot([low, 1], [low, 1], color=QUIET, linewidth=0.8, linestyle="--", zorder=1)
        axes.vlines(confidence, confidence, accuracy, color=FAINT, linewidth=2, zorder=1)
        axes.plot(confidence, accuracy, "o", color=BLUE, markersize=4.5, clip_on=False)
        axes.set_title(heading)
        told = (100 * value for value in (ece.value, ece.low, ece.high))
        text = "ECE {:.2f} points\n95 % interval {:.2f} to {:.2f}".format(*told)
        axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", color=INK)
        margin = 0.03 * (1 - low)
        axes.set(xlabel="confidence", xlim=(low, 1 + margin), ylim=(low, 1 + margin), aspect="equal")
    grid[0].set_ylabel("share that is right")
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def draw_guard_distances(distances: Mapping[str, np.ndarray], target: Path, title: str) -> "Figure":
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
        raise ValueError(f"draw_guard_distances needs at least one series of numbers each. Got {sizes} instead.")
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


def draw_coverage(coverage: "Coverage", target: Path, title: str) -> "Figure":
    """How often the set of possible classes holds the true one, per class, exact and as served.

    Args:
        coverage: measured.
        target: file to write.
        title: above the plot.
    """
    exact, served, promised = coverage.exact, coverage.served, 100 * coverage.coverage
    rows = [("all classes", exact.covered.value, served.covered.value)]
    for one, other in zip(exact.per_class, served.per_class, strict=True):
        if one.covered is not None and other.covered is not None:
            rows.append((shorten(one.name), one.covered, other.covered))
    figure = new_figure(7.0, 1.3 + 0.26 * len(rows))
    axes = figure.subplots()
    y = np.arange(len(rows))[::-1]
    for name, color, marker, up, sets, values in (
        ("exact", BLUE, "o", 0.12, exact, [row[1] for row in rows]),
        ("as served", ORANGE, "s", -0.12, served, [row[2] for row in rows]),
    ):
        label = f"{name}: {sets.mean_size:.3f} classes per image"
        axes.plot(100 * np.array(values), y + up, marker, color=color, label=label, clip_on=False)
    lowest = min(min(row[1:]) for row in rows)
    axes.axvline(promised, color=INK, linewidth=1)
    axes.set_yticks(y, [row[0] for row in rows])
    axes.set(
        xlim=(min(100 * lowest, promised) - 0.5, 100.2),
        ylim=(-0.6, len(rows) - 0.4),
        xlabel=f"% of images whose set holds the true class (promised: {promised:g} %)",
    )
    axes.grid(axis="y")
    figure.legend(loc="outside upper right", ncols=2)
    figure.suptitle(title, x=0.01, ha="left")
    save_figure(figure, target)
    return figure


def draw_risk_coverage(selection: "RiskCoverage", target: Path, title: str) -> "Figure":
    """Risk against coverage, with 95 % intervals, and what may be accepted at stated risks.

    Args:
        selection: measured.
        target: file to write.
        title: above the plot.
    """
    figure = new_figure(7.4, 3.8)
    axes = figure.subplots()
    coverage = [100 * point.coverage for point in selection.points]
    risk, low, high = ([100 * getattr(p.risk, name) for p in selection.points] for name in ("value", "low", "high"))
    axes.fill_between(coverage, low, high, color=BLUE, alpha=0.15, linewidth=0, label="95 % interval")
    axes.plot(coverage, risk, color=BLUE, linewidth=1.4, label="share that is wrong")
    stated = 100 * selection.chosen.max_risk
    axes.axhline(stated, color=INK, linewidth=0.8, linestyle="--", label=f"stated: {stated:g} %")
    offers = sorted((selection.chosen, *selection.others), key=lambda offer: offer.max_risk)
    highest = max([2 * stated, *risk])
    for index, offer in enumerate(offers):
        accepted, wrong = 100 * offer.accepted.value, 100 * (offer.wrong.value if offer.wrong else 0.0)
        label = f"at most {100 * offer.max_risk:g} %: {accepted:.1f} of 100"
        colour, marker = (VERMILION, "D") if offer is selection.chosen else (ORANGE, "^osvP"[index % 5])
        axes.plot(accepted, wrong, marker, color=colour, markersize=6, clip_on=False, zorder=3, label=label)
        highest = max(highest, wrong)
    axes.set(xlim=(0, 100), ylim=(0, 1.1 * highest), xlabel="accepted, % of all answers", ylabel="% wrong")
    figure.legend(loc="outside right upper")
    area = f"mean of the curve {100 * selection.area:.3g} %"
    axes.set_title(f"{selection.images:,} answers, {area}", fontsize=9, fontweight="normal")
    figure.suptitle(title, x=0.01, ha="left")
    save_figure(figure, target)
    return figure


def draw_verdicts(counts: "Mapping[str, VerdictCounts]", target: Path, title: str) -> "Figure":
    """Share of images that each verdict gets, with the errors among them hatched.

    Args:
        counts: per set of images.
        target: file to write.
        title: above the plot.
    """
    figure = new_figure(7.0, 1.5 + 0.5 * len(counts))
    axes = figure.subplots()
    bar = {"height": 0.6}
    for row, found in enumerate(counts.values()):
        left = 0.0
        for name, style in VERDICTS.items():
            number, errors = getattr(found, name), getattr(found, f"wrong_{name}")
            images, wrong = 100 * number / max(found.images, 1), 100 * errors / max(found.images, 1)
            axes.barh(row, images - wrong, left=left, color=style.colour, **bar)
            axes.barh(
                row, wrong, left=left + images - wrong, color=style.colour, hatch="////", edgecolor="white", **bar
            )
            if images >= 6:
                _write(axes, left + images / 2, row, f"{images:.1f} %")
            left += images
    axes.set_yticks(range(len(counts)), [shorten(name) for name in counts])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="% of the images")
    from matplotlib.patches import Patch

    handles = [Patch(color=style.colour, label=style.title) for style in VERDICTS.values()]
    handles.append(Patch(facecolor=QUIET, edgecolor="white", hatch="////", label="of these wrong"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def _write(axes: "Axes", x: float, y: float, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "boxstyle": "round,pad=0.15"}
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=INK, bbox=box)

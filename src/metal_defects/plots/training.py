"""Plots of training and evaluation.

Each function draws one figure, writes it atomically (PNG or JPEG by the suffix of the target) and returns it.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from metal_defects.metrics import Metrics, Score, format_accuracy
from metal_defects.plots.style import (
    BLUE,
    CENTRED,
    FAINT,
    GREEN,
    ORANGE,
    QUIET,
    SKY,
    new_figure,
    save_figure,
    shorten,
    use_log_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Classes up to which a confusion matrix shows its counts.
MOST_ANNOTATED = 25


def draw_confusion_matrix(
    matrix: Sequence[Sequence[int]], class_names: Sequence[str], target: Path, title: str
) -> "Figure":
    """Counts of true against predicted classes, coloured by their share of the true class.

    Args:
        matrix: counts, (C, C), rows: true classes.
        class_names: C names.
        target: file to write.
        title: above the plot.

    Raises:
        ValueError: the matrix is not square or does not fit the names.
    """
    counts = np.asarray(matrix)
    size = len(class_names)
    if not size or counts.shape != (size, size):
        raise ValueError(f"A confusion matrix of {size} classes must be {size} x {size}. Got {counts.shape} instead.")
    import seaborn

    cell = 0.62 if size <= 12 else 0.4 if size <= MOST_ANNOTATED else max(0.14, 12 / size)
    side = min(max(cell * size, 2.2), 24)
    longest = max(len(shorten(name)) for name in class_names)
    figure = new_figure(side + 1.8 + 0.07 * longest, side + 0.9 + 0.05 * longest)
    axes = figure.subplots()
    annotated = size <= MOST_ANNOTATED
    seaborn.heatmap(
        counts / np.maximum(counts.sum(axis=1, keepdims=True), 1),
        annot=np.where(counts > 0, counts.astype(str), "") if annotated else None,
        fmt="",
        annot_kws={"size": 9 if size <= 12 else 7},
        ax=axes,
        vmin=0,
        vmax=1,
        cmap="Blues",
        square=True,
        linewidths=0.6 if annotated else 0,
        linecolor=FAINT,
        xticklabels=False,
        yticklabels=False,
        cbar_kws={"label": "share of the true class", "shrink": 0.7, "aspect": 30},
    )
    # More names than fit are thinned out evenly.
    shown = np.arange(0, size, -(-size // 150))
    names = [shorten(class_names[index]) for index in shown.tolist()]
    fontsize = 8.5 if annotated else 6 if size <= 80 else 5
    axes.set_xticks(shown + 0.5, names, rotation=35 if annotated else 90, ha="right" if annotated else "center")
    axes.set_yticks(shown + 0.5, names, rotation=0)
    axes.tick_params(labelsize=fontsize, length=0)
    axes.set(xlabel="predicted class", ylabel="true class")
    for spine in axes.spines.values():
        spine.set(visible=True, color=QUIET, linewidth=0.6)
    axes.set_title(f"{np.trace(counts)} of {counts.sum()} correct", loc="center", fontweight="normal")
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def draw_learning_curves(history: Mapping[str, Sequence[float]], target: Path, title: str) -> "Figure":
    """Loss, accuracy and learning rate per epoch, with the epoch of the lowest validation loss marked.

    Args:
        history: one value per epoch under Keras' names: loss and val_loss; accuracy, val_accuracy and learning_rate
            where known.
        target: file to write.
        title: above the plot.

    Raises:
        ValueError: loss or val_loss is missing or empty, or the values are not equally many.
    """
    epochs = len(history.get("loss", ()))
    lengths = {name: len(values) for name, values in history.items()}
    if not epochs or "val_loss" not in history or set(lengths.values()) != {epochs}:
        raise ValueError(f"history needs loss and val_loss, all of one length above 0. Got {lengths} instead.")
    panels = [("loss", "loss"), ("accuracy", "accuracy"), ("learning_rate", "learning rate")]
    panels = [(name, label) for name, label in panels if name in history]
    best = int(np.argmin(history["val_loss"]))
    x = np.arange(1, epochs + 1)
    figure = new_figure(3.5 * len(panels), 3.1)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, label) in zip(grid, panels, strict=True):
        for key, color, series in ((name, BLUE, "training"), (f"val_{name}", ORANGE, "validation")):
            if key in history:
                axes.plot(x, history[key], color=color, label=series, marker="o", markersize=2.5, linewidth=1.4)
        axes.axvline(best + 1, color=GREEN, linewidth=1, linestyle="--", label=f"best: epoch {best + 1}")
        axes.grid(axis="y")
        axes.set(title=label.capitalize(), xlabel="epoch", xlim=(0.5, epochs + 0.5))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if name == "learning_rate" and min(history[name]) > 0:
            use_log_axis(axes, "y", history[name])
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def draw_penalty_path(history: Mapping[str, Sequence[float]], target: Path, title: str) -> "Figure":
    """Log loss on the validation images against the penalty of a head that was solved, the best one marked.

    Args:
        history: "l2" and "val_loss", a value per penalty.
        target: file to write.
        title: above the plot.
    """
    penalties, losses = history["l2"], history["val_loss"]
    best = int(np.argmin(losses))
    figure = new_figure(4.6, 3.1)
    axes = figure.subplots()
    axes.plot(penalties, losses, color=ORANGE, marker="o", markersize=3, linewidth=1.4)
    axes.axvline(penalties[best], color=GREEN, linewidth=1, linestyle="--", label=f"best: {penalties[best]:g}")
    use_log_axis(axes, "x", penalties)
    if max(losses) > 3 * min(losses) > 0:
        use_log_axis(axes, "y", losses)
    axes.grid(axis="y")
    axes.set(xlabel="penalty (l2)", ylabel="log loss on validation")
    axes.legend()
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def draw_history(history: Mapping[str, Sequence[float]], folder: Path, title: str) -> None:
    """What a fit went through: learning_curves.png of epochs, or l2_path.png where there were several penalties."""
    if "loss" in history:
        draw_learning_curves(history, folder / "learning_curves.png", title)
    elif len(history["l2"]) > 1:
        draw_penalty_path(history, folder / "l2_path.png", title)


class Compared(Protocol):
    """A model with its scores on held-out images."""

    @property
    def title(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def valid(self) -> Metrics: ...
    @property
    def test(self) -> Metrics: ...


def draw_leaderboard(rows: Sequence[Compared], target: Path, title: str = "Models compared") -> "Figure":
    """Accuracy of every model on validation and test images with intervals, in the order of `rows`, first on top.

    Args:
        rows: the models.
        target: file to write.
        title: above the plot.

    Raises:
        ValueError: there is no model.
    """
    if not rows:
        raise ValueError("A leaderboard needs at least one model. Got none.")
    from matplotlib.ticker import FuncFormatter

    figure = new_figure(8.2, 1.3 + 0.5 * len(rows))
    axes = figure.subplots()
    splits = (("valid", "validation", -0.13, SKY, "s"), ("test", "test", 0.13, BLUE, "o"))
    for split, label, shift, color, marker in splits:
        accuracies = [getattr(row, split).accuracy for row in rows]
        hollow = [row.weights == "random" for row in rows]
        _draw_intervals(axes, accuracies, np.arange(len(rows)) + shift, label, color, marker, hollow)
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8}
    for position, row in enumerate(rows):
        axes.text(1.02, position, format_accuracy(row.test), **beside)
    axes.text(1.02, -0.75, "test accuracy", **beside, color=QUIET)
    notes = {"random": "random: untrained"}
    axes.set_yticks(range(len(rows)), [f"{shorten(row.title)}\n{notes.get(row.weights, row.weights)}" for row in rows])
    axes.set(xlabel="accuracy, %", ylim=(len(rows) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
    axes.grid(axis="x")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, title=_interval_note(rows[0].test))
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def draw_class_scores(metrics: Metrics, target: Path, title: str) -> "Figure":
    """Precision, recall and F1 of every class with their intervals.

    Args:
        metrics: of one model on one split.
        target: file to write.
        title: above the plot.
    """
    rows = metrics.per_class
    figure = new_figure(6.8, min(1.5 + (0.46 if len(rows) <= 40 else 0.3) * len(rows), 60))
    axes = figure.subplots()
    known = [index for index, row in enumerate(rows) if row.support]
    series = (("precision", -0.22, BLUE, "o"), ("recall", 0.0, ORANGE, "s"), ("f1", 0.22, GREEN, "D"))
    for score, shift, color, marker in series:
        values = [getattr(rows[index], score) for index in known]
        _draw_intervals(axes, values, np.array(known) + shift, score.replace("f1", "F1"), color, marker)
    for index in set(range(len(rows))) - set(known):
        axes.text(0.5, index, "no image of this class", transform=axes.get_yaxis_transform(), **CENTRED, color=QUIET)
    axes.set_yticks(range(len(rows)), [f"{shorten(row.name)} ({row.support})" for row in rows])
    axes.set(xlabel="score", ylim=(len(rows) - 0.4, -0.6))
    axes.set_xlim(right=max(axes.get_xlim()[1], 1.0))
    axes.grid(axis="x")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, title=_interval_note(metrics))
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def draw_misjudged(images: Sequence[np.ndarray], captions: Sequence[str], target: Path, title: str) -> "Figure":
    """Every misjudged image over its caption, or the sentence that there is none.

    Args:
        images: uint8, each (H, W, 3) or (H, W).
        captions: one per image: true and predicted class, probabilities.
        target: file to write.
        title: above the plot.

    Raises:
        ValueError: images and captions are not equally many.
    """
    if len(images) != len(captions):
        raise ValueError(f"Each image needs one caption. Got {len(images)} images and {len(captions)} captions.")
    columns = min(max(len(images), 1), 6)
    rows = -(-len(images) // columns)
    lines = [textwrap.fill(caption, 26, break_long_words=True) for caption in captions]
    most_lines = max((text.count("\n") + 1 for text in lines), default=0)
    figure = new_figure(max(1.75 * columns, 3.6), 0.6 + rows * (1.65 + 0.15 * most_lines) if images else 1.2)
    figure.suptitle(title)
    if not images:
        figure.text(0.5, 0.35, "No image was misjudged.", **CENTRED, fontsize=11)
    else:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, image, text in zip(grid, images, lines, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set_title(text, fontsize=7, fontweight="normal", loc="center")
    save_figure(figure, target)
    return figure


def _draw_intervals(
    axes: "Axes",
    values: Sequence[Score],
    positions: np.ndarray,
    label: str,
    color: str,
    marker: str,
    hollow: Sequence[bool] = (),
) -> None:
    """A point per value, hollow where told, on a line from its low to its high limit."""
    points = [value.value for value in values]
    faces = ["white" if empty else color for empty in hollow] or color
    axes.hlines(positions, [value.low for value in values], [value.high for value in values], color=color, lw=1.4)
    axes.scatter(points, positions, s=22, marker=marker, facecolor=faces, edgecolor=color, zorder=3, label=label)


def _interval_note(metrics: Metrics) -> str:
    return f"lines: {100 * metrics.confidence:g} % intervals"

"""Plot of the search for the hyperparameters of a network that every trial trains as a whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np

from metal_defects.plots.style import (
    BLUE,
    GREEN,
    QUIET,
    VERMILION,
    new_figure,
    save_figure,
    shorten,
    use_log_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
# Up to here the values tried are shown side by side, above on a scale.
MOST_CHOICES = 5


class Tried(Protocol):
    """A trial of a search; its score is a loss, None where it failed."""

    @property
    def number(self) -> int: ...
    @property
    def score(self) -> float | None: ...
    @property
    def accuracy(self) -> float | None: ...
    @property
    def params(self) -> Mapping[str, Any]: ...


class Finished(Tried, Protocol):
    """A trial with a score."""

    @property
    def score(self) -> float: ...


def draw_trials(
    trials: Sequence[Tried], target: Path, winner: int, title: str = "Search for hyperparameters"
) -> "Figure":
    """Score of every trial with the best so far, and the score against each hyperparameter that was varied.

    Args:
        trials: in the order of the search, all judged by the same images.
        target: file to write.
        winner: number of the trial that won.
        title: above the plot.

    Raises:
        ValueError: the winner is not among the trials that have a score.
    """
    finished = [trial for trial in trials if _has_score(trial)]
    best = next((trial for trial in finished if trial.number == winner), None)
    if best is None:
        raise ValueError(f"The winner must be one of {len(finished)} trials that have a score. Got trial {winner}.")
    names = _varied(finished)
    rows = -(-len(names) // COLUMNS)
    figure = new_figure(9.5, 3.2 + 2.1 * rows)
    if names:
        upper, lower = figure.subfigures(2, 1, height_ratios=(2.9, 2.1 * rows))
        panels = lower.subplots(rows, COLUMNS, sharey=True, squeeze=False)
        for axes, name in zip(panels.ravel(), names, strict=False):
            _draw_parameter(axes, name, finished, best)
        for axes in panels.ravel()[len(names) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel("validation loss")
    else:
        upper = figure
    _draw_search(upper.subplots(), trials, finished, best)
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def _has_score(trial: Tried) -> TypeGuard[Finished]:
    return trial.score is not None and bool(np.isfinite(trial.score))


def _varied(trials: Sequence[Tried]) -> list[str]:
    """Names of the hyperparameters with at least two values, in alphabetical order."""
    names = sorted({name for trial in trials for name in trial.params})
    return [name for name in names if len({_text(trial.params.get(name)) for trial in trials} - {"None"}) > 1]


def _draw_search(axes: "Axes", trials: Sequence[Tried], finished: Sequence[Finished], best: Finished) -> None:
    scores = [trial.score for trial in finished]
    numbers = [trial.number for trial in finished]
    axes.step(numbers, np.minimum.accumulate(scores), where="post", color=GREEN, linewidth=1.4, label="best so far")
    axes.scatter(numbers, scores, s=26, color=BLUE, zorder=3, label="trial")
    failed = [trial.number for trial in trials if trial not in finished]
    if failed:
        axes.scatter(
            failed,
            [0.96] * len(failed),
            marker="x",
            color=QUIET,
            label="failed",
            transform=axes.get_xaxis_transform(),
        )
    label = f"best: trial {best.number}, loss {best.score:.4f}"
    if best.accuracy is not None:
        label += f", accuracy {100 * best.accuracy:.1f} %"
    axes.scatter(best.number, best.score, s=130, marker="*", color=VERMILION, zorder=4, label=label)
    if min(scores) > 0 and max(scores) / min(scores) >= 10:
        use_log_axis(axes, "y", scores)
    axes.grid(axis="y")
    axes.set(xlabel="trial", ylabel="validation loss")
    axes.margins(x=0.03, y=0.12)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=4)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _draw_parameter(axes: "Axes", name: str, trials: Sequence[Finished], best: Finished) -> None:
    tried = [trial for trial in trials if trial.params.get(name) is not None]
    values = [trial.params[name] for trial in tried]
    scores = [trial.score for trial in tried]
    choices = list(dict.fromkeys(map(_text, sorted(values, key=_order))))
    if len(choices) <= MOST_CHOICES or not all(_is_number(value) for value in values):
        positions = [choices.index(_text(value)) for value in values]
        crowded = max(map(len, choices)) * len(choices) > 22
        slant = {"rotation": 30, "ha": "right", "fontsize": 7} if crowded else {}
        axes.set_xticks(range(len(choices)), [shorten(choice) for choice in choices], **slant)
        axes.set_xlim(-0.5, len(choices) - 0.5)
    else:
        positions = values
        if _spans_decades(values):
            use_log_axis(axes, "x", values)
        else:
            axes.locator_params(axis="x", nbins=4)
    axes.scatter(positions, scores, s=18, color=BLUE, alpha=0.8)
    for position, trial in zip(positions, tried, strict=True):
        if trial is best:
            axes.scatter(position, trial.score, s=110, marker="*", color=VERMILION, zorder=4)
    if min(scores) > 0 and max(trial.score for trial in trials) / best.score >= 10:
        use_log_axis(axes, "y", [trial.score for trial in trials])
    axes.margins(y=0.12)
    axes.grid(axis="y")
    axes.set_title(name.replace("_", " "), fontsize=9, fontweight="normal")


def _spans_decades(values: Sequence[float]) -> bool:
    """True where `values` look as if they were drawn on a logarithmic scale."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < 10:
        return False
    # Evenly drawn values reach down a decade by chance, but their median stays in the middle.
    return high / low >= 1000 or float(np.median(values)) < (low + high) / 4


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by its text."""
    return (False, value, "") if _is_number(value) else (True, 0.0, str(value))


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

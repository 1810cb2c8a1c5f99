"""Plot of the search for a recipe: what was compared on the same images, and the first look that decided who is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from metal_defects.plots.style import (
    BLUE,
    CENTRED,
    GREEN,
    QUIET,
    VERMILION,
    new_figure,
    save_figure,
    use_log_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the first look more would make the plot a poster; all are in trials.csv.
MOST_SHOWN = 24
# What stands right of the rows: its place, its title, and the name of the figure.
COLUMNS = (
    (0.2, "10⁹ multiply-\nadds", "gmacs"),
    (0.55, "% right,\nclean", "accuracy"),
    (0.85, "% right,\ndamaged", "damaged_accuracy"),
)


class Recipe(Protocol):
    """A trial: its loss, and how far that is behind the lowest one, of the same images; None where it failed."""

    @property
    def number(self) -> int: ...
    @property
    def score(self) -> float | None: ...
    @property
    def images(self) -> int | None: ...
    @property
    def first_look(self) -> bool: ...
    @property
    def behind(self) -> float | None: ...
    @property
    def behind_error(self) -> float | None: ...
    @property
    def gmacs(self) -> float | None: ...
    @property
    def accuracy(self) -> float | None: ...
    @property
    def damaged_accuracy(self) -> float | None: ...
    @property
    def params(self) -> Mapping[str, Any]: ...


def draw_recipes(trials: Sequence[Recipe], target: Path, winner: int, title: str = "Search for a recipe") -> "Figure":
    """Loss of every recipe that was compared above the lowest one, with its standard error; below, the first look.

    Losses of the two are of other images, so that they share no axis. A trial that failed is left out.

    Args:
        trials: in the order of the search.
        target: file to write.
        winner: number of the trial that won; with the one-standard-error rule it need not have the lowest loss.
        title: above the plot.

    Raises:
        ValueError: the winner is not among the trials that were compared.
    """
    compared = sorted((trial for trial in trials if trial.behind is not None), key=lambda trial: trial.behind or 0.0)
    looked = sorted((t for t in trials if t.first_look and t.score is not None), key=lambda trial: trial.score or 0.0)
    if winner not in [trial.number for trial in compared]:
        raise ValueError(f"The winner must be one of {len(compared)} trials that were compared. Got trial {winner}.")
    shown = looked[:MOST_SHOWN]
    heights = [1.1 + 0.27 * len(rows) for rows in (compared, shown) if rows]
    figure = new_figure(9.6, 0.5 + sum(heights))
    panels = figure.subplots(
        len(heights), 2, squeeze=False, sharey="row", height_ratios=heights, width_ratios=(1, 0.55)
    )
    _draw_compared(panels[0, 0], compared, winner)
    if shown:
        _draw_first_look(panels[1, 0], shown, compared)
        more = f", the best {len(shown)} of {len(looked)}" if len(shown) < len(looked) else ""
        panels[1, 0].set_title(f"First look at {shown[0].images:,} images{more}")
    for (plot, table), rows in zip(panels, (compared, shown), strict=False):
        _name_rows(plot, table, rows)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(title)
    save_figure(figure, target)
    return figure


def _draw_compared(axes: "Axes", trials: Sequence[Recipe], winner: int) -> None:
    rows = np.arange(len(trials))
    behind = np.array([trial.behind for trial in trials])
    errors = np.array([trial.behind_error for trial in trials])
    tied = behind <= errors
    chosen = np.array([trial.number == winner for trial in trials])
    axes.locator_params(axis="x", nbins=6)
    axes.axvline(0, color=GREEN, linewidth=1, linestyle="--", label="lowest loss")
    axes.hlines(rows, behind - errors, behind + errors, color=np.where(chosen, VERMILION, BLUE), linewidth=1.4)
    for which, face, label in ((tied, BLUE, "within one standard error"), (~tied, "white", "beyond it")):
        if (which & ~chosen).any():
            points = behind[which & ~chosen], rows[which & ~chosen]
            axes.scatter(*points, s=30, facecolor=face, edgecolor=BLUE, zorder=3, label=label)
    label = f"chosen: trial {winner}"
    axes.scatter(behind[chosen], rows[chosen], s=130, marker="*", color=VERMILION, zorder=4, label=label)
    axes.set(xlabel="log loss above the lowest ± one standard error")
    axes.set_title(f"Compared on {trials[0].images:,} images")


def _draw_first_look(axes: "Axes", trials: Sequence[Recipe], compared: Sequence[Recipe]) -> None:
    """Squares, filled where the recipe went on."""
    axes.locator_params(axis="x", nbins=6)
    went_on = {_name(trial, without=("views",)) for trial in compared}
    faces = [QUIET if _name(trial, without=("views",)) in went_on else "white" for trial in trials]
    scores = [trial.score for trial in trials if trial.score is not None]
    axes.scatter(scores, range(len(trials)), s=26, marker="s", facecolor=faces, edgecolor=QUIET, zorder=3)
    if min(scores) > 0 and max(scores) / min(scores) >= 10:
        use_log_axis(axes, "x", scores)
    axes.set(xlabel="log loss of these images; filled: compared above")


def _name_rows(plot: "Axes", table: "Axes", trials: Sequence[Recipe]) -> None:
    """The recipe on the left, what it costs and how often it is right on the right."""
    names = [f"{_name(trial)}  ({trial.number})" for trial in trials]
    plot.set_yticks(range(len(trials)), names, fontsize=8)
    plot.set_ylim(len(trials) - 0.4, -0.6)
    plot.margins(x=0.06)
    plot.grid(axis="x")
    table.set_axis_off()
    for place, title, figure in COLUMNS:
        values = [getattr(trial, figure) for trial in trials]
        if any(value is not None for value in values):
            table.text(place, -0.7, title, ha="center", va="bottom", fontsize=8, color=QUIET)
        for row, value in enumerate(values):
            if value is not None:
                shown = f"{value:.2f}" if figure == "gmacs" else f"{100 * value:.1f}"
                table.text(place, row, shown, **CENTRED, fontsize=8)


def _name(trial: Recipe, without: Sequence[str] = ()) -> str:
    """What makes the recipe, in one line."""
    params = trial.params
    parts = [f"{params['taps']} taps", str(params["pooling"])]
    if "views" not in without:
        parts.append(f"views: {params['views']}")
    if params["hidden_units"]:
        parts.append(f"{params['hidden_units']} hidden units")
    return ", ".join(parts)

"""The plain command on twenty drawn sets, each hard in its own way, against single recipes: `--help` tells the rest."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from _common import (
    PROJECT,
    Workspace,
    describe_machine,
    make_table,
    open_frozen,
    report,
    start,
    use_data,
    use_model,
)
from _drawn_sets import DRAWN_SETS, DrawnSet, write_set
from _single_recipes import Recipe, try_recipes
from rich.table import Table

from metal_defects.artifacts import EVALUATION, TUNED_METRICS, TUNING
from metal_defects.config import load_settings
from metal_defects.evaluation.results import Evaluation
from metal_defects.log import console, library_noise_to
from metal_defects.metrics import Metrics
from metal_defects.models.results import TunedResult
from metal_defects.pipeline.table import STAGES
from metal_defects.records import read_record, write_table

MODEL = "efficientnet_lite0"
# How far below the best single recipe the program may stay, in points.
ALLOWED = 1.0


@dataclass(frozen=True)
class Failure:
    """A run that failed, after so many seconds, and what it said last."""

    drawn: DrawnSet
    seconds: float
    said: str


@dataclass(frozen=True)
class Outcome:
    """What came of a set.

    Attributes:
        seconds: of the run.
        program: test of the tuned model.
        recipes: test of each single recipe.
        evaluation: of stage 08, where that ran.
    """

    drawn: DrawnSet
    seconds: float
    program: Metrics
    recipes: tuple[tuple[Recipe, Metrics], ...]
    evaluation: Evaluation | None = None

    @property
    def best(self) -> tuple[Recipe, Metrics]:
        """The recipe of the highest test accuracy; of equals that of the lowest log loss."""
        return max(self.recipes, key=lambda one: (one[1].correct, -one[1].log_loss))

    @property
    def images_below(self) -> int:
        """Test images that the best recipe names rightly beyond those of the program; negative where it is worse."""
        return self.best[1].correct - self.program.correct

    @property
    def points_below(self) -> float:
        """The same in points of accuracy."""
        return 100 * self.images_below / self.program.n

    @property
    def is_close(self) -> bool:
        """Whether no more than ALLOWED points lie between them, in whole images: 2 of 198 is a point."""
        return self.images_below <= round(ALLOWED * self.program.n / 100)


def main(
    sets: Annotated[int, typer.Option("--sets", min=1, max=len(DRAWN_SETS), help="The first so many.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the drawings.")] = 0,
    whole: Annotated[bool, typer.Option("--whole", help="Run stages 08 to 10 too, and tell the verdicts.")] = False,
) -> None:
    """Run `main.py run --data SET --models efficientnet_lite0 --set classes=auto` on drawn sets.

    Few images, many classes, 1:100, tiny or smooth defects, mixed sizes, 5 % wrong labels and more; each set has
    about 200 test images of its own, so that one image is half a point. Beside each run stand 144 single recipes,
    logistic regressions on the very feature bank of the run (taps, pooling, views, C, class weights), that learn from
    the same training images and are scored on the same test images. The best of them BY TEST ACCURACY is no method
    that anyone could have chosen beforehand: by luck alone it is some images ahead.

    Expected: no run fails, and the program is never more than a point below the best recipe. One to two minutes for a
    set on two cores; with --whole three to four. Every figure goes to artifacts/benchmarks/any_surface.csv.

    Example: python benchmarks/any_surface.py --sets 3
    """
    machine = describe_machine()
    outcomes: list[Outcome | Failure] = []
    target = load_settings(PROJECT).config.paths.artifacts / "benchmarks" / "any_surface.csv"
    for number, drawn in enumerate(DRAWN_SETS[:sets], 1):
        console.print(f"{number} of {sets}: {drawn.name} ...", style="dim", highlight=False)
        with TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
            outcomes.append(try_set(Path(name), drawn, seed, whole))
        write_table(target, COLUMNS, list_rows(outcomes))
        console.print(f"   {_tell_briefly(outcomes[-1])}", style="dim", highlight=False)
    tables = [_tell_accuracy(outcomes), _tell_runs(outcomes)] + ([_tell_verdicts(outcomes)] if whole else [])
    report("any_surface", tables, summarise(outcomes), machine, {"seed": seed, "sets": [_as_json(o) for o in outcomes]})


def try_set(folder: Path, drawn: DrawnSet, seed: int, whole: bool) -> Outcome | Failure:
    """Draw a set, run the program on it, and try the single recipes."""
    data, artifacts = folder / "data", folder / "artifacts"
    write_set(data, drawn, seed)
    places = [f"paths.{part}={folder / part}" for part in ("artifacts", "logs", "downloads")]
    options = [part for text in ("classes=auto", *places) for part in ("--set", text)]
    command = [sys.executable, str(PROJECT / "main.py"), "run", "--data", str(data), "--models", MODEL, *options]
    last = next(index for index, stage in enumerate(STAGES, 1) if stage.name == TUNING)
    begin = time.perf_counter()
    for chosen in [[]] if whole else [["--only", stage.number] for stage in STAGES[:last]]:
        done = subprocess.run([*command, *chosen], capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            said_last = f"exit code {done.returncode}: {said[-1] if said else 'without a word'}"
            return Failure(drawn, time.perf_counter() - begin, said_last)
    seconds = time.perf_counter() - begin
    settings = load_settings(PROJECT, [*places, "classes=auto", use_data(data), *use_model(MODEL)])
    place = Workspace(settings, folder)
    with library_noise_to(folder / "libraries.log"):
        training = replace(place.training, banks=artifacts / "feature_banks")
        recipes = tuple(try_recipes(place, open_frozen(place, training)))
    tuned = read_record(place.path(TUNED_METRICS), TunedResult)
    evaluation = read_record(place.path(EVALUATION), Evaluation) if whole else None
    return Outcome(drawn, seconds, tuned.test, recipes, evaluation)


# --- what is told ----------------------------------------------------------------------------

COLUMNS = ("set", "method", "test_images", "right", "accuracy", "macro_recall", "log_loss")


def list_rows(outcomes: Sequence[Outcome | Failure]) -> Iterator[tuple[Any, ...]]:
    """A row for the program and for each recipe on each set; of a run that failed, what it said."""
    for one in outcomes:
        if isinstance(one, Failure):
            yield one.drawn.name, one.said, *[""] * 5
            continue
        for title, metrics in [("program", one.program), *((recipe.title, found) for recipe, found in one.recipes)]:
            scores = (metrics.accuracy.value, metrics.macro_recall.value, metrics.log_loss)
            yield one.drawn.name, title, metrics.n, metrics.correct, *(f"{score:.4f}" for score in scores)


def summarise(outcomes: Sequence[Outcome | Failure]) -> list[str]:
    """Sentences: what failed, what stayed below, and whether one recipe for all sets would have done better."""
    done = [one for one in outcomes if isinstance(one, Outcome)]
    notes = [f"Failed runs: {len(outcomes) - len(done)} of {len(outcomes)}."]
    notes += [f"{one.drawn.name}: {one.said}" for one in outcomes if isinstance(one, Failure)]
    if not done:
        return notes
    below = [one for one in done if not one.is_close]
    named = ", ".join(f"{one.drawn.name} {one.points_below:.1f} ({one.images_below})" for one in below)
    notes.append(
        f"More than {ALLOWED:g} point below the best single recipe, points (images): {named or 'none'}; "
        f"{len(below)} of {len(done)} sets."
    )
    means: dict[Recipe, list[float]] = {}
    for one in done:
        for recipe, metrics in one.recipes:
            means.setdefault(recipe, []).append(100 * metrics.accuracy.value)
    best = max(means, key=lambda recipe: np.mean(means[recipe]))
    program = np.mean([100 * one.program.accuracy.value for one in done])
    notes.append(
        f"Mean test accuracy: program {program:.2f} %; the one recipe that is best on average over these sets "
        f"({best.title}) {np.mean(means[best]):.2f} %."
    )
    return notes


def _tell_briefly(one: Outcome | Failure) -> str:
    if isinstance(one, Failure):
        return one.said
    right = f"program {one.program.correct} of {one.program.n} right, best single recipe {one.best[1].correct}"
    return f"{right}; the run took {one.seconds:.0f} s"


def _tell_accuracy(outcomes: Sequence[Outcome | Failure]) -> Table:
    table = make_table(
        "Test: the program and the best of the single recipes, %", "set", "program", "macro", "loss", "best", "macro",
        "loss", "below (images)",
    )  # fmt: skip
    for one in outcomes:
        if isinstance(one, Failure):
            table.add_row(one.drawn.name, "failed", style="red")
            continue
        cells = [
            text
            for metrics in (one.program, one.best[1])
            for text in (
                f"{100 * metrics.accuracy.value:.1f}",
                f"{100 * metrics.macro_recall.value:.1f}",
                f"{metrics.log_loss:.3f}",
            )
        ]
        gap = f"{one.points_below:.1f} ({one.images_below})"
        table.add_row(one.drawn.name, *cells, gap, style=None if one.is_close else "yellow")
    return table


def _tell_runs(outcomes: Sequence[Outcome | Failure]) -> Table:
    table = make_table("The runs", "set", "classes", "train", "test", "seconds", "best single recipe")
    for one in outcomes:
        counts = (len(one.drawn.counts), sum(one.drawn.counts.values()), sum(one.drawn.test_counts.values()))
        said = one.said if isinstance(one, Failure) else one.best[0].title
        table.add_row(one.drawn.name, *map(str, counts), f"{one.seconds:.0f}", said)
    return table


def _tell_verdicts(outcomes: Sequence[Outcome | Failure]) -> Table:
    table = make_table("Test: verdicts", "set", "accepted %", "wrong among the accepted", "ECE, points")
    for one in outcomes:
        if isinstance(one, Outcome) and one.evaluation and one.evaluation.verdicts.test:
            counts, ece = one.evaluation.verdicts.test, one.evaluation.calibration.after.ece.value
            accepted = f"{100 * counts.accept / counts.images:.1f}"
            table.add_row(one.drawn.name, accepted, f"{counts.wrong_accept} of {counts.accept}", f"{100 * ece:.2f}")
    return table


def _as_json(one: Outcome | Failure) -> dict[str, Any]:
    told = {"name": one.drawn.name, "seconds": round(one.seconds, 1)}
    if isinstance(one, Failure):
        return told | {"failure": one.said}
    recipe, best = one.best
    dumped = {
        name: metrics.model_dump(mode="json", include={"n", "correct", "accuracy", "macro_recall", "log_loss"})
        for name, metrics in (("program", one.program), ("best", best))
    }
    return told | dumped | {"best_recipe": asdict(recipe), "points_below": round(one.points_below, 2)}


if __name__ == "__main__":
    start(main)

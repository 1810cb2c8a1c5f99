"""Keras Tuner told what a trial is: the order of halving, its budget, and how it goes on after a crash."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
import pytest

from metal_defects.models.search import (
    KEPT,
    OBJECTIVE,
    RUNG,
    make_guessing_oracle,
    make_halving_oracle,
    make_tuner,
)

TRIALS = 8
NAMES = ("a", "b", "c", "d")
RECIPES = [{"recipe": name, "views": "none"} for name in NAMES]
# By these losses of the first look b and d come through; a with its views is compared in any case.
LOSSES = {"a": 0.4, "b": 0.1, "c": 0.5, "d": 0.2}
ANCHOR = {"recipe": "a", "views": "all"}
AFTERWARDS = [("a", "all"), ("b", "all"), ("d", "all"), ("b", "none"), ("d", "none")]


def refine(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**recipe, "views": views} for views in ("all", "none")]


def make_space() -> keras_tuner.HyperParameters:
    space = keras_tuner.HyperParameters()
    space.Choice("recipe", list(NAMES))
    space.Choice("views", ["none", "all"])
    return space


class Played:
    """A search in a folder that survives a crash; `crash_at` is the number of the trial that dies with the process."""

    def __init__(self, folder: Path, budget: float = 1000.0, recipes: list[dict[str, Any]] | None = None) -> None:
        self.folder, self.budget, self.recipes = folder, budget, RECIPES if recipes is None else recipes
        self.tried: list[tuple[str, str, int]] = []

    def run(self, crash_at: int | None = None, losses: Mapping[str, float] = LOSSES) -> keras_tuner.Oracle:
        def run_trial(trial: Any) -> dict[str, float]:
            values = trial.hyperparameters.values
            if int(trial.trial_id) == crash_at:
                raise KeyboardInterrupt
            self.tried.append((values["recipe"], values["views"], values[RUNG]))
            return {OBJECTIVE: losses[values["recipe"]], "seconds": 1.0}

        def make_oracle() -> keras_tuner.Oracle:
            return make_halving_oracle(make_space(), self.recipes, ANCHOR, refine, self.budget)

        tuner = make_tuner(run_trial, make_oracle, self.folder)
        if crash_at is None:
            tuner.search(verbose=0)
        else:
            with pytest.raises(KeyboardInterrupt):
                tuner.search(verbose=0)
        return tuner.oracle


def test_first_looks_come_first_then_the_best_in_turn_and_the_first_recipe(tmp_path: Path) -> None:
    played = Played(tmp_path)
    oracle = played.run()
    assert KEPT == 2
    assert played.tried == [(name, "none", 0) for name in NAMES] + [(*pair, 1) for pair in AFTERWARDS]
    assert sorted(int(name) for name in oracle.trials) == list(range(9))


def test_the_first_recipe_is_not_compared_twice(tmp_path: Path) -> None:
    played = Played(tmp_path)
    played.run(losses=LOSSES | {"a": 0.0})
    finals = [(name, views) for name, views, rung in played.tried if rung]
    assert finals == [("a", "all"), ("b", "all"), ("a", "none"), ("b", "none")]


@pytest.mark.parametrize("crash_at", [0, 2, 3, 4, 8])
def test_a_search_goes_on_where_it_was(crash_at: int, tmp_path: Path) -> None:
    whole = Played(tmp_path / "whole")
    whole.run()
    played = Played(tmp_path / "crashed")
    played.run(crash_at)
    assert played.tried == whole.tried[:crash_at]
    played.run()
    assert played.tried == whole.tried, "nothing is repeated, nothing left out"


def test_a_finished_search_does_nothing_more(tmp_path: Path) -> None:
    played = Played(tmp_path)
    played.run()
    before = list(played.tried)
    played.run()
    assert played.tried == before


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (0.5, [("a", "none", 0), ("a", "all", 1)]),
        (1.5, [("a", "none", 0), ("b", "none", 0), ("a", "all", 1)]),
        (4.5, [*((name, "none", 0) for name in NAMES), ("a", "all", 1)]),
        (5.5, [*((name, "none", 0) for name in NAMES), ("a", "all", 1), ("b", "all", 1)]),
    ],
)
def test_after_the_budget_nothing_is_begun_once_one_was_compared(
    budget: float, expected: list[tuple[str, str, int]], tmp_path: Path
) -> None:
    """Every trial takes a second; a budget that ends in the first looks still lets the first recipe be compared."""
    played = Played(tmp_path, budget)
    played.run()
    assert played.tried == expected


def test_a_recipe_that_fails_does_not_come_through(tmp_path: Path) -> None:
    played = Played(tmp_path)
    losses = {name: loss for name, loss in LOSSES.items() if name != "b"}
    oracle = played.run(losses=losses)
    statuses = {trial.hyperparameters.values["recipe"]: trial.status for trial in list(oracle.trials.values())[:4]}
    assert statuses["b"] in ("FAILED", "INVALID")
    assert {name for name, _, rung in played.tried if rung} == {"d", "a"}


def test_a_full_disk_ends_the_search(tmp_path: Path) -> None:
    def run_trial(_trial: Any) -> dict[str, float]:
        raise OSError(28, "No space left on device")

    tuner = make_tuner(run_trial, lambda: make_halving_oracle(make_space(), RECIPES, ANCHOR, refine, 1.0), tmp_path)
    with pytest.raises(keras_tuner.errors.FatalError, match="No space left"):
        tuner.search(verbose=0)


@pytest.mark.parametrize("content", ["", '{"ongoing_trials": {'])
def test_a_torn_state_is_begun_anew(content: str, tmp_path: Path) -> None:
    played = Played(tmp_path)
    played.run(crash_at=3)
    (tmp_path / "trials" / "oracle.json").write_text(content)
    played.tried.clear()
    played.run()
    assert played.tried[:4] == [(name, "none", 0) for name in NAMES]


# --- networks that are trained as a whole ----------------------------------------------------


def search(oracle: keras_tuner.Oracle, trials: int) -> list[dict[str, float]]:
    """Play trials whose loss is lowest at a rate of 0.7; the values that were proposed, in order."""
    proposed = []
    for _ in range(trials):
        trial = oracle.create_trial("tuner0")
        values = dict(trial.hyperparameters.values)
        proposed.append(values)
        oracle.update_trial(trial.trial_id, {OBJECTIVE: abs(values["rate"] - 0.7) + (values["taps"] == "deep")})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    return proposed


def make_rates() -> keras_tuner.HyperParameters:
    space = keras_tuner.HyperParameters()
    space.Float("rate", 0.0, 1.0)
    space.Choice("taps", ["default", "deep"])
    return space


@pytest.fixture
def propose(tmp_path: Path) -> Callable[[int, str], list[dict[str, float]]]:
    def run(seed: int, folder: str) -> list[dict[str, float]]:
        oracle = make_guessing_oracle("bayesian", make_rates(), TRIALS, 1, seed)
        oracle._set_project_dir(str(tmp_path / folder), "trials")
        return search(oracle, TRIALS)

    return run


def test_the_search_comes_close_to_the_lowest_loss(propose: Callable) -> None:
    proposed = propose(1, "a")[TRIALS // 2 :]
    best = min(abs(values["rate"] - 0.7) + (values["taps"] == "deep") for values in proposed)
    assert best < 0.1


def test_the_search_is_repeated_by_its_seed(propose: Callable) -> None:
    first, again, other = propose(1, "a"), propose(1, "b"), propose(2, "c")
    assert first == again
    assert first != other


def test_hyperband_is_had_by_its_name() -> None:
    oracle = make_guessing_oracle("hyperband", make_rates(), 6, 4, 1)
    assert isinstance(oracle, keras_tuner.oracles.HyperbandOracle)
    assert oracle.max_epochs == 4

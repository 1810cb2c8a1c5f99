"""Keras Tuner, told what a trial is: what proposes the next one, and how an interrupted search goes on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metal_defects.log import logger
from metal_defects.models.results import Hyperparameters, Trial, Value

if TYPE_CHECKING:
    import keras_tuner

OBJECTIVE = "log_loss"
# Of a trial, among the values that Keras Tuner keeps for itself: 0 for a first look, 1 for the comparison that decides.
RUNG = "tuner/rung"
MOST_TRIALS = 1000
CANDIDATES = 4096
# Recipes that come through the first look.
KEPT = 2
RunTrial = Callable[[Any], dict[str, float]]


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Attributes:
        trials: all of them, in order.
        values: hyperparameters of the winner.
        reason: why it won, in words.
    """

    trials: tuple[Trial, ...]
    values: Hyperparameters
    reason: str


def make_tuner(
    run_trial: RunTrial, make_oracle: "Callable[[], keras_tuner.Oracle]", folder: Path
) -> "keras_tuner.Tuner":
    """A tuner whose state lies in `folder`/trials, so that a crash costs one trial at most.

    Args:
        run_trial: gives the metrics of a trial, OBJECTIVE among them.
        make_oracle: makes what proposes the next trial.
        folder: survives a crash.
    """
    import keras_tuner

    class Search(keras_tuner.Tuner):
        def run_trial(self, trial: "keras_tuner.engine.trial.Trial", **_: Any) -> dict[str, float]:
            try:
                return run_trial(trial)
            except OSError as error:
                # A full disk is not the fault of this trial's values: stop instead of trying others.
                raise keras_tuner.errors.FatalError(str(error)) from error

    def make(overwrite: bool) -> keras_tuner.Tuner:
        return Search(make_oracle(), directory=str(folder), project_name="trials", overwrite=overwrite)

    try:
        return make(overwrite=False)
    except Exception as error:  # Keras Tuner does not write its state atomically: a crash may tear it
        logger.warning("   the record of the interrupted search is damaged (%r): it starts anew", error)
        return make(overwrite=True)


def make_halving_oracle(
    space: "keras_tuner.HyperParameters",
    recipes: Sequence[Mapping[str, Value]],
    anchor: Mapping[str, Value],
    refine: Callable[[Mapping[str, Value]], Sequence[Mapping[str, Value]]],
    budget_seconds: float,
) -> "keras_tuner.Oracle":
    """Successive halving: a first look at every recipe, then the comparison of the best ones' refinements.

    K. Jamieson & A. Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (AISTATS 2016).
    What comes next follows from the trials that there are, so that an interrupted search goes on where it was.

    Args:
        space: of the values.
        recipes: for the first look.
        anchor: what is compared in any case.
        refine: the values that are compared of a recipe that came through, its likeliest first.
        budget_seconds: after so many seconds of trials no more is begun, as long as one was compared.
    """
    from keras_tuner import Objective
    from keras_tuner.engine.oracle import Oracle
    from keras_tuner.engine.trial import TrialStatus

    class SuccessiveHalving(Oracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            """The next values; none where the search is over."""
            done = [trial for trial in self.trials.values() if trial.trial_id != trial_id]
            tried = [dict(trial.hyperparameters.values) for trial in done]
            is_over = sum(map(_seconds, done)) > budget_seconds
            first = [] if is_over else [{**recipe, RUNG: 0} for recipe in recipes]
            waiting = [values for values in first if values not in tried]
            if not waiting and not (is_over and any(values[RUNG] for values in tried)):
                waiting = [values for values in self._list_finals(done) if values not in tried]
            if not waiting:
                return {"status": TrialStatus.STOPPED}
            return {"status": TrialStatus.RUNNING, "values": waiting[0]}

        def _list_finals(self, done: "list[keras_tuner.engine.trial.Trial]") -> list[dict[str, Value]]:
            """What is compared: the anchor, then the refinements of the best recipes in turn."""
            looked = [t for t in done if t.hyperparameters.values[RUNG] == 0 and t.score is not None]
            ranked = sorted(looked, key=lambda trial: (trial.score, trial.trial_id))
            kept = [{name: trial.hyperparameters.values[name] for name in recipes[0]} for trial in ranked[:KEPT]]
            rounds = [list(refine(recipe)) for recipe in kept]
            turns = [values for turn in zip_longest(*rounds) for values in turn if values not in (None, anchor)]
            return [{**values, RUNG: 1} for values in (anchor, *turns)]

    return SuccessiveHalving(objective=Objective(OBJECTIVE, "min"), hyperparameters=space, max_trials=MOST_TRIALS)


def _seconds(trial: "keras_tuner.engine.trial.Trial") -> float:
    """That a trial took; none where it failed."""
    return trial.metrics.get_best_value("seconds") if trial.metrics.exists("seconds") else 0.0


def make_guessing_oracle(
    algorithm: str, space: "keras_tuner.HyperParameters", count: int, epochs: int, seed: int
) -> "keras_tuner.Oracle":
    """What proposes the values of a network that every trial trains as a whole.

    Args:
        algorithm: "bayesian" or "hyperband".
        space: of the values.
        count: trials at most, of the former.
        epochs: of a trial at most, of the latter.
        seed: of what is drawn.
    """
    from keras_tuner import Objective, oracles

    class GaussianProcess(oracles.BayesianOptimizationOracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            """Propose the best of many random candidates: the usual 50 gradient searches take longer than a trial."""
            completed = [trial for trial in self.trials.values() if trial.status == "COMPLETED"]
            if len(completed) < self.num_initial_points:
                return self._random_populate_space()
            points, scores = self._vectorize_trials()
            self.gpr.fit(points, scores)
            candidates = self._random_state.uniform(size=(CANDIDATES, points.shape[1]))
            mean, deviation = self.gpr.predict(candidates, return_std=True)
            best = candidates[np.argmin(mean - self.beta * deviation)]
            return {"status": "RUNNING", "values": self._vector_to_values(best)}

    common = {"objective": Objective(OBJECTIVE, "min"), "hyperparameters": space, "seed": seed}
    if algorithm == "hyperband":
        return oracles.HyperbandOracle(max_epochs=epochs, **common)
    return GaussianProcess(max_trials=count, num_initial_points=max(2, count // 2), **common)

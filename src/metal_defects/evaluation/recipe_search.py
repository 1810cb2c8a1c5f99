"""The search for a recipe: Keras Tuner runs it, every trial is a cross-validation on the feature bank."""

import shutil
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.config import HyperparameterTuningParams
from metal_defects.errors import UserError
from metal_defects.evaluation.recipe_trials import draw_sample, score_recipe
from metal_defects.evaluation.significance import standard_error
from metal_defects.metrics import format_percent
from metal_defects.models.pooling import POOLINGS
from metal_defects.models.results import Gap, Hyperparameters, Trial, Value
from metal_defects.models.search import OBJECTIVE, RUNG, Found, make_halving_oracle, make_tuner
from metal_defects.models.trainers import FrozenTrainer
from metal_defects.models.training import MakeCallbacks

if TYPE_CHECKING:
    import keras_tuner

# Images of the first look and of the comparison: more tell recipes apart that differ too little to matter.
LOOKED, COMPARED = 400, 1000
FOLDS = 3
# Accuracy that a recipe may cost for being cheaper, more robust or plainer: of few images, a standard error is
# several points.
MOST_LOST = 0.005
SCORES = "score.npz"
# Choices of views, those that make a head robust to most first.
ROBUST = ("all", "damage", "mild", "none")
# The order in which they are compared: those that tell most for their time first.
CHEAP = ("none", "all", "mild", "damage")


def search_recipe(
    trainer: FrozenTrainer,
    groups: np.ndarray,
    params: HyperparameterTuningParams,
    make_callbacks: MakeCallbacks,
    resume: Path,
) -> Found:
    """Find the recipe of a head on a frozen backbone.

    Taps, pooling and hidden units are chosen among on some of the images without augmented views, which is cheap; of
    the best two the choices of views are compared, and the recipe of the base model with them. Of all that were
    compared and tie with the lowest loss, the cheapest one wins: first by what an image costs, then the one that
    learned from more damage, then the plainer one. A tie is a loss within one standard error of the lowest (paired,
    pieces of surface counted once); a recipe that learned from more damage ties by its accuracy, too, because what it
    is for is not in the loss of clean images. No recipe ties that costs more than half a point of accuracy.

    Args:
        trainer: of the backbone.
        groups: of the training images; images of the same value show the same piece, (images,).
        params: what is searched, and for how long.
        make_callbacks: for heads with a hidden layer.
        resume: folder that survives a crash.

    Raises:
        UserError: no trial succeeded.
    """
    import keras_tuner

    labels, seed = trainer.labels["train"], trainer.training.seed
    samples = [draw_sample(labels, groups, most, FOLDS, seed) for most in (LOOKED, COMPARED)]
    space = keras_tuner.HyperParameters()
    trainer.declare(space, params)
    recipes = _list_recipes(trainer, space)[: params.max_trials]
    offered = next(parameter.values for parameter in space.space if parameter.name == "views")
    views = [choice for choice in CHEAP if choice in offered]
    base = recipes[0] | {"views": next(choice for choice in ROBUST if choice in offered)}

    def run_trial(trial: "keras_tuner.engine.trial.Trial") -> dict[str, float]:
        start, values = time.monotonic(), dict(trial.hyperparameters.values)
        sample = samples[int(values.pop(RUNG))]
        title = f"Trial {int(trial.trial_id) + 1}"
        score = score_recipe(trainer, trainer.read_recipe(values), sample, make_callbacks, title)
        np.savez(_make_folder(resume, trial) / SCORES, losses=score.losses, right=score.right)
        metrics = {OBJECTIVE: float(score.losses.mean()), "accuracy": float(score.right.mean()), "l2": score.l2}
        if score.damaged_right is not None:
            metrics["damaged_accuracy"] = float(score.damaged_right.mean())
        return metrics | {"images": len(score.losses), "seconds": time.monotonic() - start}

    def make_oracle() -> "keras_tuner.Oracle":
        return make_halving_oracle(
            space,
            recipes,
            base,
            lambda recipe: [{**recipe, "views": choice} for choice in views],
            params.budget_seconds,
        )

    tuner = make_tuner(run_trial, make_oracle, resume)
    tuner.search(verbose=0)
    done = [trial for _, trial in sorted(tuner.oracle.trials.items())]
    scores = {trial.trial_id: _read_scores(resume, trial) for trial in done if _is_final(trial)}
    lowest = min(scores, key=lambda number: float(scores[number][0].mean()), default=None)
    if lowest is None:
        raise UserError(f"No tuning trial succeeded. Got: {done[0].message.strip().splitlines()[-1]}")
    compared = groups[samples[1].rows]
    gaps = {number: _measure_gap(score, scores[lowest], compared) for number, score in scores.items()}
    trials = tuple(_describe(trainer, trial, gaps.get(trial.trial_id)) for trial in done)
    return choose_recipe(trials)


def choose_recipe(trials: Sequence[Trial]) -> Found:
    """The winner among the trials that were compared, with the reason in words."""
    compared = [trial for trial in trials if trial.gap is not None]
    lowest = min(compared, key=lambda trial: trial.score or 0.0)
    tied = [trial for trial in compared if _ties(trial, lowest)]
    winner = min(tied, key=lambda trial: (trial.gmacs, _robustness(trial), _plainness(trial)))
    if winner is lowest and len(tied) == 1:
        reason = f"Its log loss, {lowest.score:.4f}, is the lowest, and no other recipe ties with it."
    elif winner is lowest:
        reason = f"Its log loss, {lowest.score:.4f}, is the lowest, and none that ties with it is cheaper."
    else:
        reason = f"{_tell_tie(winner, lowest)}, and it is {_compare(winner, lowest)}."
    return Found(tuple(trials), dict(winner.params), f"{reason}{_tell_damage(winner, compared)}")


def _ties(trial: Trial, lowest: Trial) -> bool:
    """Whether a trial is as good as the one of the lowest loss, as far as the images can tell."""
    gap = trial.gap
    assert gap is not None
    if gap.accuracy > MOST_LOST:
        return False
    is_robust = _robustness(trial) < _robustness(lowest)
    return gap.loss <= gap.loss_error or (is_robust and gap.accuracy <= gap.accuracy_error)


def _robustness(trial: Trial) -> int:
    """Place among the choices of views, 0 for the most robust one."""
    return ROBUST.index(str(trial.params["views"]))


def _tell_tie(winner: Trial, lowest: Trial) -> str:
    gap = winner.gap
    assert gap is not None
    if gap.loss <= gap.loss_error:
        return (
            f"Its log loss, {winner.score:.4f}, is {gap.loss:.4f} above the lowest (trial {lowest.number}), "
            f"no more than a standard error, {gap.loss_error:.4f}"
        )
    return (
        f"It names {_percent(winner.accuracy)} of the images rightly, {100 * gap.accuracy:.2f} points less than the "
        f"recipe of the lowest log loss (trial {lowest.number}), no more than a standard error, "
        f"{100 * gap.accuracy_error:.2f}"
    )


def _list_recipes(trainer: FrozenTrainer, space: "keras_tuner.HyperParameters") -> list[Hyperparameters]:
    """Every combination without augmented views, the base model's first, then the cheapest for an image."""
    names = [parameter.name for parameter in space.space if parameter.name != "views"]
    choices = [parameter.values for parameter in space.space if parameter.name != "views"]
    # Of the base model, as far as the settings leave it open: a single choice is a demand.
    usual = trainer.defaults()
    pairs = zip(names, choices, strict=True)
    base = {name: usual[name] if usual[name] in offered else offered[0] for name, offered in pairs} | {"views": "none"}
    recipes = [dict(zip(names, values, strict=True)) | {"views": "none"} for values in product(*choices)]
    others = [recipe for recipe in recipes if recipe != base]
    return [base, *sorted(others, key=lambda recipe: (trainer.cost(trainer.read_recipe(recipe)), str(recipe)))]


def _make_folder(resume: Path, trial: "keras_tuner.engine.trial.Trial") -> Path:
    folder = resume / "logs" / trial.trial_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _is_final(trial: "keras_tuner.engine.trial.Trial") -> bool:
    return trial.status == "COMPLETED" and trial.hyperparameters.values[RUNG] == 1


def _read_scores(resume: Path, trial: "keras_tuner.engine.trial.Trial") -> tuple[np.ndarray, np.ndarray]:
    """Log loss of the images, and whether they were named rightly."""
    with np.load(resume / "logs" / trial.trial_id / SCORES, allow_pickle=False) as stored:
        return stored["losses"], stored["right"]


def _measure_gap(
    score: tuple[np.ndarray, np.ndarray], lowest: tuple[np.ndarray, np.ndarray], groups: np.ndarray
) -> Gap:
    losses, misses = score[0] - lowest[0], lowest[1].astype(float) - score[1]
    return Gap(
        loss=float(losses.mean()),
        loss_error=standard_error(losses, groups),
        accuracy=float(misses.mean()),
        accuracy_error=standard_error(misses, groups),
    )


def _describe(trainer: FrozenTrainer, trial: "keras_tuner.engine.trial.Trial", gap: Gap | None) -> Trial:
    """One trial as plain values; its hyperparameters under the names that a trainer takes."""
    values, completed = dict(trial.hyperparameters.values), trial.status == "COMPLETED"
    rung = values.pop(RUNG)

    def metric(name: str) -> float | None:
        return float(trial.metrics.get_best_value(name)) if completed and trial.metrics.exists(name) else None

    images = metric("images")
    return Trial(
        number=int(trial.trial_id),
        status=str(trial.status),
        score=trial.score if completed else None,
        accuracy=metric("accuracy"),
        images=None if images is None else round(images),
        first_look=rung == 0,
        damaged_accuracy=metric("damaged_accuracy"),
        gmacs=trainer.cost(trainer.read_recipe(values)),
        gap=gap,
        seconds=metric("seconds"),
        epochs=None,
        params=values | {"l2": metric("l2")},
        message=trial.message or "",
    )


def _plainness(trial: Trial) -> tuple[int, int, float]:
    """Order among recipes that cost the same: few statistics, no hidden layer, then the lower loss."""
    units = trial.params["hidden_units"]
    return POOLINGS.index(trial.params["pooling"]), int(units or 0), trial.score or 0.0


def _compare(winner: Trial, lowest: Trial) -> str:
    if winner.gmacs != lowest.gmacs:
        return f"cheaper for an image: {winner.gmacs:.2f} instead of {lowest.gmacs:.2f} · 10⁹ multiply-adds"
    if winner.params["views"] != lowest.params["views"]:
        return "the one that learned from more damage"
    return "the plainer one"


def _tell_damage(winner: Trial, compared: Sequence[Trial]) -> str:
    """What views against damage cost and buy, where the same recipe was compared without them."""
    plain = {**winner.params, "views": "none"}
    others = [trial for trial in compared if _same_recipe(trial.params, plain) and trial is not winner]
    if winner.params["views"] == "none":
        damaged = [t for t in compared if _same_recipe(t.params | {"views": "none"}, plain) and t is not winner]
        others = [trial for trial in damaged if trial.params["views"] == "all"]
    if not others or winner.damaged_accuracy is None or others[0].damaged_accuracy is None:
        return ""
    with_views, without = (others[0], winner) if winner.params["views"] == "none" else (winner, others[0])
    return (
        f" Augmented views ({with_views.params['views']}): {_percent(with_views.accuracy)} of clean and "
        f"{_percent(with_views.damaged_accuracy)} of damaged images are named rightly, "
        f"without them {_percent(without.accuracy)} and {_percent(without.damaged_accuracy)}."
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{format_percent(share)} %"


def _same_recipe(first: Mapping[str, Value], second: Mapping[str, Value]) -> bool:
    return all(first[name] == second[name] for name in first if name != "l2")

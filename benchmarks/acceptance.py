"""How many answers can be accepted within a stated risk, by which rule? `--help` tells the rest."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer
from _common import (
    Model,
    Workspace,
    describe_machine,
    make_table,
    open_frozen,
    report,
    start,
    use_data,
    use_model,
    workspace,
)
from cross_validation import gather_features
from rich.table import Table

from metal_defects.evaluation.cross_validation import OutOfFold, out_of_fold
from metal_defects.evaluation.heads import Fit, Predict
from metal_defects.log import track
from metal_defects.metrics import image_losses
from metal_defects.pipeline.table import STAGES
from metal_defects.trust import calibration
from metal_defects.trust.calibration import cross_fit, expected_calibration_error, fit_scaling
from metal_defects.trust.selective import Answers, choose_threshold

ACCURACIES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
COUNTS = (60, 200, 500, 1000, 2000)
POPULATION, SPREAD = 200_000, 3.0
FEW_DRAWS = 25
# Strength of the head, weak on purpose too: good heads leave little to choose.
STRENGTHS = (0.003, 0.03)
PENALTIES = {"temperature alone": 1e9, "biases": 1e-9, "biases, penalty 10": calibration.BIAS_ANSWERS}
Rule = Callable[[Answers, float], float | None]


def main(
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Also try real answers, out of fold, of these images.")
    ] = None,
    model: Model = "efficientnet_lite0",
    risk: Annotated[float, typer.Option("--risk", min=0.0001, max=0.5, help="Stated share of wrong answers.")] = 0.005,
    draws: Annotated[int, typer.Option("--draws", min=10, help="Choices per simulated model and number.")] = 200,
) -> None:
    """Compare rules that choose the confidence from which answers are accepted.

    Simulated models are calibrated, of 80 to 99.9 % accuracy; a threshold is chosen on so many answers, and judged on
    200,000. With --data, heads are cross-validated on the images' features, and so are thresholds and calibration.

    Example: python benchmarks/acceptance.py --data ~/x-sdd
    """
    machine = describe_machine()
    simulated = [
        row
        for accuracy in track(ACCURACIES, "Simulated models", total=len(ACCURACIES))
        for row in _simulate(accuracy, risk, draws)
    ]
    table = make_table(
        f"Simulated models, at most {100 * risk:g} % wrong",
        *("accuracy", "answers", "rule", "accepted", "wrong of all accepted", "risk exceeded"),
    )
    for row in simulated:
        shares = (f"{100 * row[name]:.2f} %" for name in ("accepted", "wrong", "exceeded"))
        table.add_row(f"{100 * row['accuracy']:g} %", str(row["answers"]), row["rule"], *shares)
    tables, result = [table], {"risk": risk, "draws": draws, "simulated": simulated}
    if data is not None:
        with workspace(STAGES[:4], use_data(data), *use_model(model), "classes=auto", "training.views=[]") as place:
            answers = _answer(place)
        real = {name: _judge(found, risk) for name, found in answers.items()}
        few = {name: _try_few(found, risk) for name, found in answers.items()}
        tables += [_make_real_table(real, risk), _make_few_table(few)]
        result |= {"real": real, "calibration": few}
    report("acceptance", tables, [], machine, result)


def _choose_naively(answers: Answers, risk: float) -> float | None:
    """The most that keeps the risk on the very answers."""
    ranked = answers.rank()
    kept = np.flatnonzero(np.cumsum(ranked.wrong) <= risk * np.arange(1, len(ranked.wrong) + 1))
    return float(ranked.confidence[kept[-1]]) if len(kept) else None


def _choose_by_bound(answers: Answers, risk: float) -> float | None:
    """The most for which a 95 % bound (Clopper & Pearson) of the risk keeps to it, at every threshold by itself."""
    from scipy.stats import beta

    ranked = answers.rank()
    accepted, wrong = np.arange(1, len(ranked.wrong) + 1), np.cumsum(ranked.wrong)
    kept = np.flatnonzero(beta.ppf(0.95, wrong + 1, np.maximum(accepted - wrong, 1e-9)) <= risk)
    return float(ranked.confidence[kept[-1]]) if len(kept) else None


RULES: dict[str, Rule] = {
    "naive": _choose_naively,
    "95 % bound": _choose_by_bound,
    "the product's": lambda answers, risk: choose_threshold(answers, risk)[0],
}


def _draw_model(accuracy: float, random: np.random.Generator) -> Answers:
    """A population of answers whose confidence is the probability of being right."""
    from scipy.optimize import brentq
    from scipy.special import expit

    logits = SPREAD * random.normal(size=POPULATION)
    mean = brentq(lambda shift: expit(shift + logits).mean() - accuracy, -10, 40)
    confidence = expit(mean + logits)
    return Answers(confidence, random.random(POPULATION) > confidence, np.ones(POPULATION), np.arange(POPULATION))


def _simulate(accuracy: float, risk: float, draws: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    ranked = _draw_model(accuracy, random).rank()
    wrong = np.append(0, np.cumsum(ranked.wrong))
    rows = []
    for count in COUNTS:
        samples = [ranked.take(random.integers(0, POPULATION, count)) for _ in range(draws)]
        for name, choose in RULES.items():
            thresholds = [choose(sample, risk) for sample in samples]
            sizes = np.searchsorted(-ranked.confidence, [-2 if t is None else -t for t in thresholds], side="right")
            risks = wrong[sizes] / np.maximum(sizes, 1)
            rows.append({
                "accuracy": accuracy,
                "answers": count,
                "rule": name,
                "accepted": float(sizes.mean() / POPULATION),
                "wrong": float(wrong[sizes].sum() / max(sizes.sum(), 1)),
                "exceeded": float((risks > risk).mean()),
            })  # fmt: skip
    return rows


def _answer(place: Workspace) -> dict[str, OutOfFold]:
    """Answers out of fold of convex heads without views, with and without class weights."""
    trainer = open_frozen(place)
    columns = trainer.bank.columns(trainer.read_recipe({"taps": "default"}).taps)
    features, known = gather_features(place, trainer)[:, :, columns], place.known
    heads = [(strength, weights) for strength in STRENGTHS for weights in (None, "balanced")]
    return {
        f"C = {strength:g}, {'class weights' if weights else 'no weights'}": out_of_fold(
            features, known.labels, known.groups, _make_fit(strength, weights), what="Heads"
        )
        for strength, weights in heads
    }


def _make_fit(strength: float, weights: str | None) -> Fit:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(features: np.ndarray, labels: np.ndarray, _groups: np.ndarray, _seed: int) -> Predict:
        head = make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight=weights, max_iter=300))
        return head.fit(features[0], labels).predict_log_proba

    return fit


def _judge(found: OutOfFold, risk: float) -> dict[str, Any]:
    """What each rule accepts of real answers, thresholds and calibration without the image's fold."""
    labels, folds = found.labels, found.folds[0]
    probabilities = cross_fit(found.logits[0], labels, folds)
    answers = _gather(probabilities, labels)
    row: dict[str, Any] = {"answers": len(labels), "wrong": int(answers.wrong.sum())}
    row["ece"] = expected_calibration_error(probabilities, labels).value
    for name, choose in RULES.items():
        accepted = np.zeros(len(labels), bool)
        for fold in np.unique(folds):
            threshold = choose(answers.take(folds != fold), risk)
            accepted |= (folds == fold) & (answers.confidence >= (np.inf if threshold is None else threshold))
        row[name] = [int(accepted.sum()), int((accepted & answers.wrong).sum())]
    return row


def _try_few(found: OutOfFold, risk: float) -> list[dict[str, Any]]:
    """What only some answers are worth, judged on the others: log loss after calibration, and what is accepted."""
    random, labels, rows = np.random.default_rng(0), found.labels, []
    for count in COUNTS[:3]:
        losses: dict[str, list[float]] = {name: [] for name in PENALTIES}
        accepted, wrong, judged = 0, 0, 0
        for _ in range(FEW_DRAWS):
            order = random.permutation(len(labels))
            some, others = order[:count], order[count:]
            for name, penalty in PENALTIES.items():
                with patch.object(calibration, "BIAS_ANSWERS", penalty):
                    scaling = fit_scaling(found.logits[0, some], labels[some])
                losses[name].append(float(image_losses(labels[others], scaling.apply(found.logits[0, others])).mean()))
            known = cross_fit(found.logits[0, some], labels[some], np.arange(count) % 5)
            threshold = choose_threshold(_gather(known, labels[some]), risk)[0]
            # The scaling of the last penalty, which is the product's.
            new = _gather(scaling.apply(found.logits[0, others]), labels[others])
            passed = new.confidence >= (np.inf if threshold is None else threshold)
            accepted, wrong, judged = accepted + passed.sum(), wrong + new.wrong[passed].sum(), judged + len(passed)
        means = {name: float(np.mean(values)) for name, values in losses.items()}
        rows.append({"answers": count, **means, "accepted": accepted / judged, "wrong": wrong / max(accepted, 1)})
    return rows


def _gather(probabilities: np.ndarray, labels: np.ndarray) -> Answers:
    return Answers(
        probabilities.max(axis=1), probabilities.argmax(axis=1) != labels, np.ones(len(labels)), np.arange(len(labels))
    )


def _make_real_table(real: dict[str, dict[str, Any]], risk: float) -> Table:
    table = make_table(
        f"Real answers out of fold: accepted, and wrong among them, at most {100 * risk:g} % stated",
        *("head", "answers", "wrong", "ECE, points", *RULES),
    )
    for name, row in real.items():
        counts = (f"{accepted}, {wrong}" for accepted, wrong in (row[rule] for rule in RULES))
        table.add_row(name, str(row["answers"]), str(row["wrong"]), f"{100 * row['ece']:.2f}", *counts)
    return table


def _make_few_table(few: dict[str, list[dict[str, Any]]]) -> Table:
    title = (
        "Calibrated and chosen on so many answers, judged on the others: log loss in nats, accepted, wrong among them"
    )
    table = make_table(title, "head", "answers", *PENALTIES, "accepted", "wrong")
    for name, rows in few.items():
        for row in rows:
            shares = (f"{100 * row[part]:.2f} %" for part in ("accepted", "wrong"))
            table.add_row(name, str(row["answers"]), *(f"{row[kind]:.4f}" for kind in PENALTIES), *shares)
    return table


if __name__ == "__main__":
    start(main)

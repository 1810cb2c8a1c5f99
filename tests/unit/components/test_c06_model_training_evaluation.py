"""Stage 06: which model is best, by validation alone."""

import numpy as np
import pytest
from support.model_results import make_base_result, make_split_metrics

from metal_defects.components.c06_model_training_evaluation import choose_best
from metal_defects.metrics import classification_metrics
from metal_defects.models.results import BaseResult


def make_results(**gmacs: float) -> list[BaseResult]:
    return [make_base_result(name=name, title=name.upper(), gmacs=cost) for name, cost in gmacs.items()]


def test_clearly_lowest_validation_loss_wins() -> None:
    random = np.random.default_rng(0)
    losses = {"cheap": random.uniform(0.5, 1, 50), "good": random.uniform(0, 0.1, 50)}
    best = choose_best(make_results(cheap=0.1, good=15.0), losses)
    assert best.name == "good"
    assert best.tied == ("good",)
    assert best.valid_log_loss["cheap"] == pytest.approx(losses["cheap"].mean(), abs=1e-6)


def test_cheapest_of_the_tied_wins() -> None:
    random = np.random.default_rng(0)
    base = random.uniform(0, 1, 50)
    losses = {"dear": base, "cheap": base + random.normal(0.001, 0.2, 50), "cheapest": base + 1}
    best = choose_best(make_results(dear=15.0, cheap=0.4, cheapest=0.1), losses)
    assert best.name == "cheap"
    assert set(best.tied) == {"dear", "cheap"}


def test_a_difference_counts_that_is_small_but_the_same_everywhere() -> None:
    base = np.random.default_rng(0).uniform(0, 5, 50)
    assert choose_best(make_results(dear=15.0, cheap=0.4), {"dear": base, "cheap": base + 0.01}).name == "dear"


def test_test_split_takes_no_part_in_the_choice() -> None:
    losses = {"a": np.array([0.1, 0.2, 0.1]), "b": np.array([0.9, 0.8, 0.9])}
    perfect, hopeless = (
        classification_metrics(np.array([0, 1]), np.eye(2)[order], ["a", "b"]) for order in ([0, 1], [1, 0])
    )
    results = make_results(a=1.0, b=0.1)
    before = choose_best(results, losses)
    tests = zip(results, (hopeless, perfect), strict=True)
    results = [result.model_copy(update={"test": make_split_metrics(test)}) for result, test in tests]
    assert choose_best(results, losses) == before


def test_one_model_or_one_image_is_enough() -> None:
    assert choose_best(make_results(a=1.0), {"a": np.array([0.1])}).name == "a"
    assert choose_best(make_results(a=1.0, b=2.0), {"a": np.array([0.3]), "b": np.array([0.1])}).name == "b"

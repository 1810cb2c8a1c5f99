"""The winner of a search for a recipe: the cheapest within one standard error, and why in words."""

from typing import Any

import pytest
from support.model_results import make_trial

from metal_defects.evaluation.recipe_search import choose_recipe
from metal_defects.models.results import Gap, Trial


def compare(
    number: int, score: float, behind: float, error: float = 0.01, missed: float = 0.0, **changes: Any
) -> Trial:
    """A trial that was compared; `missed` is the accuracy that it lost, with a standard error of 0.01."""
    gap = Gap(loss=behind, loss_error=error, accuracy=missed, accuracy_error=0.01)
    return make_trial(number, first_look=False, score=score, gap=gap, **changes)


BEST = {"behind": 0.0, "error": 0.0}


def test_the_cheaper_one_wins_within_one_standard_error() -> None:
    trials = [compare(2, 0.10, **BEST, gmacs=0.4), compare(3, 0.105, 0.005, gmacs=0.3, params={"taps": "early"})]
    found = choose_recipe(trials)
    assert found.values["taps"] == "early"
    assert found.trials == tuple(trials)
    assert "0.0050 above the lowest (trial 2), no more than a standard error, 0.0100" in found.reason
    assert "cheaper for an image: 0.30 instead of 0.40" in found.reason


def test_what_is_behind_by_more_does_not_win_however_cheap() -> None:
    trials = [compare(2, 0.10, **BEST, gmacs=0.4), compare(3, 0.12, 0.02, gmacs=0.1, params={"taps": "early"})]
    found = choose_recipe(trials)
    assert found.values == trials[0].params
    assert found.reason == "Its log loss, 0.1000, is the lowest, and no other recipe ties with it."


def test_what_costs_more_than_half_a_point_does_not_tie_however_few_the_images() -> None:
    trials = [compare(2, 0.10, **BEST, gmacs=0.4), compare(3, 0.105, 0.005, missed=0.006, gmacs=0.1)]
    assert choose_recipe(trials).values == trials[0].params
    robust = compare(3, 0.105, 0.005, missed=0.006, params={"views": "all"})
    assert choose_recipe([compare(2, 0.10, **BEST, params={"views": "none"}), robust]).values["views"] == "none"


def test_first_looks_and_failures_do_not_win() -> None:
    failed = make_trial(4, first_look=False, status="FAILED", score=None, accuracy=None, images=None, gmacs=0.01)
    trials = [make_trial(0, score=0.01, gmacs=0.1), compare(2, 0.10, **BEST, gmacs=0.4), failed]
    assert choose_recipe(trials).values == trials[1].params


def test_a_dearer_one_that_ties_does_not_win() -> None:
    found = choose_recipe([compare(2, 0.10, **BEST), compare(3, 0.105, 0.005, gmacs=0.4)])
    assert found.reason == "Its log loss, 0.1000, is the lowest, and none that ties with it is cheaper."


@pytest.mark.parametrize(
    ("winner", "loser", "why"),
    [
        ({"views": "all"}, {"views": "none"}, "the one that learned from more damage"),
        ({"views": "damage"}, {"views": "mild"}, "the one that learned from more damage"),
        ({"pooling": "moments"}, {"pooling": "moments+extremes"}, "the plainer one"),
        ({"hidden_units": 0}, {"hidden_units": 64}, "the plainer one"),
    ],
)
def test_of_the_same_cost_more_damage_and_then_plainness_decide(winner: dict, loser: dict, why: str) -> None:
    trials = [compare(2, 0.10, **BEST, params=loser), compare(3, 0.105, 0.005, params=winner)]
    found = choose_recipe(trials)
    assert found.values == trials[1].params
    assert f"and it is {why}." in found.reason


def test_more_damage_wins_where_it_costs_no_accuracy_that_images_can_tell() -> None:
    plain = compare(2, 0.10, **BEST, params={"views": "none"})
    robust = compare(3, 0.2, 0.1, missed=0.004, accuracy=0.98, params={"views": "all"})
    found = choose_recipe([plain, robust])
    assert found.values == robust.params
    assert "0.40 points less than the recipe of the lowest log loss (trial 2)" in found.reason
    assert (
        choose_recipe([plain, compare(3, 0.2, 0.1, missed=0.005, error=0.2, params={"views": "all"})]).values
        == robust.params
    )
    assert choose_recipe([plain, compare(3, 0.2, 0.1, missed=0.02, params={"views": "all"})]).values == plain.params
    # Plainness is no excuse for a higher loss.
    rich = compare(2, 0.10, **BEST, params={"pooling": "moments+extremes"})
    assert choose_recipe([rich, compare(3, 0.2, 0.1, missed=0.0)]).values == rich.params


def test_what_views_against_damage_buy_is_told() -> None:
    trials = [
        compare(2, 0.10, **BEST, accuracy=0.991, damaged_accuracy=0.7, params={"views": "none"}),
        compare(3, 0.105, 0.005, accuracy=0.989, damaged_accuracy=0.95, params={"views": "all", "l2": 0.01}),
    ]
    told = "98.9 % of clean and 95.0 % of damaged images are named rightly, without them 99.1 % and 70.0 %."
    assert choose_recipe(trials).reason.endswith(f" Augmented views (all): {told}")
    # The same where the one without views wins.
    apart = [
        trials[0],
        trials[1].model_copy(update={"gap": Gap(loss=0.5, loss_error=0.01, accuracy=0.5, accuracy_error=0.01)}),
    ]
    found = choose_recipe(apart)
    assert found.values["views"] == "none"
    assert found.reason.endswith(f" Augmented views (all): {told}")


def test_another_recipe_with_views_says_nothing_of_what_they_buy() -> None:
    trials = [
        compare(2, 0.10, **BEST, damaged_accuracy=0.7, params={"views": "none", "taps": "deep"}),
        compare(3, 0.105, 0.5, damaged_accuracy=0.95, params={"views": "all"}),
    ]
    assert "Augmented views" not in choose_recipe(trials).reason

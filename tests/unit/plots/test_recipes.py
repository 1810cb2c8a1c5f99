"""The plot of the search for a recipe: two looks at different images, and a winner that need not be the lowest."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from support.findings import make_trials
from support.model_results import make_trial

from metal_defects.plots.recipes import MOST_SHOWN, draw_recipes


def texts(figure: Figure) -> set[str]:
    return {item.get_text() for item in figure.findobj(Text)} - {""}


def test_recipes_that_were_compared_stand_apart_from_the_first_look(tmp_path: Path) -> None:
    figure = draw_recipes(make_trials(), tmp_path / "plot.png", winner=3)
    compared, _, looked, _ = figure.axes
    early, default = "early taps, moments, views: none", "default taps, moments, views: none"
    assert [label.get_text() for label in compared.get_yticklabels()] == [f"{default}  (2)", f"{early}  (3)"]
    assert {label.get_text() for label in looked.get_yticklabels()} == {f"{default}  (0)", f"{early}  (1)"}
    assert {"Compared on 40 images", "First look at 400 images", "0.28", "98.0", "92.5"} <= texts(figure)
    star = next(item for item in compared.collections if item.get_label() == "chosen: trial 3")
    assert star.get_offsets().tolist() == [[pytest.approx(0.0123), 1]]
    (errors,) = (item for item in compared.collections if hasattr(item, "get_segments"))
    assert errors.get_segments()[1][:, 0].tolist() == pytest.approx([0.0123 - 0.0456, 0.0123 + 0.0456])


def test_recipes_beyond_a_standard_error_and_those_that_went_no_further_are_hollow(tmp_path: Path) -> None:
    trials = (
        make_trial(0, score=0.01),
        make_trial(1, score=0.5, params={"taps": "deep"}),
        make_trial(2, first_look=False, behind=0.0, behind_error=0.0),
        make_trial(3, first_look=False, behind=0.3, behind_error=0.1, params={"hidden_units": 64}),
    )
    figure = draw_recipes(trials, tmp_path / "plot.png", winner=2)
    compared, looked = figure.axes[0], figure.axes[2]
    beyond = next(item for item in compared.collections if item.get_label() == "beyond it")
    assert beyond.get_offsets()[0, 0] == pytest.approx(0.3) and beyond.get_facecolors()[0].tolist() == [1, 1, 1, 1]
    hollow = [face.tolist() == [1, 1, 1, 1] for face in looked.collections[0].get_facecolors()]
    assert hollow == [False, True] and looked.get_xscale() == "log"
    assert "default taps, moments, views: none, 64 hidden units  (3)" in texts(figure)
    assert "% right,\ndamaged" not in texts(figure)


def test_first_look_at_very_many_recipes_is_cut_and_the_winner_must_be_compared(tmp_path: Path) -> None:
    many = [make_trial(number, score=0.1 + number, params={"hidden_units": number}) for number in range(MOST_SHOWN + 6)]
    last = make_trial(99, first_look=False, behind=0.0, behind_error=0.0)
    figure = draw_recipes([*many, last], tmp_path / "plot.png", winner=99)
    assert f"First look at 400 images, the best {MOST_SHOWN} of {MOST_SHOWN + 6}" in texts(figure)
    assert len(draw_recipes([last], tmp_path / "one.png", winner=99).axes) == 2
    with pytest.raises(ValueError, match=r"one of 1 trials that were compared\. Got trial 0\."):
        draw_recipes([*many, last], tmp_path / "none.png", winner=0)

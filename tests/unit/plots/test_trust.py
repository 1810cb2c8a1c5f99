"""Plots of the statistics of trust: what is on them, and the same bytes each time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from metal_defects.evaluation.results import VerdictCounts
from metal_defects.plots.trust import (
    draw_coverage,
    draw_guard_distances,
    draw_reliability,
    draw_risk_coverage,
    draw_verdicts,
)
from metal_defects.trust.calibration import Scaling, judge_calibration
from metal_defects.trust.conformal import judge_coverage
from metal_defects.trust.priors import resolve_priors
from metal_defects.trust.selective import Answers, judge_selection

NAMES = ["Crazing", "a $5 coin pressed into a very long strip of steel", "Never seen"]
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (400, 3)) - np.array([0, 0, 50])
RIGHT = Scaling(temperature=2.0).apply(LOGITS)
LABELS = (RANDOM.random(400) > RIGHT[:, 0]).astype(int)
FOLDS = np.arange(400) % 5
CALIBRATION = judge_calibration(LOGITS, LABELS, FOLDS, resolve_priors("training", NAMES, LABELS))
COVERAGE = judge_coverage(RIGHT, LABELS, FOLDS, np.arange(400), 0.95, NAMES)
ANSWERS = Answers(RIGHT.max(axis=1), RIGHT.argmax(axis=1) != LABELS, np.ones(400), np.arange(400))
SELECTION = judge_selection(ANSWERS, FOLDS, 0.02, 0.8)
DISTANCES = {"training": np.append(RANDOM.uniform(0.3, 1.05, 200), np.nan), "photographs": RANDOM.uniform(2, 90, 50)}
COUNTS = {
    "held out": VerdictCounts(
        images=100, accept=96, review=3, unknown=1, wrong_accept=1, wrong_review=2, wrong_unknown=0
    ),
    "another mill": VerdictCounts(
        images=10, accept=0, review=0, unknown=10, wrong_accept=0, wrong_review=0, wrong_unknown=7
    ),
}

PLOTS: list[tuple[Callable[..., Figure], Any]] = [
    (draw_reliability, CALIBRATION),
    (draw_guard_distances, DISTANCES),
    (draw_coverage, COVERAGE),
    (draw_verdicts, COUNTS),
    (draw_risk_coverage, SELECTION),
]


def texts(figure: Figure) -> str:
    from matplotlib.text import Text

    return "\n".join(item.get_text() for item in figure.findobj(Text))


@pytest.mark.parametrize(("plot", "content"), PLOTS)
def test_file_is_whole_and_repeats(plot: Callable[..., Figure], content: Any, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        assert "A title" in texts(plot(content, tmp_path / name, "A title"))
    Image.open(tmp_path / "one.png").verify()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_reliability_tells_both_errors(tmp_path: Path) -> None:
    told = texts(draw_reliability(CALIBRATION, tmp_path / "a.png", "t"))
    for stage in (CALIBRATION.before, CALIBRATION.after):
        assert f"ECE {100 * stage.ece.value:.2f} points" in told
    assert f"after (temperature {CALIBRATION.scaling.temperature:.2f})" in told


def test_guard_shows_the_share_within_the_limit(tmp_path: Path) -> None:
    told = texts(draw_guard_distances(DISTANCES, tmp_path / "a.png", "t"))
    share = 100 * (DISTANCES["training"][:-1] <= 1).mean()
    assert f"training: {share:.1f} % of 200 within the limit" in told
    assert "photographs: 0.0 % of 50 within the limit" in told
    assert "beyond 6" in told


@pytest.mark.parametrize("distances", [{}, {"training": np.array([np.nan])}])
def test_guard_refuses_nothing(distances: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one series"):
        draw_guard_distances(distances, tmp_path / "a.png", "t")


def test_coverage_leaves_out_absent_classes(tmp_path: Path) -> None:
    told = texts(draw_coverage(COVERAGE, tmp_path / "a.png", "t"))
    assert "Crazing" in told and "Never seen" not in told
    assert f"exact: {COVERAGE.exact.mean_size:.3f} classes per image" in told


def test_risk_coverage_tells_every_stated_risk(tmp_path: Path) -> None:
    told = texts(draw_risk_coverage(SELECTION, tmp_path / "a.png", "t"))
    for one in (SELECTION.chosen, *SELECTION.others):
        assert f"at most {100 * one.max_risk:g} %: {100 * one.accepted.value:.1f} of 100" in told


def test_risk_coverage_can_be_empty(tmp_path: Path) -> None:
    none = judge_selection(
        Answers(np.full(400, np.nan), ANSWERS.wrong, ANSWERS.weights, ANSWERS.groups), FOLDS, 0.02, 0.8
    )
    assert "at most 2 %: 0.0 of 100" in texts(draw_risk_coverage(none, tmp_path / "a.png", "t"))


def test_verdict_bars_add_up(tmp_path: Path) -> None:
    figure = draw_verdicts(COUNTS, tmp_path / "a.png", "t")
    widths: dict[float, float] = {}
    for patch in figure.axes[0].patches:
        row = patch.get_y()
        widths[row] = widths.get(row, 0) + patch.get_width()
    assert all(width == pytest.approx(100) for width in widths.values()) and len(widths) == 2
    assert "96.0 %" in texts(figure)

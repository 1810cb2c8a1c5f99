"""Figures in words."""

from metal_defects.metrics import Score
from metal_defects.report.parts import of_hundred, percent, ratio, say, show

HALF = Score(value=0.5, low=0.25, high=0.75)


def test_shares_never_round_to_certainty() -> None:
    assert [percent(share) for share in (1.0, 0.9999, 0.5)] == ["100.0 %", "99.9 %", "50.0 %"]
    assert [percent(share) for share in (0.0001, 0.0, None)] == ["< 0.1 %", "0.0 %", "–"]
    assert [of_hundred(share) for share in (1.0, 0.9999, 0.97)] == ["100", "99.9", "97"]


def test_scores_come_with_their_interval() -> None:
    assert show(HALF) == percent(HALF) == "50.0 % (25.0–75.0)"
    assert percent(HALF, 2) == "50.00 % (25.00–75.00)"
    assert ratio(HALF) == "0.500 (0.250–0.750)"


def test_other_values() -> None:
    assert [show(value) for value in (1234, 0.9996, 0.001, 1234.56, 2.0)] == [
        "1,234",
        "0.9996",
        "0.001",
        "1,234.6",
        "2",
    ]
    assert [show(value) for value in (None, True, False, "text")] == ["–", "yes", "no", "text"]
    assert show(4.0049e-05, 2) == "4e-05"
    assert say("gaussian_noise") == "gaussian noise"

"""Figures in words, and pictures."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor
from support.findings import make_trials

from metal_defects.metrics import Score
from metal_defects.plots.recipes import draw_recipes
from metal_defects.plots.style import BLUE, GREEN, VERMILION
from metal_defects.report.parts import Album, of_hundred, percent, ratio, say, show

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


def test_small_marks_of_a_plot_keep_their_colours(tmp_path: Path) -> None:
    draw_recipes(make_trials(), tmp_path / "plot.png", winner=3)
    picture = Album(1_000_000).embed(tmp_path / "plot.png", 1100)
    assert picture is not None and picture.uri.startswith("data:image/png")
    with Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    for colour in (GREEN, BLUE, VERMILION):
        assert np.abs(pixels - ImageColor.getrgb(colour)).max(axis=2).min() < 10

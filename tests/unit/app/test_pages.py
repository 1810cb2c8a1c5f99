"""Pieces of the app's pages: markup, the model page with more or less in the card, the occlusion map."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest
from support.toy_bundles import COLOURS, SIDE, paint, write_bundle

from metal_defects.app import markup
from metal_defects.app.occlusion import GRID, measure_heat
from metal_defects.inference.predictor import Predictor

SHARE = {"value": 0.99, "low": 0.95, "high": 1.0}
METRICS = {
    "n": 9, "correct": 8, "accuracy": SHARE, "class_names": list(COLOURS),
    "confusion_matrix": [[3, 0, 0], [1, 2, 0], [0, 0, 3]],
}  # fmt: skip
EVALUATION = {
    "ece": 0.0031, "coverage": SHARE, "mean_set_size": 1.25, "temperature": 1.7, "bins": [0.1, 0.2],
    "guard": {"accepted": 0.992}, "verdicts": {"accept": 0.97, "error_among_accepted": 0.0},
}  # fmt: skip


def show_model_page(folder: Path) -> tuple[AppTest, str]:
    def script(folder: str) -> None:
        from pathlib import Path

        from metal_defects.app.model_page import show_model_page
        from metal_defects.inference.bundle import load_bundle

        show_model_page(load_bundle(Path(folder)))

    page = AppTest.from_function(script, args=(str(folder),), default_timeout=20).run()
    assert not page.exception
    return page, "".join(element.value for element in page.get("html"))


def test_model_page_of_a_bundle_without_measurements(tmp_path: Path) -> None:
    page, html = show_model_page(write_bundle(tmp_path))
    assert page.title[0].value == "Colours"
    assert "unproven" in page.info[0].value
    assert "It cannot say" in page.markdown[0].value
    assert "How far to trust it" not in [heading.value for heading in page.subheader]
    assert "int8" in html and "72 of 72" in html


def test_model_page_of_an_evaluated_bundle(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, metrics={"test": METRICS}, evaluation=EVALUATION, verdict_rules={"accept": 0.9})
    page, html = show_model_page(folder)
    assert "8 of 9" in html and "99.0\u00a0% (95.0\u00a0–\u00a0100.0\u00a0%)" in html
    assert "0.31 %" in html and "<td>1.25</td>" in html and "99.20 %" in html and "<td>0.00 %</td>" in html
    assert "1.7" not in html
    assert "It cannot say" not in page.markdown[0].value


@pytest.mark.parametrize("evaluation", [{}, {"guard": None}, {"guard": 3, "verdicts": []}, {"ece": None}])
def test_model_page_bears_any_evaluation(tmp_path: Path, evaluation: dict[str, Any]) -> None:
    show_model_page(write_bundle(tmp_path, evaluation=evaluation))


def test_many_classes_are_summed_up(tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(60)]
    counts = 2 * np.eye(60, dtype=int)
    counts[7, 9] = 5
    metrics = METRICS | {"class_names": names, "confusion_matrix": counts.tolist()}
    _, html = show_model_page(write_bundle(tmp_path, metrics={"test": metrics}))
    assert "<td>class 7</td><td>class 9</td><td>5</td>" in html
    assert "md-matrix" not in html


@given(st.text())
def test_markup_escapes_what_comes_from_outside(text: str) -> None:
    hostile = f"<script>{text}"
    pieces = [
        markup.answer(hostile, 0.5, hostile, hostile), markup.share_bars({hostile: 0.5}, True), markup.facts(hostile),
        markup.count_bars({hostile: 1}), markup.strip([(hostile, hostile)]), markup.cards([(hostile,) * 3]),
        markup.table((hostile,), [(hostile,)]), markup.failures([(hostile, hostile)]), markup.lead(hostile),
        markup.steps([(hostile, hostile)]), markup.confusion_matrix([hostile], [[1]]),
    ]  # fmt: skip
    assert not any("<script" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "> 99.9 %"), (0.9991, "> 99.9 %"), (0.5, "50.0 %"), (0.0, "< 0.1 %")]
)
def test_shares_never_claim_certainty(share: float, text: str) -> None:
    assert markup.format_share(share) == text


def test_bars_show_the_most_probable_classes_only() -> None:
    html = markup.share_bars({f"class {index}": index / 4950 for index in range(100)}, True)
    assert html.count("<i") == 10
    assert html.index("class 99") < html.index("class 98")


def test_occlusion_finds_the_patch_that_decides(tmp_path: Path) -> None:
    predictor = Predictor.load(write_bundle(tmp_path))
    pixels = np.full((SIDE, SIDE, 3), 100, np.uint8)
    pixels[24:32, 40:48, 0] = 255
    heat = measure_heat(predictor, pixels, "Red")
    assert heat.shape == (GRID, GRID) and heat.dtype == np.float32
    assert np.unravel_index(heat.argmax(), heat.shape) == (3, 5)
    assert heat.min() >= 0 and heat.max() <= 1


def test_occlusion_says_when_no_patch_decides(tmp_path: Path) -> None:
    predictor = Predictor.load(write_bundle(tmp_path))
    assert measure_heat(predictor, paint("Red", side=SIDE), "Red").max() < 1

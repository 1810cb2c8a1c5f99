"""Pieces of the app's pages: markup, the model page with more or less in the card, the occlusion map."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest
from support import PROJECT
from support.toy_bundles import (
    COLOURS,
    SIDE,
    make_metrics,
    paint,
    paint_spot,
    save,
    write_bundle,
    write_locating_bundle,
)

from metal_defects.app import markup
from metal_defects.app.intake import Item
from metal_defects.app.occlusion import GRID, measure_heat
from metal_defects.app.scoring import score
from metal_defects.inference.predictor import Predictor

pytestmark = pytest.mark.usefixtures("scanned_once")
COUNTS = [[3, 0, 0], [1, 2, 0], [0, 0, 3]]
EVALUATION = {
    "images": 90,
    "folds": 5,
    "ece": {"value": 0.0031, "low": 0.001, "high": 0.005},
    "coverage": {"value": 0.97, "low": 0.93, "high": 0.99},
    "mean_set_size": 1.25,
    "guard": {"accepted": 0.992},
    "verdicts": {"accept": 0.97, "review": 0.02, "unknown": 0.01, "error_among_accepted": 0.0},
}
RULES = {"unknown_distance": 1.0, "review_distance": None, "min_confidence": 0.5, "set_threshold": 0.9}


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
    metrics = {"test": make_metrics(COLOURS, COUNTS)}
    page, html = show_model_page(write_bundle(tmp_path, metrics=metrics, evaluation=EVALUATION, verdict_rules=RULES))
    assert "8 of 9" in html and "99.0\u00a0% (95.0\u00a0–\u00a0100.0\u00a0%)" in html
    assert "0.3\u00a0% (0.1\u00a0–\u00a00.5\u00a0%)" in html and "<td>1.25</td>" in html
    assert "99.20 %" in html and "2.00 %" in html and "<td>0.00 %</td>" in html
    assert "It cannot say" not in page.markdown[0].value


def test_model_page_of_the_shipped_bundle() -> None:
    page, html = show_model_page(PROJECT / "bundles" / "neu")
    assert page.title[0].value == "EfficientNet-Lite0" and "so at least" in html


def test_many_classes_are_summed_up(tmp_path: Path) -> None:
    counts = 2 * np.eye(60, dtype=int)
    counts[7, 9] = 5
    metrics = make_metrics([f"class {index}" for index in range(60)], counts.tolist())
    _, html = show_model_page(write_bundle(tmp_path, metrics={"test": metrics}))
    assert "<td>class 7</td><td>class 9</td><td>5</td>" in html
    assert "md-matrix" not in html


@given(st.text())
def test_markup_escapes_what_comes_from_outside(text: str) -> None:
    hostile = f"<script>{text}"
    pieces = [
        markup.answer(hostile, 0.5, "review", hostile), markup.share_bars({hostile: 0.5}, True), markup.facts(hostile),
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


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_a_row_shows_the_place_in_the_image_however_it_was_made_square(tmp_path: Path, fit: str) -> None:
    pixels, box = paint_spot()
    path = save(tmp_path / "spot.png", pixels)
    predictor = Predictor.load(write_locating_bundle(tmp_path / "bundle", fit))
    [row] = score([Item("spot.png", path.read_bytes)], predictor, {}, 10**9)
    assert row.prediction.boxes[0].box == pytest.approx(box, abs=0.07)
    assert (row.heat_map[:4, 2:4] > 0.6).all() and row.heat_map[:, 5:].max() < 0.1


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_occlusion_hides_patches_of_the_image_and_of_its_mirror_image_alike(tmp_path: Path, fit: str) -> None:
    pixels = np.full((32, 256, 3), 100, np.uint8)
    pixels[8:12, 160:192, 0] = 255
    heat = measure_heat(Predictor.load(write_locating_bundle(tmp_path, fit)), pixels, "Red")
    assert np.unravel_index(heat.argmax(), heat.shape) == (2, 5)

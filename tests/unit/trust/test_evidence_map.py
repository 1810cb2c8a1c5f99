"""The heat map straight from evidence shows where a class is spoken for more than everywhere."""

from pathlib import Path

import numpy as np
import pytest

from metal_defects.trust.answer import AnswerParts
from metal_defects.trust.calibration import Scaling
from metal_defects.trust.evidence_map import evidence_layers, fit_evidence_map
from metal_defects.trust.locator import Locator

COUNT, GRID = 60, 8


def draw_evidence(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Evidence of three classes, the last of which is spoken for everywhere alike; and the place of each defect."""
    random = np.random.default_rng(seed)
    evidence = random.normal(0, 0.2, (COUNT, GRID, GRID, 3)) + np.array([0, -1, 5])
    places = random.integers(0, GRID, (COUNT, 2))
    for index, (row, column) in enumerate(places):
        evidence[index, row, column, index % 2] += 4
    return evidence.astype(np.float16), places


def draw(locator: Locator, evidence: np.ndarray) -> np.ndarray:
    import keras

    cells = keras.Input(evidence.shape[1:])
    return keras.Model(cells, evidence_layers(cells, locator)).predict(evidence.astype(np.float32), verbose=0)


@pytest.fixture(scope="module")
def locator() -> Locator:
    return fit_evidence_map(draw_evidence(1)[0])


def test_the_hottest_cell_is_the_defect(locator: Locator) -> None:
    evidence, places = draw_evidence(2)
    maps = draw(locator, evidence)
    assert maps.shape == (COUNT, GRID, GRID) and maps.min() >= 0 and maps.max() < 1
    hottest = np.stack(np.unravel_index(maps.reshape(COUNT, -1).argmax(axis=1), (GRID, GRID)), axis=1)
    assert np.array_equal(hottest, places)
    is_defect = np.zeros(maps.shape, bool)
    is_defect[np.arange(COUNT), places[:, 0], places[:, 1]] = True
    assert (maps[is_defect] >= locator.threshold).all() and (maps[~is_defect] < locator.threshold).all()


def test_the_map_is_what_the_formula_says(locator: Locator) -> None:
    learned, (evidence, _) = draw_evidence(1)[0].astype(np.float64), draw_evidence(3)
    mean, deviation = learned.mean(axis=(0, 1, 2)), learned.std(axis=(0, 1, 2))

    def exceed(values: np.ndarray) -> np.ndarray:
        return np.maximum((values - mean) / deviation - 1, 0).sum(axis=3)

    scale = np.median(exceed(learned).max(axis=(1, 2)))
    assert np.allclose(draw(locator, evidence), np.tanh(exceed(evidence.astype(np.float64)) / scale), atol=1e-3)


def test_evidence_that_is_the_same_everywhere_gives_an_empty_map() -> None:
    same = np.ones((4, GRID, GRID, 2), np.float16)
    assert not draw(fit_evidence_map(same), same).any()


def test_it_is_stored_with_the_other_parts(locator: Locator, tmp_path: Path) -> None:
    AnswerParts(Scaling(), locator=locator).save(tmp_path / "answer.npz")
    found = AnswerParts.load(tmp_path / "answer.npz").locator
    assert found is not None and (found.kind, found.taps, found.threshold) == (
        "labels",
        ("evidence",),
        locator.threshold,
    )
    evidence, _ = draw_evidence(4)
    assert np.array_equal(draw(found, evidence), draw(locator, evidence))

"""Pooling: each statistic is what NumPy computes, in the order that is promised, also after a file."""

from pathlib import Path

import numpy as np
import pytest

from metal_defects.models.pooling import POOLINGS, STATISTICS, pool

MAPS = np.random.default_rng(0).normal(3, 2, (4, 5, 7, 6)).astype(np.float32)
EXPECTED = (MAPS.mean((1, 2)), MAPS.var((1, 2)), MAPS.max((1, 2)), -MAPS.min((1, 2)))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_statistics_are_those_of_numpy_also_after_a_file(pooling: str, suffix: str, tmp_path: Path) -> None:
    import keras

    source = keras.Input(MAPS.shape[1:])
    model = keras.Model(source, pool(source, "tap", pooling))
    model.save(tmp_path / f"model.{suffix}")
    for one in (model, keras.models.load_model(tmp_path / f"model.{suffix}", compile=False)):
        found = one(MAPS)
        assert len(found) == STATISTICS[pooling]
        for values, expected in zip(found, EXPECTED[: len(found)], strict=True):
            assert np.allclose(values, expected, atol=1e-4)


def test_a_defect_of_one_cell_shows_in_the_extremes() -> None:
    import keras

    flat = np.full((1, 28, 28, 1), 5, np.float32)
    spotted = flat.copy()
    spotted[0, 3, 4, 0] = 9
    source = keras.Input(flat.shape[1:])
    model = keras.Model(source, pool(source, "tap", "moments+extremes"))
    moved = [float(after[0, 0] - before[0, 0]) for before, after in zip(model(flat), model(spotted), strict=True)]
    assert moved[0] < 0.01 and moved[1] < 0.05
    assert moved[2] == pytest.approx(4)
    assert moved[3] == pytest.approx(0)

"""The learning curve rises, draws within its bounds, and repeats itself."""

import numpy as np

from metal_defects.evaluation.learning_curve import measure_learning_curve
from metal_defects.plots.robustness import draw_learning_curve


def draw_bank(per_class: int = 30) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(3), per_class)
    centres = random.normal(0, 1, (3, 12))
    clean = centres[labels] + random.normal(0, 1, (len(labels), 12))
    return np.stack([clean, clean + random.normal(0, 0.3, clean.shape)]).astype(np.float32), labels


def test_more_labels_are_better_and_sizes_end_with_the_data(tmp_path) -> None:
    features, labels = draw_bank()
    rows = measure_learning_curve(features, labels, np.arange(len(labels)), seed=3)
    assert [row.per_class for row in rows] == [1, 2, 5, 10, 20, None]
    assert [row.draws for row in rows] == [10, 10, 10, 10, 5, 3]
    assert [row.images for row in rows] == [3, 6, 15, 30, 60, 72]
    assert rows[-1].accuracy.value > rows[0].accuracy.value + 0.05
    for row in rows:
        assert row.lowest <= row.accuracy.value <= row.highest
        assert 0 <= row.accuracy.low <= row.accuracy.value <= row.accuracy.high <= 1
        assert row.accuracy.high - row.accuracy.low > 0.05, "18 held-out images never make a certainty"
    assert rows == measure_learning_curve(features, labels, np.arange(len(labels)), seed=3)
    draw_learning_curve(rows, tmp_path / "curve.png", "Toy")
    assert (tmp_path / "curve.png").stat().st_size > 5_000


def test_held_out_copies_are_not_trained_on() -> None:
    random = np.random.default_rng(0)
    # Noise without any class in it, every image four times: only a leak could answer better than chance.
    labels, groups = np.repeat(np.arange(2), 80), np.arange(160) // 4
    copies = random.normal(0, 1, (40, 60)).repeat(4, axis=0)[None].astype(np.float32)
    leaking = measure_learning_curve(copies, labels, np.arange(160), seed=0)[-1].accuracy.value
    honest = measure_learning_curve(copies, labels, groups, seed=0)[-1].accuracy.value
    assert honest < 0.75 < 0.9 < leaking

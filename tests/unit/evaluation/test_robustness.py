"""Robustness: every cell sees the same images, and the shares add up."""

import numpy as np
import pytest

from metal_defects.evaluation.robustness import measure_robustness
from metal_defects.plots.robustness import draw_noise_curve, draw_robustness_map

NAMES = ("gaussian_noise", "dark", "occlusion")


def draw_images(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Dark images of class 0 and light ones of class 1."""
    labels = np.arange(count) % 2
    levels = (100 + 60 * labels)[:, None, None, None]
    noise = np.random.default_rng(0).normal(0, 3, (count, 24, 24, 1))
    return np.clip(levels + noise, 0, 255).astype(np.uint8).repeat(3, axis=3), labels


def classify(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light or dark by the mean level; the further from both, the stranger."""
    level = batch.mean(axis=(1, 2, 3))
    share = 1 / (1 + np.exp(-(level - 130) / 5))
    return np.stack([1 - share, share], axis=1), np.minimum(abs(level - 100), abs(level - 160)) / 10


def accepts(probabilities: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return distance <= 1


def test_what_is_damaged_is_judged_worse_and_the_guard_notices() -> None:
    images, labels = draw_images()
    result = measure_robustness(classify, images, labels, accepts, names=NAMES, images_per_cell=20)
    assert result.images == 20
    assert (result.clean.accuracy.value, result.clean.accepted, result.clean.silent_errors) == (1, 1, 0)
    dark = [cell.value for cell in result.accuracy["dark"]]
    # 160 - 0.15 * 255 = 122 reads as dark; 160 - 0.25 * 255 = 96 looks like a dark image and is believed.
    assert dark == [1, 1, 0.5, 0.5, 0.5]
    assert result.accepted is not None and result.silent_errors is not None and result.errors_accepted is not None
    assert result.accepted["dark"][2] == 0
    assert result.silent_errors["dark"][2] == 0
    assert result.silent_errors["dark"][4] == 0.5
    assert result.mean[4] == pytest.approx(np.mean([result.accuracy[name][4].value for name in NAMES]))
    assert 0 < result.errors_accepted < 1
    assert result.levels["gaussian_noise"] == (50, 40, 30, 25, 20)


def test_result_repeats_itself_and_samples_evenly() -> None:
    images, labels = draw_images()
    seen: list[int] = []

    def watch(batch: np.ndarray) -> tuple[np.ndarray, None]:
        seen.extend((batch.mean(axis=(1, 2, 3)) > 130).tolist())
        return classify(batch)[0], None

    runs = [
        measure_robustness(watch, images, labels, names=("dark",), severities=(1,), images_per_cell=10, seed=4)
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert sum(seen) == len(seen) / 2
    assert runs[0].accepted is None and runs[0].silent_errors_mean is None


@pytest.mark.parametrize("verdicts", [True, False])
def test_plots_are_written(tmp_path, verdicts: bool) -> None:
    images, labels = draw_images(12)
    result = measure_robustness(classify, images, labels, accepts if verdicts else None, names=NAMES)
    draw_robustness_map(result, tmp_path / "map.png", "Toy")
    draw_noise_curve(result, tmp_path / "noise.png", "Toy")
    assert min((tmp_path / name).stat().st_size for name in ("map.png", "noise.png")) > 5_000

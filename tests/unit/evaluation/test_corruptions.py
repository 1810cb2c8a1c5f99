"""Corruptions: seeded, of growing damage, and as strong as their levels say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.evaluation.corruptions import CORRUPTIONS, SEVERITIES, add_noise, corrupt

cells = st.tuples(st.sampled_from(sorted(CORRUPTIONS)), st.sampled_from(SEVERITIES))


def draw_texture(side: int = 96, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 30, (side // 8 + 1, side // 8 + 1)).repeat(8, 0).repeat(8, 1)[:side, :side]
    levels = 120 + coarse + random.normal(0, 15, (side, side))
    return np.clip(levels, 20, 230).astype(np.uint8)[..., None].repeat(3, axis=2)


@given(cell=cells, side=st.integers(8, 40), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=120)
def test_damage_is_a_function_of_its_seed(cell: tuple[str, int], side: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    before = image.copy()
    damaged = corrupt(image, *cell, (seed, 1))
    assert damaged.dtype == np.uint8
    assert damaged.shape == image.shape
    assert np.array_equal(damaged, corrupt(image, *cell, (seed, 1)))
    assert np.array_equal(image, before), "the image itself must stay as it was"


def test_there_are_enough_kinds_with_five_levels_each() -> None:
    assert len(CORRUPTIONS) >= 12
    assert all(len(row.levels) == len(SEVERITIES) == 5 for row in CORRUPTIONS.values())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_with_severity(name: str) -> None:
    images = [draw_texture(seed=seed) for seed in range(6)]

    def measure(severity: int) -> float:
        pairs = ((image, corrupt(image, name, severity, (seed,))) for seed, image in enumerate(images))
        return float(np.mean([np.abs(damaged.astype(int) - image).mean() for image, damaged in pairs]))

    damage = [measure(severity) for severity in SEVERITIES]
    # Any turn or shift decorrelates a fine texture: there it is the distance of the pixels that grows.
    rising = damage[:2] if name in ("rotation", "shift") else damage
    assert damage[0] > 0
    assert all(np.diff(rising) > 0), damage


@pytest.mark.parametrize("decibels", [50, 40, 30, 20])
def test_noise_has_the_ratio_that_it_is_asked_for(decibels: float) -> None:
    image = np.full((200, 200, 3), 120, np.uint8)
    noise = add_noise(image, decibels, np.random.default_rng(0)).astype(float) - 120
    # Rounding to whole levels adds 1/12 to the variance.
    expected = 120**2 / 10 ** (decibels / 10) + 1 / 12
    if decibels < 45:
        assert noise.var() == pytest.approx(expected, rel=0.05)
    assert (noise[..., 0] == noise[..., 2]).all()


def test_light_keeps_the_mean_and_changes_one_side_against_the_other() -> None:
    image = np.full((64, 64, 3), 100, np.uint8)
    damaged = corrupt(image, "uneven_light", 3, (0,)).astype(float)
    assert damaged.mean() == pytest.approx(100, abs=1)
    assert damaged.max() == pytest.approx(130, abs=2)
    assert damaged.min() == pytest.approx(70, abs=2)


def test_occlusion_covers_its_share_with_one_grey() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    damaged = corrupt(image, "occlusion", 5, (3,))
    changed = (damaged != image).any(axis=2)
    assert changed.mean() == pytest.approx(0.16, abs=0.02)
    assert len(np.unique(damaged[changed])) == 1


def test_bright_and_dark_move_the_level() -> None:
    image = np.full((32, 32, 3), 128, np.uint8)
    assert corrupt(image, "bright", 3, (0,)).mean() == pytest.approx(128 + 0.15 * 255, abs=0.6)
    assert corrupt(image, "dark", 3, (0,)).mean() == pytest.approx(128 - 0.15 * 255, abs=0.6)


@pytest.mark.parametrize("name", ["blur", "motion_blur", "defocus", "down_scaling"])
def test_blurs_smooth_and_keep_the_mean(name: str) -> None:
    image = draw_texture()
    damaged = corrupt(image, name, 4, (0,)).astype(float)
    assert damaged.mean() == pytest.approx(image.mean(), abs=1.5)
    assert np.abs(np.diff(damaged, axis=0)).mean() < 0.7 * np.abs(np.diff(image.astype(float), axis=0)).mean()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_grey_image_is_damaged_as_a_coloured_one(name: str) -> None:
    grey = draw_texture()
    damaged = corrupt(grey, name, 4, (3,))
    assert damaged.shape == grey.shape
    row = CORRUPTIONS[name]
    in_full = row.apply(grey, row.levels[3], np.random.default_rng((3,)))
    # Sums over one channel and over three differ in the last bit; a level may be rounded the other way.
    assert np.abs(damaged.astype(int) - in_full).max() <= 1

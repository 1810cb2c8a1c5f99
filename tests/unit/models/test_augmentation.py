"""Augmented views: a function of image, parameters and seed alone, and every parameter changes what it says."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.config import AugmentationParams
from metal_defects.models.augmentation import MILD, augment, augment_mask, make_mild

OFF = {
    "flip": False, "quarter_turns": False, "rotation_degrees": 0, "shift": 0, "zoom": 0,
    "brightness": 0, "contrast": 0, "blur_sigma": 0, "motion_blur": 0, "noise_sigma": 0, "occlusion": 0, "specks": 0,
}  # fmt: skip
AS_SHIPPED = AugmentationParams(
    flip=True, quarter_turns=True, rotation_degrees=10, shift=0.1, zoom=0.1,
    brightness=0.15, contrast=0.3, blur_sigma=2.0, motion_blur=8, noise_sigma=12.0, occlusion=0.1, specks=20,
)  # fmt: skip
GEOMETRY = ("flip", "quarter_turns", "rotation_degrees", "shift", "zoom")
SEEDS = [(42, 1, index) for index in range(40)]
seeds = st.tuples(*[st.integers(0, 2**31 - 1)] * 3)
sides = st.integers(2, 40)


def only(**changes: float | bool) -> AugmentationParams:
    return AugmentationParams(**OFF | changes)


def draw_image(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def draw_steps(side: int = 32) -> np.ndarray:
    """Grey stripes from 78 to 178: no change of light within the ranges used here clips them."""
    row = np.linspace(78, 178, side).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (side, side, 3)))


@given(side=sides, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_view_is_a_function_of_its_seed(side: int, seed: tuple[int, int, int]) -> None:
    image = draw_image(side)
    before = image.copy()
    view = augment(image, AS_SHIPPED, seed)
    assert view.dtype == np.uint8
    assert view.shape == (side, side, 3)
    assert np.array_equal(view, augment(image, AS_SHIPPED, seed))
    assert np.array_equal(image, before), "the image itself must stay as it was"


def test_seeds_give_different_views() -> None:
    image = draw_image(32)
    views = {augment(image, AS_SHIPPED, seed).tobytes() for seed in SEEDS}
    assert len(views) == len(SEEDS)


@given(side=sides, seed=seeds)
@settings(deadline=None, max_examples=40)
def test_without_any_change_the_view_is_the_image(side: int, seed: tuple[int, int, int]) -> None:
    image = draw_image(side)
    assert np.array_equal(augment(image, only(), seed), image)


@given(side=sides, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_flips_and_turns_keep_every_pixel(side: int, seed: tuple[int, int, int]) -> None:
    image = draw_image(side)
    view = augment(image, only(flip=True, quarter_turns=True), seed)
    assert sorted(map(tuple, view.reshape(-1, 3).tolist())) == sorted(map(tuple, image.reshape(-1, 3).tolist()))


@given(side=sides, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_a_mask_goes_where_its_image_goes(side: int, seed: tuple[int, int, int]) -> None:
    image = np.repeat(draw_image(side)[..., :1], 3, axis=2)
    moved = augment(image, only(**{name: getattr(AS_SHIPPED, name) for name in GEOMETRY}), seed)
    assert np.array_equal(augment_mask(image[..., :1], AS_SHIPPED, seed), moved[..., :1])


def test_flips_give_all_four_reflections_and_nothing_else() -> None:
    image = draw_image(8)
    expected = {np.ascontiguousarray(image[::y, ::x]).tobytes() for y, x in product((1, -1), repeat=2)}
    assert {augment(image, only(flip=True), seed).tobytes() for seed in SEEDS} == expected


def test_quarter_turns_give_all_four_and_nothing_else() -> None:
    image = draw_image(8)
    expected = {np.ascontiguousarray(np.rot90(image, turns)).tobytes() for turns in range(4)}
    assert {augment(image, only(quarter_turns=True), seed).tobytes() for seed in SEEDS} == expected


def test_brightness_moves_every_level_alike_within_its_bound() -> None:
    image = draw_steps()
    moves = []
    for seed in SEEDS:
        difference = augment(image, only(brightness=0.2), seed).astype(int) - image
        assert np.ptp(difference) <= 1
        moves.append(difference.mean())
    assert max(np.abs(moves)) <= 0.2 * 255 + 1
    assert min(moves) < -0.15 * 255 < 0.15 * 255 < max(moves)


def test_contrast_stretches_about_the_mean_within_its_bound() -> None:
    image = draw_steps()
    ratios = []
    for seed in SEEDS:
        view = augment(image, only(contrast=0.3), seed).astype(float)
        assert abs(view.mean() - image.mean()) < 1
        ratios.append(view.std() / image.std())
    assert 0.69 < min(ratios) < 0.8
    assert 1.2 < max(ratios) < 1.31


def test_noise_is_grey_and_within_its_bound() -> None:
    image = np.full((48, 48, 3), 128, np.uint8)
    deviations = []
    for seed in SEEDS:
        noise = augment(image, only(noise_sigma=10), seed).astype(int) - 128
        assert np.array_equal(noise[..., 0], noise[..., 1])
        assert np.array_equal(noise[..., 0], noise[..., 2])
        deviations.append(noise.std())
    assert max(deviations) < 11
    assert max(deviations) > 5
    assert 0 < sum(deviation == 0 for deviation in deviations) < len(SEEDS), "some views stay without noise"


def test_blur_smooths_and_keeps_the_mean() -> None:
    image = draw_image(48)
    deviations = []
    for seed in SEEDS:
        view = augment(image, only(blur_sigma=2), seed).astype(float)
        assert abs(view.mean() - image.mean()) < 2
        deviations.append(view.std())
    assert min(deviations) < 0.5 * image.std()
    assert max(deviations) == pytest.approx(image.std(), abs=0.5)


def test_motion_smears_along_one_direction_alone() -> None:
    image = draw_image(48)
    views = [augment(image, only(motion_blur=8), seed).astype(float) for seed in SEEDS]
    smeared = [view for view in views if not np.array_equal(view, image)]
    assert 3 < len(smeared) < len(SEEDS), "some views are smeared, the others stay sharp"
    assert all(abs(view.mean() - image.mean()) < 3 for view in smeared)
    contrasts = [[np.abs(np.diff(view, axis=axis)).mean() for axis in (0, 1)] for view in smeared]
    assert max(max(pair) / min(pair) for pair in contrasts) > 1.5


def test_occlusion_covers_no_more_than_its_share() -> None:
    image = np.full((60, 60, 3), 7, np.uint8)
    shares = [(augment(image, only(occlusion=0.2), seed) != 7).any(axis=2).mean() for seed in SEEDS]
    assert 0.1 < max(shares) < 0.23
    assert 0 < sum(share == 0 for share in shares) < len(SEEDS), "some views stay whole"


def test_specks_are_few_small_and_dark_or_light() -> None:
    image = np.full((224, 224, 3), 128, np.uint8)
    views = [augment(image, only(specks=20), seed) for seed in SEEDS]
    shares = [(view != 128).any(axis=2).mean() for view in views]
    assert 0 < max(shares) < 20 * 8**2 / 224**2
    assert min(view.min() for view in views) < 30
    assert max(view.max() for view in views) > 225


@pytest.mark.parametrize("change", [{"rotation_degrees": 30}, {"shift": 0.2}, {"zoom": 0.3}])
def test_movement_changes_the_picture_but_not_its_light(change: dict[str, float]) -> None:
    image = np.zeros((65, 65, 3), np.uint8) + 60
    image[20:45, 28:37] = 180
    views = [augment(image, only(**change), seed) for seed in SEEDS]
    moved = sum(not np.array_equal(view, image) for view in views)
    assert 5 < moved < len(SEEDS), "some views are moved, the others keep their pixels"
    assert all(view.min() >= 60 and view.max() <= 180 for view in views)


def test_rotation_keeps_the_centre_where_it_is() -> None:
    rows, columns = np.mgrid[:65, :65] - 32
    disc = np.where(rows**2 + columns**2 < 20**2, 200, 50).astype(np.uint8)[..., None].repeat(3, axis=2)
    for seed in SEEDS[:10]:
        difference = np.abs(augment(disc, only(rotation_degrees=45), seed).astype(int) - disc)
        assert (difference > 100).mean() < 0.01


def test_shift_is_within_its_share_of_the_side() -> None:
    image = np.zeros((101, 101, 3), np.uint8)
    image[48:53, 48:53] = 255
    moves = []
    for seed in SEEDS:
        light = augment(image, only(shift=0.2), seed)[..., 0].astype(float)
        rows, columns = np.mgrid[:101, :101]
        moves.append([(light * axis).sum() / light.sum() - 50 for axis in (rows, columns)])
    assert np.abs(moves).max() <= 0.2 * 101 + 0.5
    assert (np.ptp(moves, axis=0) > 20).all()


def test_zoom_is_within_its_bound() -> None:
    image = np.zeros((101, 101, 3), np.uint8)
    image[40:61, 40:61] = 255
    sides = [np.sqrt(augment(image, only(zoom=0.3), seed)[..., 0].mean() / 255) * 101 for seed in SEEDS]
    assert 0.68 * 21 < min(sides) < 0.85 * 21
    assert 1.15 * 21 < max(sides) < 1.32 * 21


@given(side=sides, seed=seeds, rotation=st.floats(0, 45), shift=st.floats(0, 0.5), zoom=st.floats(0, 0.5))
@settings(deadline=None, max_examples=150)
def test_no_view_shows_what_lies_outside_the_image(
    side: int, seed: tuple[int, int, int], rotation: float, shift: float, zoom: float
) -> None:
    plain = np.full((side, side, 3), 200, np.uint8)
    view = augment(plain, only(rotation_degrees=rotation, shift=shift, zoom=zoom), seed)
    assert (view == 200).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_grey_image_gets_the_view_that_its_channels_would_get(seed: tuple[int, int, int]) -> None:
    """All but one pixel grey: the long way through three channels."""
    grey = np.repeat(draw_image(32)[..., :1], 3, axis=2)
    tinted = grey.copy()
    tinted[16, 16, 0] ^= 1
    view, expected = (augment(image, AS_SHIPPED, seed).astype(int) for image in (grey, tinted))
    assert (view == view[..., :1]).all()
    difference = np.abs(view - expected)
    assert difference.max() <= 3
    assert (difference > 1).mean() < 0.01


def test_a_mild_view_moves_and_relights_but_hides_nothing() -> None:
    mild = make_mild(AS_SHIPPED)
    changed = {name for name in AugmentationParams.model_fields if getattr(mild, name) != getattr(AS_SHIPPED, name)}
    assert changed == set(MILD)
    image = np.full((32, 32, 3), 128, np.uint8)
    lightless = mild.model_copy(update={"brightness": 0.0, "contrast": 0.0})
    for seed in SEEDS:
        away = np.abs(augment(image, lightless, seed).astype(int) - 128)
        assert away.max() <= 6 * MILD["noise_sigma"] and away.mean() <= MILD["noise_sigma"]
    assert len({augment(draw_image(32), mild, seed).tobytes() for seed in SEEDS}) == len(SEEDS)


def test_a_mild_view_never_does_more_than_was_asked_for() -> None:
    asked = only(blur_sigma=0.3, noise_sigma=2.0, flip=True)
    assert make_mild(asked) == asked

"""Duplicates: copies are found through what cameras and exports do to them, look-alikes are not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter
from scipy.ndimage import gaussian_filter

from metal_defects.data.duplicates import (
    MAX_SHIFT,
    MIN_CORRELATION,
    ImagePrint,
    Match,
    correlate_shifted,
    find_matches,
    group_pairs,
    take_print,
)


def draw_texture(seed: int, side: int = 128, grain: float = 3.0) -> np.ndarray:
    """A rough surface in uneven light: textures of one grain and one light look alike."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.standard_normal((side, side)), grain)
    light = np.linspace(-30, 30, side)[:, None]
    grey = np.clip(128 + light + 25 * noise / noise.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def save_as_jpeg(pixels: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=50)
    return np.asarray(Image.open(stream))


def add_noise(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(9).normal(0, 5, pixels.shape[:2])
    return np.clip(pixels + noise[..., None], 0, 255).astype(np.uint8)


def filtered(change: Callable[[Image.Image], Image.Image]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: np.asarray(change(Image.fromarray(pixels)))


CHANGES = {
    "JPEG of quality 50": save_as_jpeg,
    "noise": add_noise,
    "half the size": filtered(lambda image: image.resize((64, 64), Image.Resampling.BILINEAR)),
    "other size": filtered(lambda image: image.resize((224, 224), Image.Resampling.BILINEAR)),
    "less contrast": filtered(lambda image: ImageEnhance.Contrast(image).enhance(0.7)),
    "darker": filtered(lambda image: ImageEnhance.Brightness(image).enhance(0.8)),
    "blurred": filtered(lambda image: image.filter(ImageFilter.GaussianBlur(1))),
    "other light": lambda pixels: np.clip(pixels + np.linspace(20, -20, 128)[None, :, None], 0, 255).astype(np.uint8),
}


def take_prints(*images: np.ndarray) -> list[ImagePrint]:
    return [take_print(pixels, str(index)) for index, pixels in enumerate(images)]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_near(change: str) -> None:
    textures = [draw_texture(seed) for seed in range(6)]
    prints = take_prints(*textures, CHANGES[change](textures[3]))
    assert [(match.first, match.second, match.kind) for match in find_matches(prints, "near")] == [(3, 6, "near")]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_and_reflected_copies(turns: int, mirrored: bool) -> None:
    textures = [draw_texture(seed) for seed in range(4)]
    turned = np.rot90(textures[1], turns)
    copy = save_as_jpeg(np.ascontiguousarray(turned[:, ::-1] if mirrored else turned))
    matches = find_matches(take_prints(*textures, copy), "near")
    expected = "turned" if turns or mirrored else "near"
    assert [(match.first, match.second, match.kind) for match in matches] == [(1, 4, expected)]


def test_textures_that_look_alike_are_no_copies() -> None:
    prints = take_prints(*(draw_texture(seed, grain=grain) for grain in (1, 3, 8) for seed in range(40)))
    assert find_matches(prints, "near") == []


def test_equal_files_and_equal_pixels() -> None:
    one, other = draw_texture(1), draw_texture(2)
    prints = [take_print(one, "a"), take_print(other, "b"), take_print(one, "a"), take_print(one, "c")]
    expected = [Match(0, 2, "file", 1.0), Match(0, 3, "pixels", 1.0)]
    assert find_matches(prints, "exact") == find_matches(prints, "near") == expected
    assert find_matches(prints, "off") == []


def test_equal_bytes_in_another_shape_are_other_pixels() -> None:
    wide, high = np.zeros((32, 64, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)
    assert find_matches(take_prints(wide, high), "exact") == []


def test_exact_does_not_look_for_near_copies() -> None:
    texture = draw_texture(1)
    assert find_matches(take_prints(texture, save_as_jpeg(texture)), "exact") == []


def test_blank_images_are_no_near_copies_of_each_other() -> None:
    prints = take_prints(*(np.full((64, 64, 3), level, np.uint8) for level in range(0, 250, 2)))
    assert find_matches(prints, "near") == []


def test_correlation_finds_the_shift() -> None:
    large = take_print(draw_texture(5, side=80, grain=1), "").structure
    big = 100 * gaussian_filter(np.random.default_rng(0).standard_normal((80, 80)), 1.5)
    for dy, dx in ((0, 0), (3, -2), (-MAX_SHIFT, MAX_SHIFT)):
        one, other = big[8:72, 8:72], big[8 + dy : 72 + dy, 8 + dx : 72 + dx]
        assert correlate_shifted(one - one.mean(), other - other.mean()) == pytest.approx(1, abs=0.02)
    far = big[:64, :64]
    assert correlate_shifted(big[16:, 16:] - big[16:, 16:].mean(), far - far.mean()) < MIN_CORRELATION
    assert correlate_shifted(large, large) == pytest.approx(1, abs=1e-5)
    assert correlate_shifted(large, -large) < MIN_CORRELATION
    assert correlate_shifted(large, np.zeros_like(large)) == 0


PAIRS = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)).filter(lambda pair: pair[0] < pair[1]), max_size=30)


@given(PAIRS)
def test_groups_are_the_connected_images_named_by_the_smallest(pairs: list[tuple[int, int]]) -> None:
    groups = group_pairs(20, pairs)
    expected = list(range(20))
    for _ in range(20):
        for first, second in pairs:
            expected[first] = expected[second] = min(expected[first], expected[second])
    assert groups == expected

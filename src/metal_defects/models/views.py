"""Augmented views of training images, seeded per image."""

import numpy as np
from PIL import Image, ImageFilter

from metal_defects.config import AugmentationParams


def augment(image: np.ndarray, params: AugmentationParams, seed: tuple[int, ...]) -> np.ndarray:
    """One random view of an image.

    Args:
        image: uint8 (side, side, 3).
        params: which changes, and how large at most.
        seed: the view is a function of this, the image and the parameters alone.

    Returns:
        uint8 (side, side, 3).
    """
    random = np.random.default_rng(seed)
    if params.quarter_turns:
        image = np.rot90(image, random.integers(4))
    if params.flip:
        image = image[:: random.choice((-1, 1)), :: random.choice((-1, 1))]
    # Interpolation blurs: a network that saw blurred textures only misreads sharp ones, so half keep their pixels.
    moves = (params.rotation_degrees or params.shift or params.zoom) and random.random() < 0.5
    picture = _move(image, params, random) if moves else Image.fromarray(np.ascontiguousarray(image))
    if params.blur_sigma and random.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0, params.blur_sigma)))
    contrast = 1 + random.uniform(-1, 1) * params.contrast
    brightness = random.uniform(-1, 1) * params.brightness * 255
    noise_sigma = random.uniform(0, params.noise_sigma) if random.random() < 0.5 else 0.0
    return _relight(np.asarray(picture), contrast, brightness, noise_sigma, random)


def _move(image: np.ndarray, params: AugmentationParams, random: np.random.Generator) -> Image.Image:
    """Rotate, zoom and shift about the centre; the border is mirrored."""
    side = image.shape[0]
    angle = np.deg2rad(random.uniform(-1, 1) * params.rotation_degrees)
    zoom = 1 + random.uniform(-1, 1) * params.zoom
    shift = random.uniform(-1, 1, 2) * params.shift * side
    cosine, sine, centre = np.cos(angle) / zoom, np.sin(angle) / zoom, (side - 1) / 2
    reach = (abs(cosine) + abs(sine)) * (centre + np.abs(shift).max()) - centre
    margin = max(int(np.ceil(reach)), 0) + 1
    mirrored = Image.fromarray(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect"))
    # PIL wants, for every output pixel, where it comes from in the input.
    x = margin + centre - cosine * (centre + shift[0]) + sine * (centre + shift[1])
    y = margin + centre - sine * (centre + shift[0]) - cosine * (centre + shift[1])
    matrix = (cosine, -sine, x, sine, cosine, y)
    return mirrored.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _relight(
    image: np.ndarray, contrast: float, brightness: float, noise_sigma: float, random: np.random.Generator
) -> np.ndarray:
    """Contrast about the mean, then brightness, then sensor noise common to the three channels."""
    levels = image.astype(np.float32)
    levels = (levels - levels.mean()) * contrast + levels.mean() + brightness
    if noise_sigma:
        levels += random.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * noise_sigma
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)

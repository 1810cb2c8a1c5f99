"""Augmented views of training images, seeded per image."""

import numpy as np
from PIL import Image, ImageFilter

from metal_defects.config import AugmentationParams

# What a careful camera does to a picture by itself: nothing that hides or smears a small defect.
MILD = {"blur_sigma": 0.8, "noise_sigma": 5.0, "motion_blur": 0.0, "occlusion": 0.0, "specks": 0}


def make_mild(params: AugmentationParams) -> AugmentationParams:
    """The same turns, shifts and light with hardly any blur and noise, and without damage."""
    return params.model_copy(update={name: min(getattr(params, name), most) for name, most in MILD.items()})


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
    # Grey images, the usual case, have three equal channels: working on one of them is three times as fast.
    is_grey = all(np.array_equal(image[..., 0], image[..., channel]) for channel in (1, 2))
    view = _draw_view(np.ascontiguousarray(image[..., :1]) if is_grey else image, params, random)
    return np.repeat(view, 3, axis=2) if is_grey else view


def augment_mask(mask: np.ndarray, params: AugmentationParams, seed: tuple[int, ...]) -> np.ndarray:
    """A mask of an image, as `augment` turns, mirrors and moves the image with the same seed.

    Input and output shape: uint8 (side, side, 1).
    """
    return _rearrange(mask, params, np.random.default_rng(seed))


def _draw_view(image: np.ndarray, params: AugmentationParams, random: np.random.Generator) -> np.ndarray:
    """A view of uint8 (side, side, channels), of the same shape."""
    # First, so that a mask can go the same way.
    image = _rearrange(image, params, random)
    kind = random.random()
    if params.blur_sigma and kind < 0.25:
        blur = ImageFilter.GaussianBlur(random.uniform(0, params.blur_sigma))
        image = np.asarray(_to_picture(image).filter(blur)).reshape(image.shape)
    elif params.motion_blur > 1 and kind > 0.75:
        image = blur_by_motion(image, random.uniform(1, params.motion_blur), random)
    contrast = 1 + random.uniform(-1, 1) * params.contrast
    brightness = random.uniform(-1, 1) * params.brightness * 255
    noise_sigma = random.uniform(0, params.noise_sigma) if random.random() < 0.4 else 0.0
    image = _relight(image, contrast, brightness, noise_sigma, random)
    if params.occlusion and random.random() < 0.3:
        image = cover_part(image, random.uniform(0, params.occlusion), random)
    if params.specks and random.random() < 0.3:
        image = add_specks(image, int(random.integers(1, params.specks, endpoint=True)), random)
    return image


def blur_by_motion(image: np.ndarray, length: float, random: np.random.Generator) -> np.ndarray:
    """The smear of `length` pixels in a random direction.

    Input and output shape: uint8 (side, side, channels).
    """
    angle, reach = random.uniform(0, np.pi), int(np.ceil(length / 2))
    along = np.linspace(-(length - 1) / 2, (length - 1) / 2, 4 * int(np.ceil(length)), dtype=np.float32)
    cells = np.arange(-reach, reach + 1, dtype=np.float32)[:, None]
    # Every point of the path is shared among the four pixels around it.
    rows, columns = (np.maximum(1 - np.abs(cells - along * part), 0) for part in (np.sin(angle), np.cos(angle)))
    kernel = rows @ columns.T
    return convolve(image, kernel)


def cover_part(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """A plain rectangle of a random grey that covers `share` of the area: a label, a finger, a drop.

    Input and output shape: uint8 (side, side, channels).
    """
    side, aspect = image.shape[0], random.uniform(0.5, 2)
    height, width = (min(side, max(1, round(side * np.sqrt(share * part)))) for part in (aspect, 1 / aspect))
    top, left = random.integers(side - height + 1), random.integers(side - width + 1)
    covered = image.copy()
    covered[top : top + height, left : left + width] = random.integers(256)
    return covered


def add_specks(image: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Dark and light specks, up to 3 pixels in radius at 224 px: dust on the lens or on the sheet.

    Input and output shape: uint8 (side, side, channels).
    """
    side = image.shape[0]
    reach = int(np.ceil(3 * side / 224)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    levels = np.pad(image.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)))
    for _ in range(count):
        row, column = random.uniform(0, side, 2)
        radius, level = random.uniform(0.8, 3) * side / 224, random.choice((10, 245))
        top, left = int(row), int(column)
        opacity = np.clip(radius + 0.5 - np.hypot(y + top - row, x + left - column), 0, 1)[..., None]
        window = levels[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        window += opacity * (level - window)
    return to_pixels(levels[reach:-reach, reach:-reach])


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolution with a small symmetric kernel, brought to a sum of 1; the border is mirrored.

    Args:
        image: uint8 (side, side, channels).
        kernel: float32 (2 * reach + 1, 2 * reach + 1), not negative.
    """
    side, reach = image.shape[0], kernel.shape[0] // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric").astype(np.float32)
    total = np.zeros(image.shape, np.float32)
    for row, column in np.argwhere(kernel):
        total += kernel[row, column] * padded[row : row + side, column : column + side]
    return to_pixels(total / kernel.sum())


def to_pixels(levels: np.ndarray) -> np.ndarray:
    """Grey levels as uint8, those outside the range cut off."""
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _to_picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _rearrange(image: np.ndarray, params: AugmentationParams, random: np.random.Generator) -> np.ndarray:
    """Turn, mirror and move, without a change of light or any damage."""
    if params.quarter_turns:
        image = np.rot90(image, int(random.integers(4)))
    if params.flip:
        image = image[:: random.choice((-1, 1)), :: random.choice((-1, 1))]
    # Interpolation blurs: a network that saw blurred textures only misreads sharp ones, so half keep their pixels.
    moves = (params.rotation_degrees or params.shift or params.zoom) and random.random() < 0.5
    return _move(image, params, random) if moves else np.ascontiguousarray(image)


def _move(image: np.ndarray, params: AugmentationParams, random: np.random.Generator) -> np.ndarray:
    """Rotate, zoom and shift about the centre; the border is mirrored."""
    side = image.shape[0]
    angle = np.deg2rad(random.uniform(-1, 1) * params.rotation_degrees)
    zoom = 1 + random.uniform(-1, 1) * params.zoom
    shift = random.uniform(-1, 1, 2) * params.shift * side
    cosine, sine, centre = np.cos(angle) / zoom, np.sin(angle) / zoom, (side - 1) / 2
    reach = (abs(cosine) + abs(sine)) * (centre + np.abs(shift).max()) - centre
    margin = max(int(np.ceil(reach)), 0) + 1
    mirrored = _to_picture(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect"))
    # PIL wants, for every output pixel, where it comes from in the input.
    x = margin + centre - cosine * (centre + shift[0]) + sine * (centre + shift[1])
    y = margin + centre - sine * (centre + shift[0]) - cosine * (centre + shift[1])
    matrix = (cosine, -sine, x, sine, cosine, y)
    moved = mirrored.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(moved).reshape(image.shape)


def _relight(
    image: np.ndarray, contrast: float, brightness: float, noise_sigma: float, random: np.random.Generator
) -> np.ndarray:
    """Contrast about the mean, then brightness, then sensor noise common to all channels."""
    levels = image.astype(np.float32)
    levels = (levels - levels.mean()) * contrast + levels.mean() + brightness
    if noise_sigma:
        levels += random.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * noise_sigma
    return to_pixels(levels)

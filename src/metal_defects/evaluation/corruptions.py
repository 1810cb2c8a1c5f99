"""What goes wrong between a surface and its image: one table of seeded corruptions, five severities each."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from metal_defects.models.augmentation import add_specks, blur_by_motion, convolve, cover_part, to_pixels

SEVERITIES = (1, 2, 3, 4, 5)
Apply = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Corruption:
    """One kind of damage.

    Attributes:
        name: in tables and plots.
        unit: of the levels.
        levels: one for each severity, mild to severe.
        apply: uint8 (side, side, 3), or (side, side, 1) of a grey image, a level and a random generator to uint8 of
            the same shape; leaves the input alone.
    """

    name: str
    unit: str
    levels: tuple[float, float, float, float, float]
    apply: Apply


def corrupt(image: np.ndarray, name: str, severity: int, seed: tuple[int, ...]) -> np.ndarray:
    """One damaged copy of an image.

    Args:
        image: uint8 (side, side, 3).
        name: a row of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: the result is a function of this and the other arguments alone.

    Returns:
        uint8 (side, side, 3).
    """
    row = CORRUPTIONS[name]
    # Most surfaces are grey: three equal channels would cost three times the work for the same answer.
    is_grey = (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all()
    damaged = row.apply(image[..., :1] if is_grey else image, row.levels[severity - 1], np.random.default_rng(seed))
    return np.repeat(damaged, 3, axis=2) if is_grey else damaged


def _edit(image: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """What Pillow makes of an image with one channel or three."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    changed = np.asarray(change(picture))
    return changed.reshape(*changed.shape[:2], -1)


def add_noise(image: np.ndarray, decibels: float, random: np.random.Generator) -> np.ndarray:
    """Gaussian sensor noise of a given signal-to-noise ratio, common to the three channels.

    SNR = 10 log10(mean(x²) / σ²) over the grey levels x of this image: the power of the signal as it is, as measured by
    the usual simulators of white noise. An image of mean level 128 gets σ of about 4 levels at 30 dB and 13 at 20 dB.
    The weaker definition, by the variance of x, would give it about a fifth of that.

    Args:
        image: uint8 (side, side, 3).
        decibels: smaller is noisier.
        random: source of the noise.
    """
    levels = image.astype(np.float32)
    sigma = np.sqrt(np.mean(levels**2) / 10 ** (decibels / 10))
    return to_pixels(levels + random.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * sigma)


def _add_dead_pixels(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    damaged = image.copy()
    hit = random.random(image.shape[:2]) < share
    damaged[hit] = random.choice(np.array([0, 255], np.uint8), hit.sum())[:, None]
    return damaged


def _blur(image: np.ndarray, sigma: float, _: np.random.Generator) -> np.ndarray:
    return _edit(image, lambda picture: picture.filter(ImageFilter.GaussianBlur(sigma)))


def _defocus(image: np.ndarray, radius: float, _: np.random.Generator) -> np.ndarray:
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    # A pixel on the rim counts by the share of it that the disc covers, roughly.
    return convolve(image, np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32))


def _brighten(image: np.ndarray, share: float, _: np.random.Generator) -> np.ndarray:
    return to_pixels(image.astype(np.float32) + 255 * share)


def _darken(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    return _brighten(image, -share, random)


def _change_contrast(image: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    levels = image.astype(np.float32)
    return to_pixels((levels - levels.mean()) * factor + levels.mean())


def _light_unevenly(image: np.ndarray, amplitude: float, random: np.random.Generator) -> np.ndarray:
    """Light that falls from 1 + amplitude on one side to 1 - amplitude on the other, in a random direction."""
    side, angle = image.shape[0], random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:side, :side].astype(np.float32) * (2 / max(side - 1, 1)) - 1
    ramp = (x * np.cos(angle) + y * np.sin(angle)) / (abs(np.cos(angle)) + abs(np.sin(angle)))
    return to_pixels(image * (1 + amplitude * ramp[..., None]))


def _compress(image: np.ndarray, quality: float, _: np.random.Generator) -> np.ndarray:
    def store(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(quality))
        return Image.open(buffer)

    return _edit(image, store)


def _downscale(image: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    side, small = image.shape[0], max(1, round(image.shape[0] * factor))
    bilinear = Image.Resampling.BILINEAR
    return _edit(image, lambda picture: picture.resize((small, small), bilinear).resize((side, side), bilinear))


def _rotate(image: np.ndarray, degrees: float, random: np.random.Generator) -> np.ndarray:
    side, margin = image.shape[0], image.shape[0] // 2
    mirrored = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    angle = degrees * random.choice((-1, 1))
    turned = _edit(mirrored, lambda picture: picture.rotate(angle, Image.Resampling.BILINEAR))
    return turned[margin : margin + side, margin : margin + side].copy()


def _shift(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    side, angle = image.shape[0], random.uniform(0, 2 * np.pi)
    rows, columns = (round(share * side * part) for part in (np.sin(angle), np.cos(angle)))
    margin = max(abs(rows), abs(columns))
    mirrored = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    return mirrored[margin + rows : margin + rows + side, margin + columns : margin + columns + side].copy()


def _add_dust(image: np.ndarray, count: float, random: np.random.Generator) -> np.ndarray:
    return add_specks(image, int(count), random)


# Severity 3 is what a line may show on a bad day; 5 is where a person begins to doubt.
CORRUPTIONS: dict[str, Corruption] = {
    row.name: row
    for row in (
        Corruption("gaussian_noise", "dB SNR", (50, 40, 30, 25, 20), add_noise),
        Corruption("dead_pixels", "share of pixels", (0.0005, 0.001, 0.002, 0.005, 0.01), _add_dead_pixels),
        Corruption("blur", "px sigma", (0.5, 0.8, 1.2, 1.6, 2.0), _blur),
        Corruption("motion_blur", "px length", (2, 4, 6, 9, 12), blur_by_motion),
        Corruption("defocus", "px radius", (0.7, 1.2, 1.8, 2.4, 3.0), _defocus),
        Corruption("bright", "share of the range", (0.05, 0.1, 0.15, 0.2, 0.25), _brighten),
        Corruption("dark", "share of the range", (0.05, 0.1, 0.15, 0.2, 0.25), _darken),
        Corruption("low_contrast", "factor", (0.9, 0.75, 0.6, 0.5, 0.4), _change_contrast),
        Corruption("high_contrast", "factor", (1.1, 1.25, 1.4, 1.6, 1.8), _change_contrast),
        Corruption("uneven_light", "amplitude", (0.1, 0.2, 0.3, 0.4, 0.5), _light_unevenly),
        Corruption("jpeg", "quality", (80, 60, 40, 25, 15), _compress),
        Corruption("down_scaling", "factor", (0.8, 0.65, 0.5, 0.4, 0.3), _downscale),
        Corruption("rotation", "degrees", (2, 5, 10, 15, 25), _rotate),
        Corruption("shift", "share of the side", (0.03, 0.06, 0.1, 0.15, 0.2), _shift),
        Corruption("occlusion", "share of the area", (0.02, 0.04, 0.07, 0.11, 0.16), cover_part),
        Corruption("dust", "specks", (4, 8, 15, 25, 40), _add_dust),
    )
}

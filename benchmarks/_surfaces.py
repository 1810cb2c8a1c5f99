"""Surfaces that no steel mill makes: photographs that come with libraries, and drawn textures."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 200
CROPS = 24
PER_KIND = 40
KINDS = (
    "checker", "stripes", "grating", "gradient", "rings", "flat", "white noise", "salt and pepper", "fractal noise",
    "blobs", "dots", "shapes",
)  # fmt: skip
# Photographs in the package itself; its other pictures would have to be downloaded.
SKIMAGE_FILES = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "microaneurysms.png", "moon.png",
    "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip


def find_photographs() -> dict[str, np.ndarray]:
    """uint8 (H, W, 3) by name, from scikit-learn and, where it is installed, scikit-image."""
    from sklearn.datasets import load_sample_images

    samples = load_sample_images()
    found = {Path(name).stem: np.asarray(image) for name, image in zip(samples.filenames, samples.images, strict=True)}
    spec = importlib.util.find_spec("skimage")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0], "data")
        for name in SKIMAGE_FILES:
            if (folder / name).exists():
                found[Path(name).stem] = np.asarray(Image.open(folder / name).convert("RGB"))
    return found


def cut_photographs() -> list[np.ndarray]:
    """Every photograph whole and in overlapping squares, each in colour and in grey as the mills' cameras see it."""
    pieces = []
    for image in find_photographs().values():
        height, width = image.shape[:2]
        rows, columns = (range(0, side - SIDE + 1, SIDE // 2) for side in (height, width))
        corners = [(y, x) for y in rows for x in columns]
        chosen = sorted(set(np.linspace(0, len(corners) - 1, CROPS).round().astype(int).tolist())) if corners else []
        pieces += [image, *(image[y : y + SIDE, x : x + SIDE] for y, x in (corners[index] for index in chosen))]
    return [*pieces, *(np.asarray(Image.fromarray(piece).convert("L").convert("RGB")) for piece in pieces)]


def draw_textures() -> Iterator[tuple[str, np.ndarray]]:
    """PER_KIND textures of each of KINDS, uint8 (SIDE, SIDE, 3), grey, with random sizes, angles and levels."""
    for number, kind in enumerate(KINDS):
        for index in range(PER_KIND):
            yield kind, draw_texture(kind, np.random.default_rng((7, number, index)))


def draw_texture(kind: str, random: np.random.Generator) -> np.ndarray:
    """One texture, uint8 (SIDE, SIDE, 3)."""
    if kind == "shapes":
        return _draw_shapes(random)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle = random.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind == "checker":
        count = random.integers(3, 20)
        levels = (np.floor(x * count) + np.floor(y * count)) % 2
    elif kind == "stripes":
        levels = np.sin(2 * np.pi * along * random.uniform(3, 40)) > random.uniform(-0.7, 0.7)
    elif kind == "grating":
        levels = (np.sin(2 * np.pi * along * random.uniform(2, 50)) + 1) / 2
    elif kind == "gradient":
        levels = (along - along.min()) / np.ptp(along)
    elif kind == "rings":
        levels = np.hypot(x - random.uniform(), y - random.uniform())
    elif kind == "flat":
        levels = np.full((SIDE, SIDE), random.uniform())
    elif kind == "white noise":
        levels = random.standard_normal((SIDE, SIDE)) * random.uniform(0.05, 0.4) + 0.5
    elif kind == "salt and pepper":
        levels = random.random((SIDE, SIDE)) < random.uniform(0.02, 0.5)
    elif kind == "fractal noise":
        levels = _draw_fractal(random, random.uniform(0.5, 2))
    elif kind == "blobs":
        levels = _draw_fractal(random, 1.5) > random.uniform(0.3, 0.7)
    else:
        count = random.integers(4, 20)
        levels = np.hypot(x * count % 1 - 0.5, y * count % 1 - 0.5) < random.uniform(0.1, 0.45)
    low, high = (0.0, 255.0) if kind == "flat" else np.sort(random.uniform(0, 255, 2))
    if high - low < 30:
        low, high = max(0.0, low - 30), min(255.0, high + 30)
    grey = np.clip(np.rint(low + (high - low) * levels.astype(float)), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _draw_fractal(random: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power of `slope`, from 0 to 1."""
    frequencies = np.fft.fftfreq(SIDE)
    radius = np.hypot(*np.meshgrid(frequencies, frequencies))
    radius[0, 0] = 1 / SIDE
    noise = np.real(np.fft.ifft2(np.fft.fft2(random.standard_normal((SIDE, SIDE))) / radius**slope))
    return (noise - noise.min()) / np.ptp(noise)


def _draw_shapes(random: np.random.Generator) -> np.ndarray:
    image = Image.new("L", (SIDE, SIDE), int(random.integers(256)))
    pencil = ImageDraw.Draw(image)
    for _ in range(random.integers(5, 40)):
        low, high = np.sort(random.integers(0, SIDE, (2, 2)), axis=0)
        draw = (pencil.rectangle, pencil.ellipse)[random.integers(2)]
        draw([*low.tolist(), *high.tolist()], fill=int(random.integers(256)))
    return np.asarray(image.convert("RGB"))

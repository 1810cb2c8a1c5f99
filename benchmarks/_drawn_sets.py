"""Twenty drawn data sets, each hard in its own way: few images, rare classes, tiny or smooth defects, wrong labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np
from PIL import Image

from metal_defects.data.synthetic import NEU_CLASSES, draw_image

# One image of the test part is half a point; a class that is rare in training is tested on a few at least.
TEST_IMAGES, FEWEST_TESTED = 200, 5
SQUARE = ((224, 224),)
# Sizes of parts as they are cut out of larger pictures, height and width.
PARTS = ((105, 283), (283, 105), (180, 240), (240, 180), (224, 224), (320, 320), (516, 388), (388, 516))
STRIPS = ((96, 480), (480, 96), (128, 384), (384, 128))
GOOD = "good"
Draw = Callable[[np.random.Generator, str], np.ndarray]


@dataclass(frozen=True)
class DrawnSet:
    """A set to draw.

    Attributes:
        name: of its folder.
        counts: training images of each class.
        draw: an image of a class, grey levels, (H, W) or (H, W, 3).
        wrong_labels: share of the training images that lie in the folder of another class; of the test images, none.
    """

    name: str
    counts: Mapping[str, int]
    draw: Draw
    wrong_labels: float = 0.0

    @property
    def test_counts(self) -> dict[str, int]:
        """Test images of each class, in the proportions of the training part."""
        total = sum(self.counts.values())
        return {name: max(FEWEST_TESTED, round(TEST_IMAGES * count / total)) for name, count in self.counts.items()}


@dataclass(frozen=True)
class Planned:
    """An image to draw: its part, its running number there, the class that it shows and the folder that it gets."""

    part: Literal["train", "test"]
    number: int
    shown: str
    folder: str

    @property
    def path(self) -> str:
        """Below the root of the set."""
        return f"{self.part}/{self.folder}/{self.number:04d}.png"


def plan_set(drawn: DrawnSet, seed: int) -> list[Planned]:
    """Every image of a set; with the same seed the same ones get a wrong folder."""
    classes = list(drawn.counts)
    train = [name for name, count in drawn.counts.items() for _ in range(count)]
    test = [name for name, count in drawn.test_counts.items() for _ in range(count)]
    random, folders = np.random.default_rng(seed), list(train)
    for index in random.choice(len(train), round(drawn.wrong_labels * len(train)), replace=False):
        folders[index] = str(random.choice([name for name in classes if name != train[index]]))
    planned = [Planned("train", number, *pair) for number, pair in enumerate(zip(train, folders, strict=True))]
    return planned + [Planned("test", number, name, name) for number, name in enumerate(test)]


def write_set(root: Path, drawn: DrawnSet, seed: int = 0) -> None:
    """Draw a set as {train,test}/<class>/<number>.png; an image depends on the seed, set, part and number alone."""
    for one in plan_set(drawn, seed):
        random = np.random.default_rng([seed, crc32(drawn.name.encode()), one.part == "test", one.number])
        target = root / one.path
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(np.rint(drawn.draw(random, one.shown)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(target, compress_level=1)


# --- what is drawn ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """A textured surface with at most one defect on it, anywhere, in any direction.

    Attributes:
        size: of the defect in pixels, from and to.
        contrast: of the defect in grey levels, from and to; dark.
        grain: standard deviation of the texture in grey levels.
        noise: of the sensor, likewise.
        shapes: heights and widths to choose from.
        coloured: share of the images with a tint.
    """

    size: tuple[float, float] = (25, 70)
    contrast: tuple[float, float] = (40, 90)
    grain: float = 10
    noise: float = 2
    shapes: tuple[tuple[int, int], ...] = SQUARE
    coloured: float = 0

    def __call__(self, random: np.random.Generator, kind: str) -> np.ndarray:
        """An image with a defect of this kind, a key of `MARKS`; none where it is GOOD."""
        shape = self.shapes[random.integers(len(self.shapes))]
        levels = random.uniform(90, 180) + self.grain * _draw_texture(random, shape, (1.5, 1.5), 0)
        levels += self.grain * _draw_texture(random, shape, (25, 25), 0)
        if kind != GOOD:
            mark = _draw_mark(random, shape, kind, random.uniform(*self.size))
            levels = levels - random.uniform(*self.contrast) * mark
        levels = levels + self.noise * random.standard_normal(shape)
        if random.random() < self.coloured:
            levels = levels[..., None] * random.uniform(0.7, 1.2, 3)
        return levels


def draw_weave(random: np.random.Generator, kind: str) -> np.ndarray:
    """A texture that fills the picture; the number at the end of `kind` is its scale, its stretch and its contrast."""
    return _draw_woven(random, kind, random.normal(0, 5))


def draw_turned_weave(random: np.random.Generator, kind: str) -> np.ndarray:
    """The same in any direction."""
    return _draw_woven(random, kind, random.uniform(0, 180))


def _draw_woven(random: np.random.Generator, kind: str, degrees: float) -> np.ndarray:
    own = np.random.default_rng(int(kind.split("_")[-1]))
    fine = own.uniform(0.7, 5) * random.uniform(0.9, 1.1)
    stretch, contrast, turn = own.uniform(1, 6), own.uniform(8, 30), own.uniform(0, 180)
    woven = _draw_texture(random, SQUARE[0], (fine * stretch, fine), turn + degrees)
    if own.random() < 0.5:
        woven = np.maximum(woven, _draw_texture(random, SQUARE[0], (fine * stretch, fine), turn + degrees + 90))
    return random.uniform(90, 180) + contrast * random.uniform(0.8, 1.2) * woven


def draw_steel(random: np.random.Generator, kind: str) -> np.ndarray:
    """One of the six steel textures of the synthetic set."""
    return draw_image(kind, random)[0]


def draw_noisy_steel(random: np.random.Generator, kind: str) -> np.ndarray:
    """The same under sensor noise that is as strong as the texture."""
    return draw_steel(random, kind) + random.uniform(15, 30) * random.standard_normal((200, 200))


def draw_stain(random: np.random.Generator, kind: str) -> np.ndarray:
    """A large soft stain whose colour alone tells its class."""
    tints = {"rust": (0.95, 0.75, 0.6), "oil": (0.85, 0.85, 0.6), "heat": (0.7, 0.75, 0.95), GOOD: (1, 1, 1)}
    surface = random.uniform(120, 190) + 6 * _draw_texture(random, SQUARE[0], (1, 8), random.uniform(0, 180))
    where = _step(_draw_texture(random, SQUARE[0], (30, 30), 0) - random.uniform(0, 0.8), 0.3)[..., None]
    return surface[..., None] * (1 - where * (1 - np.array(tints[kind]) * random.uniform(0.9, 1)))


# --- brushes ---------------------------------------------------------------------------------


def _draw_texture(
    random: np.random.Generator, shape: tuple[int, int], grain: tuple[float, float], degrees: float
) -> np.ndarray:
    """Gaussian noise of unit variance, smoothed over `grain` pixels along a direction and across; it wraps around."""
    down, right = np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1]), indexing="ij")
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    along, across = right * cosine + down * sine, down * cosine - right * sine
    response = np.exp(-2 * np.pi**2 * ((grain[0] * along) ** 2 + (grain[1] * across) ** 2))
    smooth = np.fft.irfft2(np.fft.rfft2(random.standard_normal(shape)) * response, s=shape)
    scaled: np.ndarray = (smooth - smooth.mean()) / smooth.std()
    return scaled


def _draw_mark(random: np.random.Generator, shape: tuple[int, int], kind: str, size: float) -> np.ndarray:
    """A defect of `size` pixels somewhere inside, turned at random; at most 1, (H, W)."""
    margin = min(size / 2, min(shape) / 4)
    y, x = (np.arange(side) - random.uniform(margin, side - margin) for side in shape)
    y, x = np.meshgrid(y, x, indexing="ij")
    angle = random.uniform(0, np.pi)
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / size, (y * np.cos(angle) - x * np.sin(angle)) / size
    return MARKS[kind](u, v, 0.7 / size)


def _step(values: np.ndarray, softness: float) -> np.ndarray:
    """0 well below zero, 1 well above."""
    steps: np.ndarray = 1 / (1 + np.exp(-np.clip(values / softness, -40, 40)))
    return steps


def _spot(u: np.ndarray, v: np.ndarray, soft: float) -> np.ndarray:
    return _step(0.5 - np.hypot(u, v), soft)


def _ring(u: np.ndarray, v: np.ndarray, soft: float) -> np.ndarray:
    return _step(0.1 - abs(np.hypot(u, v) - 0.4), soft)


def _line(u: np.ndarray, v: np.ndarray, soft: float) -> np.ndarray:
    return _step(0.06 - abs(v), soft) * _step(0.5 - abs(u), soft)


def _double(u: np.ndarray, v: np.ndarray, soft: float) -> np.ndarray:
    return _line(u, v - 0.12, soft) + _line(u, v + 0.12, soft)


def _cross(u: np.ndarray, v: np.ndarray, soft: float) -> np.ndarray:
    return np.maximum(_line(u, v, soft), _line(v, u, soft))


def _glint(u: np.ndarray, v: np.ndarray, soft: float) -> np.ndarray:
    return -_spot(u, v, soft)


def _dent(u: np.ndarray, v: np.ndarray, _soft: float) -> np.ndarray:
    return 4 * v * np.exp(-6 * (u**2 + v**2))


def _bulge(u: np.ndarray, v: np.ndarray, _soft: float) -> np.ndarray:
    return -np.exp(-6 * (u**2 + v**2))


def _wave(u: np.ndarray, v: np.ndarray, _soft: float) -> np.ndarray:
    return np.sin(2 * np.pi * v) * np.exp(-(u**2) - v**2)


# Coordinates along and across the defect, in units of its size, and how soft its edge is, likewise.
MARKS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "spot": _spot,
    "ring": _ring,
    "line": _line,
    "double": _double,
    "cross": _cross,
    "glint": _glint,
    "dent": _dent,
    "bulge": _bulge,
    "wave": _wave,
}


# --- the sets --------------------------------------------------------------------------------


def _each(names: tuple[str, ...], count: int) -> dict[str, int]:
    return dict.fromkeys(names, count)


_KINDS = ("spot", "ring", "line", "cross")
_WEAVES = tuple(f"weave_{number:02d}" for number in range(20))
_SMOOTH = Scene(size=(150, 300), contrast=(25, 50), grain=6)

DRAWN_SETS = (
    DrawnSet("few_textures", _each(NEU_CLASSES, 8), draw_steel),
    DrawnSet("few_defects", _each(_KINDS, 8), Scene()),
    DrawnSet("many_classes", _each(_WEAVES, 15), draw_weave),
    DrawnSet("many_classes_few_images", _each(_WEAVES, 8), draw_weave),
    DrawnSet("rare_texture", {"weave_01": 300, "weave_02": 30, "weave_03": 3}, draw_weave),
    DrawnSet("rare_defect", {GOOD: 300, "spot": 30, "line": 3}, Scene()),
    DrawnSet("tiny_defects", _each((GOOD, "spot", "glint"), 80), Scene(size=(3, 8), contrast=(60, 110), grain=14)),
    DrawnSet("tiny_shapes", _each((GOOD, "spot", "line", "ring"), 60), Scene(size=(6, 10), contrast=(70, 120))),
    DrawnSet("mixed_sizes", _each((GOOD, *_KINDS), 50), Scene(shapes=PARTS)),
    DrawnSet("strips", _each((GOOD, "spot", "line", "dent"), 50), Scene(shapes=STRIPS)),
    DrawnSet("wrong_labels_textures", _each(NEU_CLASSES, 40), draw_steel, wrong_labels=0.05),
    DrawnSet("wrong_labels_defects", _each((GOOD, *_KINDS), 50), Scene(), wrong_labels=0.05),
    DrawnSet("colour_alone", _each((GOOD, "rust", "oil", "heat"), 50), draw_stain),
    DrawnSet("grey_and_colour", _each((GOOD, *_KINDS), 50), Scene(coloured=0.5)),
    DrawnSet("large_and_smooth", _each((GOOD, "dent", "bulge", "wave"), 50), _SMOOTH),
    DrawnSet("low_contrast", _each((GOOD, "spot", "line"), 70), Scene(size=(30, 80), contrast=(10, 20), grain=4)),
    DrawnSet("mostly_good", {GOOD: 210, "spot": 25, "ring": 25, "line": 20, "cross": 20}, Scene(size=(15, 40))),
    DrawnSet("alike", _each(("line", "double", "spot", "ring"), 50), Scene(size=(20, 60))),
    DrawnSet("turned_textures", _each(_WEAVES[:8], 30), draw_turned_weave),
    DrawnSet("noise", _each(NEU_CLASSES, 40), draw_noisy_steel),
)

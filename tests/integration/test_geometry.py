"""Images that are not square go through stages 01 and 02, where their fit is chosen by a measurement."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.workshop import Workshop, assert_success, read_rows

from metal_defects.artifacts import GEOMETRY, IMAGES
from metal_defects.data.geometry import Frame, Geometry
from metal_defects.records import read_record

LOAD_TENSORFLOW = (
    "import runpy, sys\ntry:\n    runpy.run_path('main.py', run_name='__main__')\n"
    "finally:\n    print('LOADED', 'tensorflow' in sys.modules, file=sys.stderr)\n"
)
PER_CLASS, SIDE = 120, 120
AUTO = ("data_preprocessing.image_size=96", "data_preprocessing.fit=auto")


def draw_grain(sigma: float, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Grey grain of one coarseness, the same in both directions: stretching makes it another one."""
    noise = Image.fromarray(rng.integers(0, 256, (height + 20, width + 20), dtype=np.uint8))
    soft = np.asarray(noise.filter(ImageFilter.GaussianBlur(sigma)), float)[10:-10, 10:-10]
    return Image.fromarray(np.clip(128 + 40 * (soft - soft.mean()) / soft.std(), 0, 255).astype(np.uint8))


def write_set(folder: Path, shorter: tuple[int, int]) -> Path:
    """Two classes of grain; the longer side is always the same, upright or lying."""
    rng = np.random.default_rng(4)
    for name, sigma in (("fine", 1.7), ("coarse", 2.0)):
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            sides = SIDE, int(rng.integers(*shorter))
            width, height = sides if number % 2 else sides[::-1]
            draw_grain(sigma, width, height, rng).save(folder / name / f"{number}.png")
    return folder


def preprocess(folder: Path, data: Path) -> tuple[Workshop, "subprocess.CompletedProcess[str]"]:
    workshop = Workshop(folder, data, ("classes=auto", *AUTO))
    assert_success(workshop.run("run", "--only", "01"))
    answer = workshop.run_cold("run", "--only", "02", code=LOAD_TENSORFLOW)
    assert_success(answer)
    return workshop, answer


@pytest.mark.slow
def test_the_fit_that_keeps_the_texture_is_found_by_measuring(tmp_path: Path) -> None:
    workshop, answer = preprocess(tmp_path, write_set(tmp_path / "set", (32, 60)))
    chosen = read_record(workshop.artifacts / GEOMETRY.name, Geometry)
    assert (chosen.fit, chosen.image_size, chosen.backbone) == ("letterbox", 96, "EfficientNet-Lite0")
    stretch, letterbox = chosen.candidates
    assert stretch.difference > stretch.standard_error and letterbox.difference == 0
    rows = read_rows(workshop.artifacts / IMAGES.name)
    assert chosen.images == sum(row["split"] == "train" for row in rows)
    assert chosen.reason in " ".join(answer.stdout.split())
    for row in rows[:4]:
        with Image.open(tmp_path / "set" / row["source"]) as source:
            frame = Frame.of(*source.size, 96, "letterbox")
            expected = frame.fill(np.asarray(source.resize((frame.width, frame.height), Image.Resampling.BILINEAR)))
        with Image.open(workshop.stage("02") / row["path"]) as written:
            assert np.array_equal(np.asarray(written)[..., 0], expected)


@pytest.mark.slow
def test_square_images_cost_nothing(tmp_path: Path) -> None:
    workshop, answer = preprocess(tmp_path, write_set(tmp_path / "set", (SIDE, SIDE + 1)))
    chosen = read_record(workshop.artifacts / GEOMETRY.name, Geometry)
    assert (chosen.fit, chosen.images, chosen.candidates) == ("stretch", 0, ())
    assert "nothing to choose" in chosen.reason
    assert "LOADED False" in answer.stderr

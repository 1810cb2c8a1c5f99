"""The drawn data set: layout, repeatability, boxes, and six classes that can be told apart."""

import hashlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from metal_defects.data.synthetic import NEU_CLASSES, SIDE, write_synthetic_set

PER_CLASS = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic_set(folder, PER_CLASS, seed=3)
    return folder


def digest_files(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_pixels(root: Path, name: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path), float) for path in sorted((root / "IMAGES").glob(f"{name}_*"))])


def test_layout_is_that_of_neu_det(root: Path) -> None:
    stems = [f"{name}_{n}" for name in NEU_CLASSES for n in range(1, PER_CLASS + 1)]
    expected = {f"IMAGES/{stem}.png" for stem in stems} | {f"ANNOTATIONS/{stem}.xml" for stem in stems}
    assert set(digest_files(root)) == expected
    for path in (root / "IMAGES").iterdir():
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (SIDE, SIDE))


def test_same_seed_same_bytes_and_a_smaller_set_is_a_part_of_a_larger(root: Path, tmp_path: Path) -> None:
    write_synthetic_set(tmp_path, 2, seed=3)
    assert digest_files(tmp_path).items() <= digest_files(root).items()


def test_other_seed_other_images(root: Path, tmp_path: Path) -> None:
    write_synthetic_set(tmp_path, 1, seed=4)
    assert not set(digest_files(tmp_path / "IMAGES").values()) & set(digest_files(root / "IMAGES").values())


def test_no_image_occurs_twice_or_is_flat(root: Path) -> None:
    digests = digest_files(root / "IMAGES")
    assert len(set(digests.values())) == len(digests)
    for name in NEU_CLASSES:
        assert (read_pixels(root, name).std(axis=(1, 2)) > 2).all()


def test_boxes_lie_inside_and_carry_the_class(root: Path) -> None:
    for path in (root / "ANNOTATIONS").iterdir():
        items = ElementTree.parse(path).findall("object")
        assert 1 <= len(items) <= 5
        for item in items:
            assert item.findtext("name") == path.stem.rpartition("_")[0]
            x0, y0, x1, y1 = (int(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
            assert 1 <= x0 < x1 <= SIDE and 1 <= y0 < y1 <= SIDE


@pytest.mark.parametrize(("name", "brighter"), [("scratches", True), ("patches", False)])
def test_boxes_surround_the_defect(root: Path, name: str, brighter: bool) -> None:
    inside, outside = [], []
    for path in sorted((root / "ANNOTATIONS").glob(f"{name}_*")):
        pixels = np.asarray(Image.open(root / "IMAGES" / f"{path.stem}.png"), float)
        mask = np.zeros_like(pixels, bool)
        for box in ElementTree.parse(path).iter("bndbox"):
            x0, y0, x1, y1 = (int(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
            mask[y0 - 1 : y1, x0 - 1 : x1] = True
        if mask.all():
            continue
        inside.append(pixels[mask].mean())
        outside.append(pixels[~mask].mean())
    agree = (np.array(inside) > np.array(outside)) == brighter
    assert agree.mean() > 0.7


def test_classes_have_the_texture_of_their_name(root: Path) -> None:
    pixels = {name: read_pixels(root, name) for name in NEU_CLASSES}
    grain = {name: np.abs(np.diff(images, axis=2)).mean() for name, images in pixels.items()}
    assert min(grain["crazing"], grain["patches"]) > 2 * max(grain["inclusion"], grain["scratches"])
    skew = {
        name: np.mean([np.mean(((image - image.mean()) / image.std()) ** 3) for image in images])
        for name, images in pixels.items()
    }
    assert skew["scratches"] > 1 and skew["inclusion"] < 0.2 and skew["rolled-in_scale"] < 0


def test_a_simple_classifier_tells_them_apart(root: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(image: np.ndarray) -> list[float]:
        steps = [image[:, k:] - image[:, :-k] for k in (1, 4)] + [image[k:] - image[:-k] for k in (1, 4)]
        centred = (image - image.mean()) / image.std()
        moments = [image.mean(), image.std(), (centred**3).mean(), np.log((centred**4).mean())]
        return moments + [np.log(np.abs(step).mean()) for step in steps]

    x = np.array([features(image) for name in NEU_CLASSES for image in read_pixels(root, name)])
    y = np.repeat(range(len(NEU_CLASSES)), PER_CLASS)
    train = np.arange(len(y)) % 2 == 0
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x[train], y[train])
    assert model.score(x[~train], y[~train]) > 0.75

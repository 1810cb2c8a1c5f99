"""Classifying image files with the tuned model."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_network import CLASSES, SIDE, TOY, draw_image, draw_split

from metal_defects.data.imaging import Preprocessor
from metal_defects.errors import UserError
from metal_defects.files import sha256_file, write_json
from metal_defects.models.networks import assemble, build_backbone, build_feature_model, build_head
from metal_defects.prediction import Classifier

LIMITS = {"formats": ["BMP", "JPEG", "PNG"], "min_side": 16, "max_side": 512, "max_bytes": 1_000_000}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stage 07 leaves, with a toy network; its notice says that the images are drawn."""
    folder = tmp_path_factory.mktemp("07_hyperparameter_tuning")
    features = build_feature_model(TOY, build_backbone(TOY, SIDE, 1, None), TOY.taps)
    values = np.asarray(features(draw_split("train")[0]))
    head = build_head(values.mean(0), values.var(0), len(CLASSES), hidden_units=0, dropout=0.1, l2=0.0)
    assemble(features, head, "toy").save(folder / "tuned_model.h5", include_optimizer=False)
    card = {
        "data": {"kind": "synthetic", "notice": "SYNTHETIC images"},
        "classes": list(CLASSES),
        "image_size": SIDE,
        "resize": "bilinear",
        "limits": LIMITS,
        "sha256": sha256_file(folder / "tuned_model.h5"),
    }
    write_json(folder / "tuned_model.json", card)
    return folder


@pytest.fixture(scope="module")
def classifier(tuned: Path) -> Classifier:
    return Classifier.load(tuned)


def save_image(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


def test_answer_is_that_of_the_model_on_the_preprocessed_pixels(classifier: Classifier, tmp_path: Path) -> None:
    large = np.kron(draw_image(0, 5), np.ones((3, 3, 1), np.uint8))
    path = save_image(tmp_path / "large.png", large)
    answer = classifier.predict_file(path)
    pixels = Preprocessor(SIDE, "bilinear", classifier.preprocess.limits)(path)
    expected = np.asarray(classifier.model(pixels[None]))[0]
    assert pixels.shape == (SIDE, SIDE, 3)
    assert list(answer["probabilities"]) == list(CLASSES)
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
    assert answer["label"] == CLASSES[expected.argmax()]
    assert answer["confidence"] == pytest.approx(expected.max(), abs=1e-6)
    assert answer["image"] == str(path)


def test_probabilities_sum_to_one(classifier: Classifier, tmp_path: Path) -> None:
    for seed in range(5):
        answer = classifier.predict_file(save_image(tmp_path / f"{seed}.bmp", draw_image(seed % 3, seed)))
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert answer["confidence"] == max(answer["probabilities"].values())


def test_answers_differ_between_images_and_not_between_calls(classifier: Classifier, tmp_path: Path) -> None:
    paths = [save_image(tmp_path / f"{label}.png", draw_image(label, 1)) for label in range(3)]
    answers = [[classifier.predict_file(path)["probabilities"] for path in paths] for _ in range(2)]
    assert answers[0] == answers[1]
    assert len({tuple(answer.values()) for answer in answers[0]}) == 3


def make_bad(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "small":
        save_image(path, np.zeros((4, 4, 3), np.uint8))
    elif kind == "truncated":
        save_image(path, draw_image(0, 0))
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "small", "truncated", "folder", "missing"])
def test_bad_file_gives_its_error_in_words(kind: str, classifier: Classifier, tmp_path: Path) -> None:
    path = make_bad(tmp_path, kind)
    answer = classifier.predict_file(path)
    assert answer.keys() == {"image", "error"}
    assert answer["image"] == str(path)
    assert len(answer["error"]) > 15
    assert "\n" not in answer["error"]


def test_notice_of_the_data_comes_along(classifier: Classifier) -> None:
    assert classifier.notice == "SYNTHETIC images"


def test_no_model_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tuned model yet.*python main\.py.*nothing_here"):
        Classifier.load(tmp_path / "nothing_here")


@pytest.mark.parametrize("damage", ["altered", "truncated", "gone"])
def test_model_file_that_is_not_the_one_described(damage: str, tuned: Path, tmp_path: Path) -> None:
    content = (tuned / "tuned_model.h5").read_bytes()
    (tmp_path / "tuned_model.json").write_bytes((tuned / "tuned_model.json").read_bytes())
    changed = {"altered": content[:-1] + b"x", "truncated": content[: len(content) // 2], "gone": None}[damage]
    if changed is not None:
        (tmp_path / "tuned_model.h5").write_bytes(changed)
    with pytest.raises(UserError, match=r"tuned_model\.h5 is missing or was altered.*--from 07"):
        Classifier.load(tmp_path)


def test_description_that_is_not_whole(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "tuned_model.h5").write_bytes((tuned / "tuned_model.h5").read_bytes())
    (tmp_path / "tuned_model.json").write_bytes((tuned / "tuned_model.json").read_bytes()[:100])
    with pytest.raises(UserError, match=r"tuned_model\.json.*--from 07"):
        Classifier.load(tmp_path)

"""The Predictor on a tiny graph: every form of input, order, failures beside answers, threads, memory."""

import io
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.toy_bundles import CELLS, COLOURS, paint, paint_spot, save, write_bundle, write_locating_bundle

import metal_defects
from metal_defects.data.imaging import ImageError
from metal_defects.errors import BundleError
from metal_defects.inference.answer import Prediction
from metal_defects.inference.predictor import Predictor
from metal_defects.system import WAITING_PER_WORKER, count_cores


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle")))


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("colour", COLOURS)
def test_label_and_probabilities(predictor: Predictor, colour: str) -> None:
    answer = predictor.predict(paint(colour), name="part 17")
    assert (answer.name, answer.label) == ("part 17", colour)
    assert tuple(answer.probabilities) == COLOURS
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert answer.confidence == max(answer.probabilities.values())
    assert answer.milliseconds > 0


def test_every_form_of_an_image_gives_the_same_answer(predictor: Predictor, tmp_path: Path) -> None:
    pixels = paint("Green", side=123)
    path = save(tmp_path / "a.png", pixels)
    forms = [path, str(path), path.read_bytes(), Image.open(path), Image.fromarray(pixels), pixels]
    answers = [predictor.predict(form).probabilities for form in forms]
    assert all(answer == answers[0] for answer in answers)
    assert [a.probabilities for a in predictor.predict_many(forms)] == answers


def test_grey_is_rgb_with_equal_channels(predictor: Predictor, tmp_path: Path) -> None:
    grey = paint("Red")[..., 0]
    forms = [grey, grey[..., None], np.repeat(grey[..., None], 3, axis=2), Image.fromarray(grey), png(grey)]
    answers = [predictor.predict(form).probabilities for form in forms]
    assert all(answer == answers[0] for answer in answers)


def test_pillow_image_is_turned_upright_and_left_open(predictor: Predictor) -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(paint("Blue", side=90)[:40]).save(stream, "PNG", exif=exif)
    image = Image.open(stream)
    assert predictor.predict(image).probabilities == predictor.predict(stream.getvalue()).probabilities
    assert image.getpixel((0, 0)) is not None


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((64, 64, 3), np.float32), np.full((64, 64), np.nan), np.zeros((64, 64, 3), np.uint16),
        np.zeros((64, 64, 4), np.uint8), np.zeros((64,), np.uint8), np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((0, 64, 3), np.uint8), np.zeros((64, 64, 3), bool), np.zeros((64, 64), object),
    ],
)  # fmt: skip
def test_array_of_another_kind_is_refused(predictor: Predictor, array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"must be uint8 \(H, W\)") as caught:
        predictor.predict(array)
    assert caught.value.reason == "array"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (b"", "empty"), (b"no image at all", "not_an_image"), (Path("/nowhere/a.png"), "unreadable"),
        ("/nowhere/a.png", "unreadable"), (Path("/"), "unreadable"), ("a\0b.png", "unreadable"),
        (np.zeros((8, 8), np.uint8), "too_small"), (np.zeros((20, 600), np.uint8), "too_many_pixels"),
        (Image.new("L", (600, 20)), "too_many_pixels"), (b"\x89PNG\r\n\x1a\n" + b"0" * 2_000_000, "too_large"),
        (png(paint("Red"))[:-200], "truncated"),
    ],
)  # fmt: skip
def test_reasons(predictor: Predictor, source: object, code: str) -> None:
    with pytest.raises(ImageError) as caught:
        predictor.predict(source)
    assert caught.value.reason == code
    [failure] = predictor.predict_many([source])
    assert (failure.code, failure.message) == (code, str(caught.value))


@settings(max_examples=25, deadline=None)
@given(order=st.lists(st.sampled_from([*COLOURS, "bad"]), max_size=40))
def test_order_is_kept_and_failures_stand_beside_answers(predictor: Predictor, order: list[str]) -> None:
    sources = ((f"{n}", b"?" if kind == "bad" else paint(kind, seed=n)) for n, kind in enumerate(order))
    answers = list(predictor.predict_many(sources))
    assert [answer.name for answer in answers] == [str(n) for n in range(len(order))]
    found = [answer.label if isinstance(answer, Prediction) else "bad" for answer in answers]
    assert found == order


def test_many_agrees_with_single(predictor: Predictor) -> None:
    images = [paint(COLOURS[n % 3], seed=n) for n in range(50)]
    singles = [predictor.predict(image) for image in images]
    for one, other in zip(singles, predictor.predict_many(images), strict=True):
        assert one.label == other.label
        assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=2e-6)


def test_sources_are_taken_only_as_far_as_needed(predictor: Predictor) -> None:
    taken = []

    def endless() -> object:
        n = 0
        while True:
            taken.append(n)
            yield f"{n}", paint("Red", seed=n)
            n += 1

    answers = predictor.predict_many(endless())
    for _ in range(9):
        next(answers)
    answers.close()
    assert len(taken) <= 9 + WAITING_PER_WORKER * (count_cores() + 1)


def test_threads_do_not_disturb_each_other(predictor: Predictor) -> None:
    images = [paint(COLOURS[n % 3], seed=n) for n in range(24)]
    expected = [predictor.predict(image).probabilities for image in images]
    barrier = threading.Barrier(8)

    def work(offset: int) -> bool:
        barrier.wait()
        turned = [(n + offset) % len(images) for n in range(len(images))]
        return all(predictor.predict(images[n]).probabilities == expected[n] for n in turned * 4)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_variant_is_chosen(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, default="int8")
    by_default = Predictor.load(folder).predict(paint("Red")).confidence
    assert by_default == Predictor.load(folder, variant="int8").predict(paint("Red")).confidence
    assert by_default != Predictor.load(folder, variant="float32").predict(paint("Red")).confidence


def test_unknown_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="Got 'int4'"):
        Predictor.load(write_bundle(tmp_path), variant="int4")


def test_no_training_library_is_imported(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    code = (
        "import sys; from pathlib import Path; import numpy as np; import metal_defects.cli.main;"
        "from metal_defects.inference.predictor import Predictor;"
        f"Predictor.load(Path({str(folder)!r})).predict(np.zeros((64, 64), np.uint8));"
        "heavy = {'tensorflow', 'keras', 'scipy', 'sklearn', 'pandas', 'matplotlib', 'joblib', 'imagehash', 'onnx'};"
        "print(*(heavy & set(sys.modules)))"
    )
    source = str(Path(metal_defects.__file__).parents[1])
    result = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True)
    assert (result.stdout.strip(), result.returncode) == ("", 0), result.stderr


@pytest.mark.parametrize("is_upright", [True, False])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_heat_map_and_boxes_are_those_of_the_image_however_it_was_made_square(
    tmp_path: Path, fit: str, is_upright: bool
) -> None:
    pixels, (left, top, right, bottom) = paint_spot()
    expected = np.array((left, top, right, bottom))
    if is_upright:
        pixels, expected = pixels.transpose(1, 0, 2), expected[[1, 0, 3, 2]]
    answer, heat_map = Predictor.load(write_locating_bundle(tmp_path, fit)).explain(pixels)
    [box] = answer.boxes
    assert np.abs(np.array(box.box) - expected).max() < 0.07
    assert heat_map.shape == (CELLS, CELLS)
    columns, rows = (np.arange(CELLS) + 0.5) / CELLS, (np.arange(CELLS) + 0.5) / CELLS
    inside = (columns > expected[0]) & (columns < expected[2]) & ((rows > expected[1]) & (rows < expected[3]))[:, None]
    assert heat_map[inside].mean() > 0.7 and heat_map[~inside].mean() < 0.1

"""The app's states without a browser: empty, one image, many, filters, bad files, verdicts, no model."""

import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest
from support import PROJECT
from support.toy_bundles import COLOURS, paint, write_bundle

from metal_defects.app import inspect_page, session
from metal_defects.inference.answer import Prediction
from metal_defects.inference.boxes import Box
from metal_defects.inference.predictor import Predictor

pytestmark = pytest.mark.usefixtures("scanned_once")
SAMPLES = 18
File = tuple[str, bytes, str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], AppTest]:
    def start(bundle: Path) -> AppTest:
        monkeypatch.setenv("METAL_DEFECTS_ROOT", str(PROJECT))
        monkeypatch.setenv("METAL_DEFECTS_BUNDLE", str(bundle))
        return AppTest.from_file(str(PROJECT / "st_app_predict.py"), default_timeout=30).run()

    return start


@pytest.fixture
def app(open_app: Callable[[Path], AppTest], bundle: Path) -> Iterator[AppTest]:
    page = open_app(bundle)
    yield page
    assert not page.exception


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers as an evaluated bundle gives them: Red is accepted, Green doubtful, Blue unknown."""
    answer_only = Predictor.explain

    def explain(self: Predictor, source: np.ndarray, name: str | None = None) -> tuple[Prediction, np.ndarray]:
        answer, _ = answer_only(self, source, name)
        verdict = dict(zip(COLOURS, ("accept", "review", "unknown"), strict=True))[answer.label]
        boxes = (Box(box=(0.25, 0.25, 0.75, 0.5), score=0.9),) if verdict == "accept" else ()
        judged = {
            "verdict": verdict,
            "reason": f"the reason is <{verdict}>",
            "distance": 0.5,
            "boxes": boxes,
            "prediction_set": ("Green", "Red") if verdict == "review" else (answer.label,),
        }
        return answer.model_copy(update=judged), np.eye(7, dtype=np.float32)

    monkeypatch.setattr(Predictor, "explain", explain)


def draw(colour: str, name: str | None = None, seed: int = 0) -> File:
    return name or f"{colour}_{seed}.png", png(colour, seed), "image/png"


def png(colour: str, seed: int = 0) -> bytes:
    stream = BytesIO()
    Image.fromarray(paint(colour, seed=seed)).save(stream, "PNG")
    return stream.getvalue()


def upload(page: AppTest, *files: File) -> AppTest:
    return page.file_uploader[0].set_value(list(files)).run()


def html(page: AppTest) -> str:
    return "".join(element.value for element in page.get("html"))


def table(page: AppTest) -> dict[str, list]:
    return page.dataframe[0].value.to_dict("list")


def press(page: AppTest, label: str) -> AppTest:
    return next(button for button in page.button if label in button.label).click().run()


def test_empty_page_says_what_to_do(app: AppTest) -> None:
    assert app.title[0].value == "Which defect is it?"
    assert "Bring images" in html(app)
    assert "Red, Green, Blue" in html(app)
    assert not app.dataframe and not app.download_button and not app.warning


def test_samples_are_answered_with_one_click(app: AppTest) -> None:
    press(app, f"Try the {SAMPLES} drawn samples")
    assert len(table(app)["File"]) == SAMPLES
    assert set(table(app)["Answer"]) <= set(COLOURS)


def test_one_image_is_shown_in_full(app: AppTest) -> None:
    upload(app, draw("Green"))
    shown = html(app)
    assert "<b>Green</b>" in shown and "Green_0.png" in shown and "80 × 80 px" in shown
    assert all(f">{colour}</span>" in shown for colour in COLOURS)
    assert not app.dataframe
    assert [button.label for button in app.download_button] == ["CSV · answer", "JSON · answer"]


def test_where_the_model_looked_is_computed_on_demand(app: AppTest) -> None:
    upload(app, draw("Green"))
    assert app.toggle[0].label == "Show where the model looked" and not app.toggle[0].value
    app.toggle[0].set_value(True).run()
    assert "evidence for Green fell" in app.caption[0].value
    assert app.session_state["visit"].occlusions


def test_many_images_come_as_a_table_with_the_most_doubtful_first(app: AppTest) -> None:
    upload(app, *(draw(colour, seed=seed) for colour in COLOURS for seed in range(3)))
    shown = table(app)
    assert sorted(shown["File"]) == sorted(f"{colour}_{seed}.png" for colour in COLOURS for seed in range(3))
    assert all(name.startswith(answer) for name, answer in zip(shown["File"], shown["Answer"], strict=True))
    assert shown["Confidence"] == sorted(shown["Confidence"])
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in shown["Image"])
    assert "Verdict" not in shown


def test_filters_choose_rows_and_downloads(app: AppTest) -> None:
    upload(app, *(draw(colour, seed=seed) for colour in COLOURS for seed in range(2)))
    app.pills(key="classes").set_value(["Red", "Blue"]).run()
    assert sorted(set(table(app)["Answer"])) == ["Blue", "Red"]
    assert app.download_button[0].label == "CSV · 4 answers"
    app.slider[0].set_value((0, 1)).run()
    assert not app.dataframe
    assert "No image passes" in app.info[0].value
    assert all(button.disabled for button in app.download_button)


def test_bad_files_are_named_and_never_stop_the_rest(app: AppTest) -> None:
    cut = png("Red")[:3000]
    upload(
        app, ("empty.png", b"", "image/png"), draw("Red"), ("notes.txt", b"not an image", "text/plain"),
        ("cut.png", cut, "image/png"), draw("Blue"),
    )  # fmt: skip
    assert sorted(table(app)["Answer"]) == ["Blue", "Red"]
    assert app.expander[0].label == "3 files have no answer"
    shown = html(app)
    assert "<td>empty.png</td><td>The file has no content" in shown
    assert "<td>notes.txt</td><td>No known image format" in shown
    assert "<td>cut.png</td><td>The image is cut short" in shown


def test_only_bad_files(app: AppTest) -> None:
    upload(app, ("notes.txt", b"not an image", "text/plain"))
    assert app.expander[0].label == "1 file has no answer"
    assert not app.download_button
    press(app, "Clear the list")
    assert "Bring images" in html(app)


def test_image_that_breaks_the_model_costs_no_other_its_answer(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = Predictor.explain

    def break_once(self: Predictor, source: np.ndarray, name: str) -> tuple[Prediction, None]:
        if name == "Red_0.png":
            raise MemoryError
        return explain(self, source, name)

    monkeypatch.setattr(Predictor, "explain", break_once)
    upload(app, draw("Red"), draw("Blue"))
    assert "<b>Blue</b>" in html(app)
    assert "<td>Red_0.png</td><td>The image could not be answered" in html(app)


def test_image_with_too_many_pixels_is_refused(app: AppTest) -> None:
    stream = BytesIO()
    Image.new("1", (5000, 5000)).save(stream, "PNG")
    upload(app, ("large.png", stream.getvalue(), "image/png"))
    assert "<td>large.png</td><td>At most 20,000,000 pixels" in html(app)


def test_archive_is_opened(app: AppTest) -> None:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("line 3/a.png", png("Red"))
        archive.writestr("line 3/b.png", png("Blue"))
        archive.writestr("__MACOSX/a.png", b"clutter")
        archive.writestr("readme.txt", b"text")
    upload(app, ("images.zip", stream.getvalue(), "application/zip"))
    assert sorted(table(app)["File"]) == ["line 3/a.png", "line 3/b.png"]
    assert "<td>readme.txt</td>" in html(app)


def test_name_cannot_carry_markup(app: AppTest) -> None:
    upload(app, draw("Red", "<img src=x onerror=alert(1)>.png"), ("<script>.png", b"", "image/png"))
    assert "<img src=x" not in html(app) and "<script" not in html(app)


def test_same_files_are_not_listed_twice(app: AppTest) -> None:
    upload(app, draw("Red"), draw("Blue"))
    upload(app, draw("Red"), draw("Green"))
    assert "1 file was in the list already" in app.info[0].value
    assert len(table(app)["File"]) == 3


def test_list_is_bounded(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_ROWS", 3)
    monkeypatch.setattr(inspect_page, "MAX_ROWS", 3)
    upload(app, *(draw("Red", seed=seed) for seed in range(5)))
    assert len(table(app)["File"]) == 3
    assert "2 more images" in html(app)


def test_list_can_be_cleared(app: AppTest) -> None:
    upload(app, draw("Red"), draw("Blue"))
    press(app, "Clear the list")
    assert not app.dataframe
    assert "Bring images" in html(app)


def test_verdicts_come_first(app: AppTest, judging: None) -> None:
    upload(app, *(draw(colour, seed=seed) for colour in COLOURS for seed in range(2)), draw("Red", seed=2))
    for words, count in (("Accepted", 3), ("To review", 2), ("Unknown", 2)):
        assert f"<span>{words}</span><b>{count}</b>" in html(app)
    assert table(app)["Answer"] == ["Blue", "Blue", "Green", "Green", "Red", "Red", "Red"]
    assert table(app)["Verdict"][0] == ["Unknown"]
    app.pills(key="verdicts").set_value(["review"]).run()
    assert set(table(app)["Answer"]) == {"Green"}
    assert ">To review</mark>" in html(app) and "The reason is &lt;review&gt;" in html(app)
    assert "possible: Green or Red" in html(app)


def test_unknown_surface_is_not_given_a_name(app: AppTest, judging: None) -> None:
    upload(app, draw("Blue"))
    assert "<b>Not one it knows</b><span>nearest: Blue" in html(app)


def test_located_defect_is_shown_at_once(app: AppTest, judging: None) -> None:
    upload(app, draw("Red"))
    assert app.toggle[0].label == "Show where the defect is" and app.toggle[0].value
    assert "each frame holds one" in app.caption[0].value
    assert not app.session_state["visit"].occlusions


def test_model_is_loaded_once(
    open_app: Callable[[Path], AppTest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded = Predictor.load, []
    monkeypatch.setattr(Predictor, "load", lambda folder: loaded.append(folder) or load(folder))
    folder = write_bundle(tmp_path / "bundle")
    for _ in range(2):
        upload(open_app(folder), draw("Red")).run()
    assert loaded == [folder]


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_without_a_usable_bundle_the_page_says_so(
    open_app: Callable[[Path], AppTest], tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "bundle"
    if damage == "altered":
        with (write_bundle(folder) / "model.onnx").open("ab") as graph:
            graph.write(b"x")
    page = open_app(folder)
    assert not page.exception
    assert "There is no model to answer" in page.error[0].value
    assert not page.file_uploader


def test_notice_of_the_data_is_shown(open_app: Callable[[Path], AppTest], tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", data={"kind": "synthetic", "notice": "It learnt from drawn_images."})
    assert "It learnt from drawn\\_images\\." in open_app(folder).warning[0].value.replace(".", "\\.")

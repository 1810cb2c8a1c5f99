"""The report and the model card: complete, self-contained, escaped, the same each time, whatever is missing."""

import base64
import csv
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metal_defects.config import Settings
from metal_defects.files import write_json
from metal_defects.metrics import classification_metrics
from metal_defects.report.chapters import write_command
from metal_defects.report.document import MEASURED, write_report
from metal_defects.report.parts import Album, of_hundred, percent, show, tabulate

EVIL = "<script>alert(1)</script>|x"
CLASSES = ["Crazing", EVIL]
SOURCES = [f"IMAGES/{number} {EVIL.replace('/', ' ')}.jpg" for number in range(40)]
WRONG = 7


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]


def make_metrics() -> dict[str, Any]:
    labels = np.arange(len(SOURCES)) % 2
    probabilities = np.eye(2)[labels] * 0.8 + 0.1
    probabilities[WRONG] = probabilities[WRONG][::-1]
    return classification_metrics(labels, probabilities, CLASSES)


def make_evaluation() -> dict[str, Any]:
    score = {"value": 0.98, "low": 0.9, "high": 0.995}
    case = {
        "source": SOURCES[WRONG], "picture": "images/picture.png", "true": EVIL, "predicted": "Crazing",
        "confidence": 0.9, "probabilities": {"Crazing": 0.9, EVIL: 0.1}, "times": 2, "other_boxes": ["Crazing"],
    }  # fmt: skip
    return {
        "data": {"kind": "path", "notice": None},
        "model": {"name": "toy", "title": EVIL, "weights": "ImageNet"},
        "classes": CLASSES,
        "protocol": {"images": 40, "folds": 5, "repeats": 2, "note": EVIL},
        "cross_validation": {
            "metrics": make_metrics(),
            "repeats": [{"repeat": 1, "errors": 1, "accuracy": 0.975}],
            "misjudged": [case],
            "suspects": [{"source": SOURCES[WRONG], "label": EVIL, "suggested": "Crazing", "confidence": 0.9}],
        },
        "calibration": {"temperature": 0.8, "after": {"ece": {**score, "value": 0.0042, "bins": []}, "brier": 0.01}},
        "conformal": {"coverage": 0.99, "served": {"covered": score, "sizes": [0.0, 0.9, 0.1]}},
        "guard": {"photographs": {"auroc": 1.0, "false_acceptance": 0.015}, "drawn": {"auroc": 0.9}},
        "verdicts": {"out_of_fold": {"accept": 36, "review": 3, "unknown": 1, "errors_among_accepted": 1}},
        "locator": {"grad_cam": {"pointing": 0.5}, "locator": {"pointing": score, "iou": score}},
        "robustness": {"images": 40, "accuracy": {"gaussian_noise": [score] * 5, "blur": [score] * 5}},
        "learning_curve": [{"per_class": 5, "accuracy": score}, {"per_class": None, "accuracy": score}],
        "comparison": [{"model": "toy", "errors": 1, "p_value": None}, {"model": EVIL, "errors": 3, "p_value": 0.4}],
        "ensemble": {"rows": [{"models": ["toy", EVIL], "errors": 1}], "recommended": ["toy"], "reason": "No gain."},
        "seconds": {"cross_validation": 12.5},
    }


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """What the stages leave, in small."""
    folder = tmp_path / "artifacts"
    boxes = f'[[1, 2, 3, 4, "{EVIL}"]]'
    keys = ("path", "label", "split", "sha256", "group", "width", "height", "boxes")
    rows = [(path, CLASSES[i % 2], "train", "0", path, 20, 20, boxes) for i, path in enumerate(SOURCES)]
    _write_rows(folder / "01_data_ingestion/manifest.csv", keys, rows)
    _write_rows(folder / "01_data_ingestion/quarantine.csv", ("path", "reason", "detail"), [(EVIL, "empty", EVIL)])
    copies = {"name": "copies", "status": "warn", "message": EVIL, "pairs": [{"first": EVIL, "second": "b"}]}
    several = {"name": "boxes", "status": "warn", "message": "Two.", "images_with_another_class": [SOURCES[0]]}
    write_json(folder / "01_data_ingestion/validation_report.json", {"checks": [copies, several]})
    metrics = make_metrics() | {"errors": [{"source": SOURCES[WRONG], "true": EVIL, "predicted": "Crazing"}]}
    tuned = {"title": "Toy", "weights": "ImageNet", "trials": 2, "test": metrics, "valid": metrics}
    write_json(folder / "07_hyperparameter_tuning/metrics.json", tuned)
    base = {"name": "toy", "title": EVIL, "weights": "random", "test": metrics, "valid": metrics}
    board = {"rule": EVIL, "models": [base]}
    write_json(folder / "06_model_training_evaluation/leaderboard.json", board)
    _draw(folder / "02_data_preprocessing/images/picture.png", 64)
    _draw(folder / "06_model_training_evaluation/leaderboard.png", 1150)
    return folder


def _write_rows(target: Path, keys: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([keys, *rows])


def _draw(target: Path, side: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(target)


def write(tmp_path: Path, artifacts: Path, evaluation: dict[str, Any], settings: Settings) -> tuple[Page, str, str]:
    out = tmp_path / "out"
    _draw(out / "plots" / "reliability.png", 300)
    write_report(artifacts, out, evaluation, settings)
    text = (out / "report.html").read_text("utf-8")
    return Page(text), text, (out / "model_card.md").read_text("utf-8")


def test_report_is_self_contained_and_its_pictures_decode(
    tmp_path: Path, artifacts: Path, make_settings: Callable[..., Settings]
) -> None:
    page, text, _ = write(tmp_path, artifacts, make_evaluation(), make_settings())
    sources = page.values("src")
    # The leaderboard, a plot and the misjudged picture of cross-validation.
    assert len(sources) == 3
    for source in sources:
        kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", source).groups()
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            assert image.format == kind.upper() and image.width <= 1100
    assert all(target.startswith("#") for target in page.values("href"))
    assert {target[1:] for target in page.values("href")} <= set(page.values("id"))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import|http-equiv", text)
    assert len(text) < 6_000_000


def test_names_are_escaped(tmp_path: Path, artifacts: Path, make_settings: Callable[..., Settings]) -> None:
    page, _, card = write(tmp_path, artifacts, make_evaluation(), make_settings())
    assert EVIL in page.words
    assert "<script" not in card
    rows = [line for line in card.splitlines() if line.startswith("| &lt;script")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)


def test_everything_measured_is_shown(tmp_path: Path, artifacts: Path, make_settings: Callable[..., Settings]) -> None:
    page, _, card = write(tmp_path, artifacts, make_evaluation(), make_settings())
    assert not re.search(r"Not here", page.words.replace("Not here: these are not the 1,800 images of NEU.", ""))
    for expected in (
        "97.5 of 100", "1 of 36", "90 accepted", "0.42 %", "AUROC", "true class in the set", "gaussian noise",
        "p value", "No gain.", "misjudged", "2 times", "Its boxes also show: Crazing.", "Files in quarantine",
        "98.0 % (90.0–99.5)",
    ):  # fmt: skip
        assert expected in page.words, expected
    assert "Wrong among the accepted: 2.8 of 100" in card
    assert "Unknown surfaces are let through: 1.5 of 100" in card
    # A baseline is not the model.
    assert "Heat maps point at the defect: 98 of 100" in card


@pytest.mark.parametrize("evaluation", [{}, dict.fromkeys(make_evaluation())])
def test_what_is_missing_is_said(
    tmp_path: Path, make_settings: Callable[..., Settings], evaluation: dict[str, Any]
) -> None:
    page, _, card = write(tmp_path, tmp_path / "nothing", evaluation, make_settings())
    for _, title, _, _, why in MEASURED:
        assert title in page.words and f"Not here: {why}." in page.words
    assert "Nothing was measured" in page.words and "Nothing was measured" in card
    assert "None" not in page.words.replace("None:", "") and "None" not in card


def test_accuracy_alone_stands_for_the_cross_validation(
    tmp_path: Path, artifacts: Path, make_settings: Callable[..., Settings]
) -> None:
    evaluation = make_evaluation() | {"guard": {"acceptance": 0.99, "accepted_held_out": 0.986}}
    evaluation["cross_validation"] |= {"metrics": None, "accuracy": {"value": 0.95, "low": 0.8, "high": 0.99}}
    page, _, card = write(tmp_path, artifacts, evaluation, make_settings())
    assert "names 95 of 100 images rightly" in page.words and "40 images, each judged" in card
    assert "Known surfaces pass the guard: 98.6 of 100" in card
    # A model trained as a whole judges validation images instead of folds: its test images speak for it.
    evaluation["protocol"] = {"images": 40, "folds": 1}
    page, _, card = write(tmp_path, artifacts, evaluation, make_settings())
    assert "names 97.5 of 100 images rightly" in page.words and "40 test images" in card


@pytest.mark.parametrize("key", [key for key, *_ in MEASURED] + ["cross_validation", "protocol", "model", "seconds"])
def test_any_part_may_be_missing(
    tmp_path: Path, artifacts: Path, make_settings: Callable[..., Settings], key: str
) -> None:
    evaluation = make_evaluation()
    del evaluation[key]
    page, _, _ = write(tmp_path, artifacts, evaluation, make_settings())
    assert "named rightly" in page.words


@pytest.mark.parametrize(
    ("change", "notice"),
    [
        ({"data": {"kind": "synthetic", "notice": "Drawings <only>."}}, "Drawings <only>."),
        ({"data": {"kind": "synthetic", "notice": None}}, "The images are drawings"),
        ({"model": {"title": "Toy", "weights": "random"}}, "weights are random"),
    ],
)
def test_drawings_and_random_weights_are_told_first(
    tmp_path: Path, artifacts: Path, make_settings: Callable[..., Settings], change: dict[str, Any], notice: str
) -> None:
    page, text, card = write(tmp_path, artifacts, make_evaluation() | change, make_settings())
    assert notice in page.words[: page.words.index("named rightly")]
    assert "not fit for use" in page.words and 'class="sentence poor"' in text
    assert card.index("> **") < card.index("## Model details")


def test_same_input_same_bytes(tmp_path: Path, artifacts: Path, make_settings: Callable[..., Settings]) -> None:
    assert write(tmp_path, artifacts, make_evaluation(), make_settings())[1:] == write(
        tmp_path, artifacts, make_evaluation(), make_settings()
    )[1:]


def test_published_figures_stand_beside_neu_alone(
    tmp_path: Path, artifacts: Path, make_settings: Callable[..., Settings]
) -> None:
    names = ("Crazing", "Inclusion", "Patches", "Pitted", "Rolled", "Scratches")
    balance = {"name": "balance", "status": "ok", "message": "", "counts": dict.fromkeys(names, 300)}
    assert "98.93" not in write(tmp_path, artifacts, make_evaluation(), make_settings())[1]
    write_json(artifacts / "01_data_ingestion/validation_report.json", {"checks": [balance]})
    page = write(tmp_path, artifacts, make_evaluation(), make_settings())[0]
    assert "98.93 ± 0.63 %" in page.words and "Applied Surface Science 285" in page.words
    assert "this model, Gaussian noise of 30 dB" in page.words
    drawn = make_evaluation() | {"data": {"kind": "synthetic", "notice": None}}
    assert "98.93" not in write(tmp_path, artifacts, drawn, make_settings())[1]


def test_pictures_stop_at_the_budget(tmp_path: Path) -> None:
    _draw(tmp_path / "a.png", 200)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    album = Album(60_000)
    pictures = [album.embed(tmp_path / "a.png", "a", 100, photo=True) for _ in range(40)]
    kept = [picture for picture in pictures if picture]
    assert 0 < len(kept) < 40 and sum(len(picture.uri) for picture in kept) <= 60_000
    assert {picture.width for picture in kept} == {100}
    assert album.embed(tmp_path / "broken.png", "", 100) is None
    assert album.embed(tmp_path / "missing.png", "", 100) is None


def test_command_names_what_differs_from_the_files(make_settings: Callable[..., Settings]) -> None:
    assert write_command(make_settings()) == "python main.py run"
    settings = make_settings("training.epochs=5", "data.path=../my steel", "classes=auto")
    assert write_command(settings) == (
        "python main.py run --data '../my steel' --set training.epochs=5 --set 'classes=\"auto\"'"
    )


def test_figures_in_words() -> None:
    assert [percent(share) for share in (1.0, 0.9999, 0.5)] == ["100.0 %", "99.9 %", "50.0 %"]
    assert [percent(share) for share in (0.0001, 0.0)] == ["< 0.1 %", "0.0 %"]
    assert [of_hundred(share) for share in (1.0, 0.9999, 0.97)] == ["100", "99.9", "97"]
    assert show({"value": 0.5, "low": 0.25, "high": 0.75}, "accuracy") == "50.0 % (25.0–75.0)"
    assert show(0.9996, "auroc") == "0.9996" and show(0.001, "learning_rate") == "0.001"
    assert show(1234) == "1,234" and show(None) == "–" and show(True) == "yes"


def test_tables_of_nested_results() -> None:
    curve = list(range(100))
    tables = tabulate({"n": 3, "curve": curve, "classes": {"a": {"f1": 0.5}, "b": {"f1": 1.0}}}, "top")
    assert [(table.title, table.columns) for table in tables] == [("top", ()), ("top, classes", ("", "F1"))]
    assert tables[1].rows == (("a", "50.0 %"), ("b", "100.0 %"))
    (long,) = tabulate([{"x": number} for number in curve], "long", most=10)
    assert len(long.rows) == 10 and long.left_out == 90

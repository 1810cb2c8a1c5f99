"""The app's downloads: the same in CSV and JSON, with all fields, harmless in a spreadsheet."""

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
from support.toy_bundles import COLOURS, write_bundle

from metal_defects.app.export import format_csv, format_json
from metal_defects.app.scoring import Row
from metal_defects.inference.answer import Failure, Prediction
from metal_defects.inference.boxes import Box
from metal_defects.inference.bundle import Bundle, load_bundle

SHARES = dict(zip(COLOURS, (0.61, 0.37, 0.02), strict=True))
PLAIN = Prediction(name="a.png", label="Red", confidence=0.61, probabilities=SHARES, milliseconds=4.5)
JUDGED = Prediction(
    name="b.png",
    label="Red",
    confidence=0.61,
    probabilities=SHARES,
    milliseconds=4.5,
    verdict="review",
    reason="two classes are possible",
    distance=0.7,
    prediction_set=("Red", "Green"),
    boxes=(Box(box=(0.1, 0.2, 0.3, 0.4), score=0.9),),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_bundle(tmp_path_factory.mktemp("bundle")))


def make_row(prediction: Prediction) -> Row:
    return Row(prediction, "0" * 64, "", b"", 80, 80, None)


def read(text: str) -> list[dict[str, str]]:
    assert text.startswith("\ufeff")
    return list(csv.DictReader(StringIO(text.removeprefix("\ufeff"), newline="")))


def test_csv_has_every_field(bundle: Bundle) -> None:
    plain, judged = read(format_csv([make_row(PLAIN), make_row(JUDGED)], [], bundle))
    assert (plain["name"], plain["label"], float(plain["confidence"])) == ("a.png", "Red", 0.61)
    assert {name: float(plain[name]) for name in COLOURS} == SHARES
    assert plain["verdict"] == plain["reason"] == plain["distance"] == plain["boxes"] == plain["error"] == ""
    assert (judged["verdict"], judged["reason"], judged["distance"]) == ("review", "two classes are possible", "0.7")
    assert judged["sha256"] == "0" * 64
    assert json.loads(judged["prediction_set"]) == ["Red", "Green"]
    assert json.loads(judged["boxes"])[0]["box"] == [0.1, 0.2, 0.3, 0.4]


def test_json_has_every_field_and_the_model(bundle: Bundle) -> None:
    value = json.loads(format_json([make_row(JUDGED)], [Failure.of("c.png", "empty", "no content")], bundle))
    assert value["model"]["hash"] == bundle.hash
    assert value["results"] == [json.loads(json.dumps(JUDGED.to_dict())) | {"sha256": "0" * 64}]
    assert value["failures"] == [{"name": "c.png", "error": {"code": "empty", "message": "no content"}}]


def test_failures_are_rows_too(bundle: Bundle) -> None:
    (row,) = read(format_csv([], [Failure.of("c.png", "empty", "no content")], bundle))
    assert (row["name"], row["label"], row["error"], row["message"]) == ("c.png", "", "empty", "no content")


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_spreadsheet_runs_no_file_name(bundle: Bundle, name: str) -> None:
    row = make_row(PLAIN.model_copy(update={"name": name}))
    assert read(format_csv([row], [], bundle))[0]["name"] == "'" + name


def test_names_of_all_scripts_survive(bundle: Bundle, tmp_path: Path) -> None:
    row = make_row(PLAIN.model_copy(update={"name": 'Blech "№ 7", größe 表.png'}))
    file = tmp_path / "answers.csv"
    file.write_text(format_csv([row], [], bundle), encoding="utf-8", newline="")
    with file.open(encoding="utf-8-sig", newline="") as stream:
        assert next(csv.DictReader(stream))["name"] == row.name

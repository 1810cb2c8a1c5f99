"""The answer: one list of fields, from which JSON, CSV and the API's description follow."""

import csv
import io
import json
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from pydantic import Field, create_model

from metal_defects.inference.answer import GOOD, Failure, Fault, Outcome, Prediction, write_csv
from metal_defects.inference.boxes import Box

SHARES = {"Red": 0.61, "Green": 0.39}
PLAIN = Prediction(name="a.png", label="Red", confidence=0.61, probabilities=SHARES, milliseconds=4.5)
JUDGED = PLAIN.model_copy(
    update={
        "verdict": "review",
        "reason": "two classes are possible",
        "distance": 0.7,
        "prediction_set": ("Red", "Green"),
        "boxes": (Box(box=(0.1, 0.2, 0.3, 0.4), score=0.9),),
    }
)
FAILURE = Failure.of("c.png", "empty", "Nothing.")


def write(*answers: Outcome, kind: type[Prediction] = Prediction) -> str:
    stream = io.StringIO(newline="")
    write_csv(stream, answers, tuple(SHARES), kind)
    return stream.getvalue()


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("answer", [PLAIN, JUDGED])
def test_json_has_always_the_same_keys(answer: Prediction) -> None:
    keys = ["name", "label", "confidence", "probabilities", "milliseconds", "verdict", "reason", "distance"]
    assert list(answer.to_dict()) == [*keys, "prediction_set", "boxes"] == list(GOOD)
    assert Prediction.model_validate(json.loads(json.dumps(answer.to_dict()))) == answer


def test_json_of_a_failure() -> None:
    assert FAILURE.to_dict() == {"name": "c.png", "error": {"code": "empty", "message": "Nothing."}}


def test_the_example_is_an_answer() -> None:
    assert Prediction.model_validate(GOOD).to_dict() == GOOD


def test_csv_holds_what_json_holds() -> None:
    plain, judged, failure = read(write(PLAIN, JUDGED, FAILURE))
    for row, answer in ((plain, PLAIN), (judged, JUDGED)):
        values = answer.to_dict()
        assert {name: float(row[name]) for name in SHARES} == values.pop("probabilities")
        for name, value in values.items():
            shown = "" if value is None else json.dumps(value) if isinstance(value, list) else str(value)
            assert row[name] == shown
        assert row["error"] == row["message"] == ""
    assert (failure["name"], failure["error"], failure["message"]) == ("c.png", "empty", "Nothing.")
    assert failure["label"] == failure["Red"] == ""


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_runs_no_text(name: str) -> None:
    answer = PLAIN.model_copy(update={"name": name, "label": name})
    row = read(write(answer, Failure.of(name, "empty", name)))
    assert row[0]["name"] == row[0]["label"] == row[1]["name"] == row[1]["message"] == "'" + name


def test_numbers_stay_numbers() -> None:
    answer = PLAIN.model_copy(update={"distance": -1.0, "probabilities": {"Red": 1.0, "Green": 0.0}})
    row = read(write(answer))[0]
    assert (row["distance"], row["Red"], row["Green"]) == ("-1.0", "1.0", "0.0")


def test_answers_are_written_as_they_come() -> None:
    stream = io.StringIO(newline="")

    def answers() -> Iterator[Outcome]:
        for count in range(3):
            assert len(stream.getvalue().splitlines()) == count + 1
            yield PLAIN

    write_csv(stream, answers(), tuple(SHARES))


def test_a_new_field_is_in_json_csv_and_the_description_without_further_lists() -> None:
    sharper = create_model("Sharper", __base__=Prediction, sharpness=(float, Field(description="Of the picture.")))
    answer = sharper(**dict(PLAIN), sharpness=0.25)
    assert list(answer.to_dict()) == [*PLAIN.to_dict(), "sharpness"]
    assert read(write(answer, FAILURE, kind=sharper))[0]["sharpness"] == "0.25"
    app = FastAPI()
    app.get("/one", response_model=sharper)(lambda: answer)
    described = app.openapi()["components"]["schemas"]["Sharper"]["properties"]
    assert list(described) == list(answer.to_dict()) and described["sharpness"]["description"] == "Of the picture."


def test_every_field_is_explained() -> None:
    for kind in (Prediction, Failure, Fault, Box):
        for name, field in kind.model_fields.items():
            assert field.description or name == "error", name

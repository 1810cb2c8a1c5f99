"""The answer for one image: its fields, from which JSON, CSV and the API's description follow."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TextIO

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from metal_defects.config import Share
from metal_defects.data.geometry import Frame
from metal_defects.inference.boxes import Box, find_boxes, return_boxes
from metal_defects.inference.card import BundleCard
from metal_defects.inference.verdict import decide
from metal_defects.records import Record

# Examples, for the API's description.
GOOD: JsonDict = {
    "name": "scratches_1.png",
    "label": "Scratches",
    "confidence": 0.999,
    "probabilities": {"Inclusion": 0.001, "Scratches": 0.999},
    "milliseconds": 7.1,
    "verdict": "accept",
    "reason": None,
    "distance": 0.41,
    "prediction_set": ["Scratches"],
    "boxes": [{"box": [0.21, 0.03, 0.34, 0.97], "score": 0.93}],
}
BAD: JsonDict = {
    "name": "notes.png",
    "error": {
        "code": "not_an_image",
        "message": "The image: no known image format, whatever its suffix. Got a file that starts with 6e 6f 74 65.",
    },
}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_SPREAD = "probabilities"  # a column per class, behind all others


class Prediction(Record):
    """One classified image; the fields below `milliseconds` are null where the model was not evaluated for them."""

    model_config = ConfigDict(json_schema_extra={"examples": [GOOD]})
    name: str | None = Field(description="Of the file, without folders where it was sent; null where it has none.")
    label: str = Field(description="The most probable class.")
    confidence: Share = Field(description="Its probability.")
    probabilities: dict[str, Share] = Field(description="Of every class, in the order of the model.")
    milliseconds: float = Field(ge=0, description="From the file to the answer.")
    verdict: Literal["accept", "review", "unknown"] | None = Field(
        None, description="Take the label as it is, have a person look, or the surface is none that the model knows."
    )
    reason: str | None = Field(None, description="Of the verdict, for people; null where the label is accepted.")
    distance: float | None = Field(
        None, ge=0, description="From the training images; above 1 the surface is none that the model knows."
    )
    prediction_set: tuple[str, ...] | None = Field(
        None, description="The classes that are possible at the model's promised coverage, the most probable first."
    )
    boxes: tuple[Box, ...] | None = Field(None, description="Where the defects are; empty where none was found.")

    def to_dict(self) -> dict[str, Any]:
        """JSON values, always with the same keys in the same order."""
        return self.model_dump(mode="json")


class Fault(Record):
    """What is wrong."""

    code: str = Field(description="Short and stable, for programs.")
    message: str = Field(description="One sentence, for people.")


class Failure(Record):
    """One image that could not be classified; for its code see `ImageError.reason`."""

    model_config = ConfigDict(json_schema_extra={"examples": [BAD]})
    name: str | None = Field(description="Of the file; null where it has none.")
    error: Fault

    @classmethod
    def of(cls, name: str | None, code: str, message: str) -> "Failure":
        """The failure of an image of this name."""
        return cls(name=name, error=Fault(code=code, message=message))

    @property
    def code(self) -> str:
        """Short and stable, for programs."""
        return self.error.code

    @property
    def message(self) -> str:
        """One sentence, for people."""
        return self.error.message

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return self.model_dump(mode="json")


Outcome = Prediction | Failure


def judge_outputs(outputs: Mapping[str, np.ndarray], card: BundleCard, frame: Frame) -> dict[str, Any]:
    """The fields of an answer that rest on the evaluation: verdict, distance, possible classes, boxes.

    Args:
        outputs: of the graph for one image, by name.
        card: of the bundle; says what the model was evaluated for.
        frame: of the image in what the graph saw.
    """
    found: dict[str, Any] = {}
    if card.verdict_rules:
        distance = float(outputs["distance"][0]) if "distance" in outputs else None
        verdict = decide(outputs["probabilities"][0], distance, card.classes, card.verdict_rules)
        found = {
            "verdict": verdict.verdict,
            "reason": verdict.reason,
            "distance": None if distance is None else round(distance, 4),
            "prediction_set": verdict.prediction_set,
        }
    # A map that learned from labels alone shows the place, not the extent.
    if card.locator and card.locator.kind == "boxes":
        found["boxes"] = return_boxes(find_boxes(outputs["heat_map"][0], card.locator.box_threshold), frame)
    return found


def write_csv(
    stream: TextIO, answers: Iterable[Outcome], classes: Sequence[str], kind: type[Prediction] = Prediction
) -> None:
    """One line per image, answered or not; harmless in a spreadsheet.

    Args:
        stream: opened without translation of line ends.
        answers: written one by one, as they come.
        classes: of the model; each gets a column of its own, with its probability.
        kind: of the answers; its fields are the columns.
    """
    fields = [name for name in kind.model_fields if name != _SPREAD]
    faults = ["error" if name == "code" else name for name in Fault.model_fields]
    writer = csv.writer(stream)
    writer.writerow([_as_cell(title) for title in (*fields, *faults, *classes)])
    for answer in answers:
        values = answer.to_dict()
        error, shares = values.get("error", {}), values.get(_SPREAD, {})
        cells = [values.get(name) for name in fields] + [error.get(name) for name in Fault.model_fields]
        writer.writerow([_as_cell(cell) for cell in (*cells, *(shares.get(name) for name in classes))])


def _as_cell(value: Any) -> Any:
    """Lists as JSON; no text that a spreadsheet would run as a formula."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "'" + value if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value

"""The result list as files for other programs."""

import csv
import json
from collections.abc import Sequence
from io import StringIO
from typing import Any

from metal_defects.app.scoring import Row
from metal_defects.inference.bundle import Bundle
from metal_defects.inference.predictor import Failure

_FIELDS = (
    "name", "label", "confidence", "verdict", "reason", "distance", "prediction_set", "boxes", "milliseconds", "sha256",
    "error", "message",
)  # fmt: skip
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def format_csv(rows: Sequence[Row], failures: Sequence[Failure], bundle: Bundle) -> str:
    """One line per image, answered or not, the probability of every class at its end; opens in a spreadsheet."""
    stream = StringIO()
    writer = csv.writer(stream)
    writer.writerow((*_FIELDS, *bundle.classes))
    for row in rows:
        value = _describe(row)
        writer.writerow([*(_as_cell(value.get(field)) for field in _FIELDS), *value["probabilities"].values()])
    for failure in failures:
        value = {"name": failure.name, "error": failure.code, "message": failure.message}
        writer.writerow([_as_cell(value.get(field)) for field in _FIELDS])
    return "\ufeff" + stream.getvalue()  # without the mark, Excel reads names with accents wrongly


def format_json(rows: Sequence[Row], failures: Sequence[Failure], bundle: Bundle) -> str:
    """The same as JSON, with the model that answered."""
    value = {
        "model": {"name": bundle.card["name"], "hash": bundle.hash, "notice": bundle.notice},
        "results": [_describe(row) for row in rows],
        "failures": [failure.to_dict() for failure in failures],
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _describe(row: Row) -> dict[str, Any]:
    return {**row.prediction.to_dict(), "sha256": row.digest}


def _as_cell(value: Any) -> Any:
    """Lists as JSON; no text that a spreadsheet would run as a formula."""
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False)
    return "'" + value if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value

"""The result list as files for other programs."""

import csv
import json
from collections.abc import Sequence
from io import StringIO

from metal_defects.serving.app.scoring import Row
from metal_defects.serving.bundle import Bundle
from metal_defects.serving.predictor import Failure

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def format_csv(rows: Sequence[Row], failures: Sequence[Failure], bundle: Bundle) -> str:
    """One line per image, answered or not; opens in a spreadsheet as it is."""
    stream = StringIO()
    writer = csv.writer(stream)
    writer.writerow(
        ["name", "label", "confidence", *bundle.classes, "verdict", "milliseconds", "sha256", "error", "message"]
    )
    for row in rows:
        answer = row.prediction
        shares = [answer.probabilities[name] for name in bundle.classes]
        found = [_defuse(row.name), answer.label, answer.confidence, *shares]
        writer.writerow([*found, answer.verdict or "", answer.milliseconds, row.digest, "", ""])
    blanks = [""] * (len(bundle.classes) + 5)
    for failure in failures:
        writer.writerow([_defuse(failure.name or ""), *blanks, failure.code, _defuse(failure.message)])
    return "\ufeff" + stream.getvalue()  # without the mark, Excel reads names with accents wrongly


def format_json(rows: Sequence[Row], failures: Sequence[Failure], bundle: Bundle) -> str:
    """The same as JSON, with the model that answered."""
    value = {
        "model": {"name": bundle.card["name"], "hash": bundle.hash, "notice": bundle.notice},
        "results": [{**row.prediction.to_dict(), "sha256": row.digest} for row in rows],
        "failures": [failure.to_dict() for failure in failures],
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _defuse(text: str) -> str:
    """Keep a spreadsheet from running a file name as a formula."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text

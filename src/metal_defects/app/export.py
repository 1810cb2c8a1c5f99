"""The result list as files for other programs."""

import json
from collections.abc import Sequence
from io import StringIO

from pydantic import Field

from metal_defects.app.scoring import Row
from metal_defects.inference.answer import Failure, Prediction, write_csv
from metal_defects.inference.bundle import Bundle


class Listed(Prediction):
    """An answer of the list, with the file that it is for."""

    sha256: str = Field(description="Of the file.")


def format_csv(rows: Sequence[Row], failures: Sequence[Failure], bundle: Bundle) -> str:
    """One line per image, answered or not, the probability of every class at its end; opens in a spreadsheet."""
    stream = StringIO(newline="")
    write_csv(stream, [*map(_list, rows), *failures], bundle.classes, Listed)
    return "\ufeff" + stream.getvalue()  # without the mark, Excel reads names with accents wrongly


def format_json(rows: Sequence[Row], failures: Sequence[Failure], bundle: Bundle) -> str:
    """The same as JSON, with the model that answered."""
    value = {
        "model": {"name": bundle.card.name, "hash": bundle.hash, "notice": bundle.notice},
        "results": [_list(row).to_dict() for row in rows],
        "failures": [failure.to_dict() for failure in failures],
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _list(row: Row) -> Listed:
    return Listed.model_construct(**dict(row.prediction), sha256=row.digest)

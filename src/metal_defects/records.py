"""Typed files: what one module writes and another reads, checked on both sides."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from metal_defects.errors import DataError
from metal_defects.files import write_json, write_text


class Record(BaseModel):
    """A value that does not change once it is made, with no field that its class does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


AnyRecord = TypeVar("AnyRecord", bound=BaseModel)


def write_record(target: Path, record: BaseModel) -> None:
    """Write a record as indented JSON, atomically; NaN is refused."""
    write_json(target, record.model_dump(mode="json"))


def read_record(source: Path, kind: type[AnyRecord]) -> AnyRecord:
    """The record in a JSON file.

    Raises:
        DataError: the file is damaged, or another version wrote it.
    """
    try:
        return kind.model_validate_json(source.read_bytes())
    except ValidationError as error:
        raise _misfit(source, error) from error


def write_rows(target: Path, kind: type[BaseModel], rows: Iterable[BaseModel]) -> None:
    """Write records of one kind as CSV, a column per field; a value that is no number or text is written as JSON."""
    columns = tuple(kind.model_fields)
    values = (row.model_dump(mode="json") for row in rows)
    write_table(target, columns, ([_to_cell(value[name]) for name in columns] for value in values))


def read_rows(source: Path, kind: type[AnyRecord]) -> list[AnyRecord]:
    """The records in a CSV file of `write_rows`.

    Raises:
        DataError: the file is damaged, or another version wrote it.
    """
    try:
        with source.open(newline="", encoding="utf-8") as stream:
            return [kind.model_validate(row) for row in csv.DictReader(stream)]
    except ValidationError as error:
        raise _misfit(source, error) from error


def write_table(target: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file whose columns are known only at run time, atomically, with one kind of line end everywhere."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(target, text.getvalue())


def _to_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _misfit(source: Path, error: ValidationError) -> DataError:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "its content"
    return DataError(
        f"{source} is damaged or of another version; run again with --from {source.parent.name[:2]} --force. "
        f"Got {place}: {first['msg']}."
    )

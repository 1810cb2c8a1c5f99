"""A stage's context without the runner, and the artifacts of earlier stages that it needs."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel

from metal_defects.artifacts import Artifact
from metal_defects.config import Settings
from metal_defects.pipeline.context import Stage, StageContext
from metal_defects.pipeline.table import STAGES
from metal_defects.records import write_record, write_rows


def find_stage(number: str) -> Stage:
    """The row of the table with this number, such as "06"."""
    return next(stage for stage in STAGES if stage.number == number)


def make_context(number: str, settings: Settings, out: Path | None = None) -> StageContext:
    """What the runner would hand to a stage.

    Args:
        number: of the stage.
        settings: of the run; earlier stages' artifacts lie in its artifacts folder.
        out: folder to write to; made here. Without it, the stage's own.
    """
    stage = find_stage(number)
    artifacts = settings.config.paths.artifacts
    folder = artifacts / stage.name if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    resume = artifacts / ".resume" / stage.name
    resume.mkdir(parents=True, exist_ok=True)
    return StageContext(stage, settings, folder, resume)


def place(settings: Settings, artifact: Artifact) -> Path:
    """Where an artifact lies; its folder is made."""
    path = settings.config.paths.artifacts / artifact.writer / artifact.file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def leave(settings: Settings, artifact: Artifact, record: BaseModel) -> None:
    """Write a JSON artifact of an earlier stage."""
    write_record(place(settings, artifact), record)


def leave_rows(settings: Settings, artifact: Artifact, rows: Iterable[BaseModel]) -> None:
    """Write a CSV artifact of an earlier stage; at least one row."""
    listed = list(rows)
    write_rows(place(settings, artifact), type(listed[0]), listed)

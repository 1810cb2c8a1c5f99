"""What a stage is given: the artifacts, settings and outside things that its row names, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from metal_defects.artifacts import Artifact
from metal_defects.config import Settings
from metal_defects.pipeline.digest import look_up
from metal_defects.records import read_record, read_rows

AnyRecord = TypeVar("AnyRecord", bound=BaseModel)


class ContractError(Exception):
    """A stage asked for what its row does not name: a mistake in the program, not of its user."""


@dataclass(frozen=True)
class Outside:
    """Something that a stage reads from outside artifacts/.

    Attributes:
        name: as the plan calls it.
        fingerprint: JSON values that change when it does; found without reading much.
        get: what the stage is given; None where the code of the stage finds it by itself.
    """

    name: str
    fingerprint: Callable[[Settings], dict[str, Any]]
    get: Callable[[Settings], Any] | None = None


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    Attributes:
        name: number and name; also the folder under artifacts/.
        component: import name of the module whose `run(context)` does the work.
        summary: what it does, in a few words.
        settings: dotted keys, as `--set` takes them, of the settings that its result depends on.
        reads: artifacts of earlier stages.
        writes: artifacts that must be there afterwards.
        outside: what it reads from elsewhere.
    """

    name: str
    component: str
    summary: str
    settings: tuple[str, ...]
    reads: tuple[Artifact, ...]
    writes: tuple[Artifact, ...]
    outside: tuple[Outside, ...] = ()

    @property
    def number(self) -> str:
        """Two digits, such as "06"."""
        return self.name[:2]


@dataclass
class Used:
    """Names of what a stage asked for."""

    settings: set[str] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    outside: set[str] = field(default_factory=set)


class StageContext:
    """Hands a stage what its row names.

    Args:
        stage: the row.
        settings: of this run.
        out: folder to write to; becomes `artifacts/<stage>` when the stage succeeds.
        resume: folder that survives a crash of this stage and is removed when it succeeds.

    Attributes:
        banks: folder of features keyed by content, shared by stages and kept between runs.
        used: what the stage has asked for so far.
    """

    def __init__(self, stage: Stage, settings: Settings, out: Path, resume: Path) -> None:
        self.out = out
        self.resume = resume
        self.banks = settings.config.paths.artifacts / "feature_banks"
        self.used = Used()
        self._stage = stage
        self._settings = settings

    def path(self, artifact: Artifact) -> Path:
        """Where an artifact lies; of a pattern, the folder that its files lie in.

        Raises:
            ContractError: the stage's row does not name it.
        """
        if artifact not in self._stage.reads:
            raise self._refuse("reads", artifact.name)
        self.used.reads.add(artifact.name)
        folder = self._settings.config.paths.artifacts / artifact.writer
        return folder if "*" in artifact.file else folder / artifact.file

    def read(self, artifact: Artifact, kind: type[AnyRecord]) -> AnyRecord:
        """The record in an artifact that is a JSON file; raises as `path` and `read_record` do."""
        return read_record(self.path(artifact), kind)

    def read_rows(self, artifact: Artifact, kind: type[AnyRecord]) -> list[AnyRecord]:
        """The records in an artifact that is a CSV file; raises as `path` and `read_rows` do."""
        return read_rows(self.path(artifact), kind)

    def setting(self, key: str) -> Any:
        """A setting, or a section of them, by the key that `--set` takes.

        Raises:
            ContractError: the stage's row names neither the key nor a section that holds it.
        """
        named = next((name for name in self._stage.settings if key == name or key.startswith(f"{name}.")), None)
        if named is None:
            raise self._refuse("settings", key)
        self.used.settings.add(named)
        return look_up(self._settings, key)

    def outside(self, thing: Outside) -> Any:
        """What a row's entry under `outside` gives.

        Raises:
            ContractError: the stage's row does not name it.
        """
        if thing not in self._stage.outside or thing.get is None:
            raise self._refuse("outside", thing.name)
        self.used.outside.add(thing.name)
        return thing.get(self._settings)

    def _refuse(self, column: str, name: str) -> ContractError:
        return ContractError(
            f"Stage {self._stage.name} asked for {name}, which its row in pipeline/table.py does not name; "
            f"add it to `{column}` there, or do without it."
        )

"""Runs the table of stages: nothing that is up to date, nothing on stale inputs, and never half a result."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from metal_defects import __version__
from metal_defects.config import Settings
from metal_defects.errors import BusyError, UserError
from metal_defects.files import read_json, sha256_file, sha256_json, write_json
from metal_defects.log import logger
from metal_defects.pipeline.digest import first_difference, library_versions, settings_subset, source_digest

LOCK = "stage.json"


@dataclass(frozen=True)
class StageContext:
    """What a stage is given.

    Attributes:
        settings: validated settings of this run.
        out: folder to write to; becomes `artifacts/<stage>` when the stage succeeds.
        artifacts: folder of the finished stages.
        resume: folder that survives a crash of this stage and is removed when it succeeds.
    """

    settings: Settings
    out: Path
    artifacts: Path
    resume: Path

    @property
    def feature_banks(self) -> Path:
        """Folder of features keyed by content, shared by stages and kept between runs."""
        return self.artifacts / "feature_banks"

    def data_source(self) -> dict[str, Any]:
        """Kind of the data and the notice that every result must carry."""
        source = read_json(self.artifacts / "01_data_ingestion" / "source.json")
        return {"kind": source["kind"], "notice": source["notice"]}


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    Attributes:
        name: number and name; also the folder under artifacts/.
        component: import name of the module whose `run(context)` does the work.
        summary: what it does, in a few words.
        params: dotted names of the settings that its result depends on.
        reads: files of earlier stages, relative to artifacts/.
        writes: glob patterns that must match something in its folder afterwards.
        fingerprint: identity of what it reads from outside artifacts/.
    """

    name: str
    component: str
    summary: str
    params: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    fingerprint: Callable[[Settings], dict[str, Any]] | None = None

    @property
    def number(self) -> str:
        """Two digits, such as "06"."""
        return self.name[:2]


@dataclass(frozen=True)
class Status:
    """Whether a stage must run, and the first cause."""

    stage: Stage
    hit: bool
    cause: str
    seconds: float | None


def plan(stages: Sequence[Stage], settings: Settings, force: bool = False) -> list[Status]:
    """What a run would do, without doing or importing anything heavy."""
    statuses: list[Status] = []
    for stage in stages:
        stale = [s.stage for s in statuses if not s.hit and any(r.startswith(s.stage.name) for r in stage.reads)]
        if force:
            status = Status(stage, False, "forced", _last_seconds(stage, settings))
        elif stale:
            status = Status(stage, False, f"after {stale[0].number}", _last_seconds(stage, settings))
        else:
            status = stage_status(stage, settings)
        statuses.append(status)
    return statuses


def stage_status(stage: Stage, settings: Settings) -> Status:
    """Compare what the stage would read now with what its lock file recorded."""
    seconds = _last_seconds(stage, settings)
    folder = settings.config.paths.artifacts / stage.name
    record = _read_lock(folder)
    if record is None:
        return Status(stage, False, "no earlier result", seconds)
    cause = first_difference(record["inputs"], stage_inputs(stage, settings)) or _changed_output(folder, record)
    return Status(stage, cause is None, cause or "up to date", seconds)


def run_stages(stages: Sequence[Stage], settings: Settings, force: bool = False) -> list[Status]:
    """Run what is not up to date, in order; stop at the first error.

    Raises:
        BusyError: another run holds the artifacts folder.
        UserError: an earlier stage that is not among `stages` has no current result.
    """
    done = []
    with _only_run(settings.config.paths.artifacts):
        _sweep(settings.config.paths.artifacts)
        for stage in stages:
            status = stage_status(stage, settings)
            if status.hit and not force:
                logger.info("%s  up to date", stage.name)
                # A forced run that was interrupted leaves one for a result that is there.
                shutil.rmtree(_resume_folder(stage, stage_inputs(stage, settings), settings), ignore_errors=True)
            else:
                cause = "forced" if status.hit else status.cause
                logger.info("%s  running (%s)", stage.name, cause)
                status = Status(stage, False, cause, _run_stage(stage, settings))
                logger.info("%s  done in %.1f s", stage.name, status.seconds)
            done.append(status)
    return done


def require_current(stages: Sequence[Stage], settings: Settings) -> None:
    """Refuse to build on earlier stages that are not up to date.

    Raises:
        UserError: naming the first such stage and the cause.
    """
    for status in plan(stages, settings):
        if not status.hit:
            raise UserError(
                f"Stage {status.stage.name} must run first ({status.cause}). "
                f"Start there: --from {status.stage.number}."
            )


def stage_inputs(stage: Stage, settings: Settings) -> dict[str, Any]:
    """Everything that the result of `stage` depends on, as JSON values."""
    artifacts = settings.config.paths.artifacts
    inputs = {
        **settings_subset(settings, stage.params),
        "reads": {name: _recorded_digest(artifacts, name) for name in stage.reads},
        "source": stage.fingerprint(settings) if stage.fingerprint else {},
        "code": source_digest(stage.component),
        "versions": library_versions(),
    }
    return json.loads(json.dumps(inputs))


def _run_stage(stage: Stage, settings: Settings) -> float:
    """Run one stage in a temporary folder and put that folder in place; returns seconds."""
    artifacts = settings.config.paths.artifacts
    inputs = stage_inputs(stage, settings)
    partial = artifacts / f".partial-{stage.name}"
    resume = _resume_folder(stage, inputs, settings)
    partial.mkdir(parents=True)
    resume.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    context = StageContext(settings=settings, out=partial, artifacts=artifacts, resume=resume)
    import_module(stage.component).run(context)
    missing = [pattern for pattern in stage.writes if not any(partial.glob(pattern))]
    if missing:
        raise RuntimeError(f"Stage {stage.name} did not write {', '.join(missing)}.")
    seconds = time.monotonic() - start
    # The fingerprint is taken again: ingestion may just have downloaded what a later run finds on disk.
    final_inputs = stage_inputs(stage, settings) if stage.fingerprint else inputs
    _write_lock(stage, partial, final_inputs, seconds)
    _put_in_place(partial, artifacts / stage.name)
    for folder in resume.parent.glob(f"{stage.name}-*"):
        shutil.rmtree(folder)
    return seconds


def _resume_folder(stage: Stage, inputs: dict[str, Any], settings: Settings) -> Path:
    return settings.config.paths.artifacts / ".resume" / f"{stage.name}-{sha256_json(inputs)[:16]}"


def _write_lock(stage: Stage, folder: Path, inputs: dict[str, Any], seconds: float) -> None:
    outputs = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        stat = path.stat()
        outputs[path.relative_to(folder).as_posix()] = {
            "sha256": sha256_file(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns,
        }  # fmt: skip
    record = {
        "stage": stage.name,
        "version": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "inputs": inputs,
        "outputs": outputs,
    }
    write_json(folder / LOCK, record)


def _put_in_place(partial: Path, final: Path) -> None:
    old = final.with_name(f".old-{final.name}")
    if final.exists():
        final.replace(old)
    partial.replace(final)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _only_run(artifacts: Path):
    """Hold the artifacts folder; the operating system lets go of it however the process ends."""
    artifacts.mkdir(parents=True, exist_ok=True)
    lock = FileLock(artifacts / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(
            f"Another run is using {artifacts}. Wait until it ends, or use another folder with "
            "--set paths.artifacts=FOLDER."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _sweep(artifacts: Path) -> None:
    """Remove what a run that was killed left behind; its resume folders stay."""
    for leftover in [*artifacts.glob(".partial-*"), *artifacts.glob(".old-*"), *artifacts.glob("*/.partial-*")]:
        shutil.rmtree(leftover)


def _read_lock(folder: Path) -> dict[str, Any] | None:
    try:
        record = read_json(folder / LOCK)
        return record if {"inputs", "outputs", "seconds"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _recorded_digest(artifacts: Path, name: str) -> str | None:
    stage, _, file = name.partition("/")
    record = _read_lock(artifacts / stage)
    return record["outputs"].get(file, {}).get("sha256") if record else None


def _changed_output(folder: Path, record: dict[str, Any]) -> str | None:
    """The first output that is gone or altered; bytes are read only where size or time differ."""
    for name, expected in record["outputs"].items():
        try:
            stat = (folder / name).stat()
        except OSError:
            return f"{name} is gone"
        if stat.st_size == expected["bytes"] and stat.st_mtime_ns == expected["mtime_ns"]:
            continue
        if stat.st_size != expected["bytes"] or sha256_file(folder / name) != expected["sha256"]:
            return f"{name} was altered"
    return None


def _last_seconds(stage: Stage, settings: Settings) -> float | None:
    record = _read_lock(settings.config.paths.artifacts / stage.name)
    return record["seconds"] if record else None

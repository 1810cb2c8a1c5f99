"""Runs the table of stages: nothing that is up to date, nothing on stale inputs, and never half a result."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from metal_defects import __version__
from metal_defects.artifacts import Artifact
from metal_defects.config import Settings
from metal_defects.errors import BusyError, UserError
from metal_defects.files import read_json, sha256_file, sha256_json, write_json
from metal_defects.log import logger
from metal_defects.pipeline.context import Stage, StageContext, Used
from metal_defects.pipeline.digest import CACHE, CodeDigests, explain_difference, flatten_settings, library_versions
from metal_defects.system import stop_if_interrupted

LOCK = "stage.json"


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
    code = _code_digests(settings)
    for stage in stages:
        written = {artifact.writer for artifact in stage.reads}
        stale = [status.stage for status in statuses if not status.hit and status.stage.name in written]
        if force:
            status = Status(stage, False, "forced", _last_seconds(stage, settings))
        elif stale:
            status = Status(stage, False, f"after {stale[0].number}", _last_seconds(stage, settings))
        else:
            status = stage_status(stage, settings, code)
        statuses.append(status)
    code.save()
    return statuses


def stage_status(stage: Stage, settings: Settings, code: CodeDigests) -> Status:
    """Compare what the stage would read now with what its lock file recorded."""
    record = _read_lock(settings.config.paths.artifacts / stage.name)
    if record is None:
        return Status(stage, False, "no earlier result", None)
    cause = explain_difference(record["inputs"], stage_inputs(stage, settings, code))
    cause = cause or _changed_output(settings.config.paths.artifacts / stage.name, record)
    return Status(stage, cause is None, cause or "up to date", record["seconds"])


def run_stages(stages: Sequence[Stage], settings: Settings, force: bool = False) -> list[Status]:
    """Run what is not up to date, in order; stop at the first error.

    Raises:
        BusyError: another run holds the artifacts folder.
        UserError: an earlier stage that is not among `stages` has no current result.
    """
    done = []
    artifacts = settings.config.paths.artifacts
    with _only_run(artifacts):
        _sweep(artifacts)
        code = _code_digests(settings)
        for stage in stages:
            status = stage_status(stage, settings, code)
            if status.hit and not force:
                logger.info("%s  up to date", stage.name)
                # A forced run that was interrupted leaves one for a result that is there.
                shutil.rmtree(_resume_folder(stage, stage_inputs(stage, settings, code), settings), ignore_errors=True)
            else:
                cause = "forced" if status.hit else status.cause
                logger.info("%s  running (%s)", stage.name, cause)
                seconds = _run_stage(stage, settings, code)
                status = Status(stage, False, cause, seconds)
                logger.info("%s  done in %.1f s", stage.name, seconds)
            done.append(status)
        code.save()
    return done


def require_current(stages: Sequence[Stage], settings: Settings) -> None:
    """Refuse to build on earlier stages that are not up to date.

    Raises:
        UserError: naming the first such stage and the cause.
    """
    for status in plan(stages, settings):
        if not status.hit:
            raise UserError(
                f"Stage {status.stage.name} must run first ({status.cause}). Start there: --from {status.stage.number}."
            )


def stage_inputs(stage: Stage, settings: Settings, code: CodeDigests) -> dict[str, Any]:
    """Everything that the result of `stage` depends on, as JSON values."""
    artifacts = settings.config.paths.artifacts
    return {
        "settings": flatten_settings(settings, stage.settings),
        "reads": {artifact.name: _recorded_digest(artifacts, artifact) for artifact in stage.reads},
        "outside": {thing.name: thing.fingerprint(settings) for thing in stage.outside},
        "code": code.of(stage.component),
        "versions": library_versions(),
    }


def _code_digests(settings: Settings) -> CodeDigests:
    return CodeDigests(settings.config.paths.artifacts / CACHE)


def _run_stage(stage: Stage, settings: Settings, code: CodeDigests) -> float:
    """Run one stage in a temporary folder and put that folder in place; returns seconds."""
    artifacts = settings.config.paths.artifacts
    inputs = stage_inputs(stage, settings, code)
    partial = artifacts / f".partial-{stage.name}"
    resume = _resume_folder(stage, inputs, settings)
    partial.mkdir(parents=True)
    resume.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    context = StageContext(stage, settings, partial, resume)
    import_module(stage.component).run(context)
    stop_if_interrupted()
    missing = [artifact.file for artifact in stage.writes if not any(partial.glob(artifact.file))]
    if missing:
        raise RuntimeError(f"Stage {stage.name} did not write {', '.join(missing)}.")
    seconds = time.monotonic() - start
    # Fingerprints are taken again: ingestion may just have downloaded what a later run finds on disk.
    outside = {thing.name: thing.fingerprint(settings) for thing in stage.outside}
    _write_lock(stage, partial, inputs | {"outside": outside}, context.used, seconds)
    _put_in_place(partial, artifacts / stage.name)
    for folder in resume.parent.glob(f"{stage.name}-*"):
        shutil.rmtree(folder)
    return seconds


def _resume_folder(stage: Stage, inputs: dict[str, Any], settings: Settings) -> Path:
    return settings.config.paths.artifacts / ".resume" / f"{stage.name}-{sha256_json(inputs)[:16]}"


def _write_lock(stage: Stage, folder: Path, inputs: dict[str, Any], used: Used, seconds: float) -> None:
    outputs = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        stat = path.stat()
        described = {"sha256": sha256_file(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        outputs[path.relative_to(folder).as_posix()] = described
    record = {
        "stage": stage.name,
        "version": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "inputs": inputs,
        "asked_for": {name: sorted(names) for name, names in asdict(used).items()},
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
def _only_run(artifacts: Path) -> Iterator[None]:
    """Hold the artifacts folder; the operating system lets go of it however the process ends."""
    from filelock import FileLock, Timeout

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
        return _parse_lock(folder / LOCK, (folder / LOCK).stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _parse_lock(path: Path, _mtime_ns: int) -> dict[str, Any] | None:
    """What a lock file holds, None where it is damaged or of another version; the time is part of the cache's key."""
    try:
        record = read_json(path)
        return record if {"inputs", "outputs", "seconds", "asked_for"} <= record.keys() else None
    except (ValueError, AttributeError):
        return None


def _recorded_digest(artifacts: Path, artifact: Artifact) -> str | None:
    """One digest for all files of an artifact, as its writer's lock file has them; None where there is none."""
    record = _read_lock(artifacts / artifact.writer)
    if record is None:
        return None
    patterns = artifact.known_by or (artifact.file, f"{artifact.file}/*")
    files = {
        name: output["sha256"]
        for name, output in record["outputs"].items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    return sha256_json(files) if files else None


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


@dataclass(frozen=True)
class Finished:
    """A stage that has run: its name, how long it took, and when it ended (ISO 8601)."""

    stage: str
    seconds: float
    finished: str


def read_history(artifacts: Path) -> tuple[Finished, ...]:
    """The stages that have a result, in their order."""
    folders = sorted(path.parent for path in artifacts.glob(f"[0-9][0-9]_*/{LOCK}"))
    records = [(folder.name, _read_lock(folder)) for folder in folders]
    return tuple(Finished(name, one["seconds"], one["finished"]) for name, one in records if one)

"""The command line as a user runs it, with every folder in a temporary place."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metal_defects.files import read_json, sha256_file
from metal_defects.pipeline.context import Stage
from metal_defects.pipeline.table import STAGES
from support import PROJECT
from support.warm import Preparation, WarmProcess

IMAGES_PER_CLASS = 14
TIMEOUT = 2400
# A search that is disturbed: first looks at two recipes, then each of them without views and with all.
LONGER, TRIALS = "hyperparameter_tuning.views=[all,none]", 6
# A limit for images that none of them reaches.
WIDER = "image.max_side=9000"
SMALL = (
    f"data_ingestion.synthetic_images_per_class={IMAGES_PER_CLASS}",
    "data_preprocessing.image_size=64",
    "training.epochs=3",
    "hyperparameter_tuning.max_trials=2",
    "hyperparameter_tuning.views=[none]",
    "hyperparameter_tuning.budget_seconds=3600",
    "training.fine_tune=false",
    "model_evaluation.folds=2",
    "model_evaluation.robustness_images=6",
    "model_export.int8=false",
)
REPORT_MODULES = (
    "import runpy, sys\n"
    "try:\n"
    "    runpy.run_path('main.py', run_name='__main__')\n"
    "finally:\n"
    "    print('LOADED', *sorted({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)), file=sys.stderr)\n"
)


@dataclass(frozen=True)
class Workshop:
    """A folder to run the pipeline in.

    Attributes:
        folder: holds artifacts/, logs/, downloads/ and weights/.
        data: images, or None for the built-in synthetic set.
        settings: overrides, each `key=value`.
    """

    folder: Path
    data: Path | None
    settings: tuple[str, ...] = SMALL

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def log(self) -> str:
        return (self.folder / "logs" / "metal_defects.log").read_text()

    def stage(self, number: str) -> Path:
        return self.artifacts / next(stage.name for stage in STAGES if stage.number == number)

    def read(self, name: str) -> Any:
        return read_json(self.artifacts / name)

    def with_settings(self, *settings: str) -> "Workshop":
        return replace(self, settings=(*self.settings, *settings))

    def arguments(self, name: str, *more: str) -> list[str]:
        """What follows main.py on the command line."""
        paths = [f"paths.{part}={self.folder / part}" for part in ("artifacts", "logs", "downloads", "weights")]
        source = "data.source=synthetic" if self.data is None else f"data.path={self.data}"
        settings = [text for setting in (source, *paths, *self.settings) for text in ("--set", setting)]
        takes_models = name in ("run", "plan") and "--models" not in more
        models = ["--models", "efficientnet_lite0"] if takes_models else []
        return [name, *models, *settings, *more]

    def command(self, name: str, *more: str, code: str | None = None) -> list[str]:
        """The whole command line; `code` stands in for main.py."""
        start = ["-c", code] if code else ["main.py"]
        return [sys.executable, *start, *self.arguments(name, *more)]

    def start(self, name: str, *more: str, before: Preparation | None = None, measured: bool = False) -> WarmProcess:
        """Begin a command; see `WarmProcess`."""
        return WarmProcess(self.arguments(name, *more), _environment(), before, measured)

    def run(
        self, name: str = "run", *more: str, before: Preparation | None = None, measured: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        process = self.start(name, *more, before=before, measured=measured)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run_cold(
        self, name: str, *more: str, code: str | None = None, project: Path = PROJECT
    ) -> "subprocess.CompletedProcess[str]":
        """The same in a new interpreter, in which nothing is imported; `code` stands in for main.py."""
        options = {"capture_output": True, "text": True, "timeout": TIMEOUT}
        return subprocess.run(self.command(name, *more, code=code), cwd=project, env=_environment(), **options)

    def remove(self, *numbers: str) -> None:
        """Remove what stages have written."""
        for number in numbers:
            shutil.rmtree(self.stage(number))


def _environment() -> dict[str, str]:
    """Variables of a user who has set none of this program's, before a narrow terminal."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("METAL_DEFECTS_")}
    return kept | {"COLUMNS": "80"}


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by column."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def assert_success(answer: "subprocess.CompletedProcess[str]") -> None:
    assert answer.returncode == 0, f"{answer.stdout}\n{answer.stderr}"


def assert_one_sentence(answer: "subprocess.CompletedProcess[str]", *parts: str) -> None:
    """A failure that a user can read: exit code 1, one line on standard error, no traceback anywhere."""
    assert answer.returncode == 1, f"{answer.stdout}\n{answer.stderr}"
    assert "Traceback" not in answer.stdout + answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1, answer.stderr
    for part in parts:
        assert part in answer.stderr


def assert_whole(workshop: Workshop, stages: Sequence[Stage] = STAGES) -> None:
    """Every recorded file has the recorded bytes, no other lies beside them, and nothing half done lies about."""
    for stage in stages:
        folder = workshop.artifacts / stage.name
        record = json.loads((folder / "stage.json").read_text())
        on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert on_disk == {*record["outputs"], "stage.json"}
        for name, expected in record["outputs"].items():
            assert sha256_file(folder / name) == expected["sha256"], f"{stage.name}/{name}"
    leftovers = [path for pattern in (".partial-*", ".old-*") for path in workshop.artifacts.rglob(pattern)]
    assert not leftovers, leftovers
    assert not list((workshop.artifacts / ".resume").iterdir())


def assert_complete(workshop: Workshop) -> None:
    """Every stage is whole and up to date."""
    assert_whole(workshop)
    answer = workshop.run()
    assert_success(answer)
    assert f"{len(STAGES)} of {len(STAGES)} stages up to date" in answer.stdout


def kill_when(workshop: Workshop, moment: Callable[[], bool], delay: float = 0.0, *arguments: str) -> bool:
    """Start a run and kill it `delay` seconds after `moment`; False where the run ended first."""
    process = workshop.start("run", *arguments)
    try:
        while not moment():
            if process.poll() is not None:
                return False
            time.sleep(0.005)
        time.sleep(delay)
        return process.poll() is None
    finally:
        process.kill()
        process.communicate()

"""What the benchmarks share: stages run in a temporary folder, the machine, one table and one JSON file."""

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import typer
from rich.table import Table

from metal_defects.artifacts import IMAGES, LOADER, MANIFEST, MODELS, Artifact
from metal_defects.components.c05_callbacks import build_callbacks
from metal_defects.config import Settings, load_settings
from metal_defects.data.manifest import SPLITS, ImageRow, ManifestRow
from metal_defects.data.snapshots import ClassLabels, load_class_labels, load_labels
from metal_defects.errors import UserError
from metal_defects.files import write_json
from metal_defects.log import console, library_noise_to
from metal_defects.metrics import Metrics, classification_metrics
from metal_defects.models.results import ModelList
from metal_defects.models.trainers import FrozenTrainer
from metal_defects.models.training import MakeCallbacks, Training
from metal_defects.pipeline.context import Stage
from metal_defects.pipeline.digest import library_versions
from metal_defects.pipeline.runner import run_stages
from metal_defects.records import read_record, read_rows

PROJECT = Path(__file__).resolve().parents[1]
# What 240 of 300 images per class are; a tenth of them becomes the validation part.
SPLIT_80_20 = "data_ingestion.split={train: 0.8, test: 0.2}"

Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Folder, .zip or .tar.gz of images; any usual layout.")
]
Model = Annotated[
    str, typer.Option("--model", metavar="NAME", help="A pretrained model of params.yaml, such as resnet50.")
]
Seeds = Annotated[str, typer.Option("--seeds", metavar="N,N,...", help="One repetition for each of these seeds.")]


@dataclass(frozen=True)
class Known:
    """What is known of all images, in the order of `SPLITS`.

    Attributes:
        labels: class indices, (images,).
        rows: of the manifest.
        groups: images with the same value are copies of one another, (images,).
    """

    labels: np.ndarray
    rows: list[ManifestRow]
    groups: np.ndarray


@dataclass(frozen=True)
class Workspace:
    """The results of some stages in a temporary folder.

    Attributes:
        settings: of the run.
        scratch: folder for whatever a benchmark writes.
    """

    settings: Settings
    scratch: Path

    def path(self, artifact: Artifact) -> Path:
        """Where an artifact lies."""
        return self.settings.config.paths.artifacts / artifact.name

    @property
    def snapshots(self) -> Path:
        """Folder of stage 03."""
        return self.settings.config.paths.artifacts / LOADER

    @cached_property
    def labels(self) -> ClassLabels:
        """Classes and shape of the images."""
        return load_class_labels(self.snapshots)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names."""
        return self.labels.classes

    @cached_property
    def known(self) -> Known:
        """Of all images."""
        manifest = {row.path: row for row in read_rows(self.path(MANIFEST), ManifestRow)}
        images = read_rows(self.path(IMAGES), ImageRow)
        rows = [manifest[image.source] for split in SPLITS for image in images if image.split == split]
        labels = np.array([self.classes.index(row.label) for row in rows], np.int32)
        return Known(labels, rows, np.array([row.group for row in rows]))

    @property
    def training(self) -> Training:
        """What every fit has in common."""
        params = self.settings.params
        return Training(
            seed=params.seed,
            image_size=self.labels.image_size,
            builder=params.model_builder,
            training=params.training,
            snapshots=self.snapshots,
            banks=self.scratch / "banks",
        )

    @property
    def make_callbacks(self) -> MakeCallbacks:
        """The product's, for models that are thrown away."""
        return partial(build_callbacks, self.settings.params.callbacks, is_trial=True)


@contextmanager
def workspace(stages: Sequence[Stage], *overrides: str) -> Iterator[Workspace]:
    """Run stages in a temporary folder and yield their results; the folder goes at the end.

    Args:
        stages: the first rows of the table.
        overrides: `section.key=value` texts, on top of the settings files.
    """
    with TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        own = [f"paths.{part}={folder / part}" for part in ("artifacts", "downloads")]
        settings = load_settings(PROJECT, [*own, *overrides])
        console.print(f"Running stages {stages[0].number} to {stages[-1].number} ...", style="dim", highlight=False)
        with library_noise_to(folder / "libraries.log"):
            run_stages(stages, settings)
            scratch = folder / "scratch"
            scratch.mkdir()
            yield Workspace(settings, scratch)


def use_data(data: Path) -> str:
    """The override that makes `data` the source of the images."""
    return f"data.path={data.expanduser().absolute()}"


def use_model(name: str) -> tuple[str, str]:
    """The overrides that build this model alone, and only with its ImageNet weights."""
    return f"model_builder.models=[{name}]", "model_builder.on_missing_weights=error"


def open_frozen(place: Workspace, training: Training | None = None) -> FrozenTrainer:
    """The trainer of the one model of a run; `training` stands in for what the run says.

    Raises:
        UserError: the model has no pretrained backbone.
    """
    entry = read_record(place.path(MODELS), ModelList).models[0]
    if not entry.is_frozen:
        raise UserError(f"--model must name a pretrained model. Got {entry.name} ({entry.weights}).")
    return FrozenTrainer(entry, training or place.training)


def score_test(place: Workspace, probabilities: np.ndarray) -> Metrics:
    """Metrics of class probabilities, (images, classes), of the test split."""
    return classification_metrics(load_labels(place.snapshots, "test"), probabilities, place.classes)


def parse_seeds(text: str) -> list[int]:
    """Whole numbers from "1,2,3".

    Raises:
        UserError: a part is not a whole number from 0, or there is none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UserError(f"--seeds must be whole numbers with commas between them, such as 1,2,3. Got '{text}'.")
    return [int(part) for part in parts]


def describe_machine() -> dict[str, Any]:
    """Cores, processor, load before the start and versions: what a time means nothing without."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "processor": processor,
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **library_versions(),
    }


def make_table(title: str, *columns: str) -> Table:
    """An empty table, its first column to the left and the others, numbers as a rule, to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    return table


def report(name: str, tables: Sequence[Table], notes: Sequence[str], machine: Mapping[str, Any], result: Any) -> None:
    """Print tables, notes and the machine, and write artifacts/benchmarks/<name>.json.

    Args:
        name: of the benchmark.
        tables: to print.
        notes: sentences below the tables.
        machine: from `describe_machine`, taken before the work.
        result: JSON-able figures.
    """
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    for note in notes:
        console.print(note, highlight=False)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), style="dim", highlight=False)
    target = load_settings(PROJECT).config.paths.artifacts / "benchmarks" / f"{name}.json"
    write_json(target, {"benchmark": name, "machine": machine, "result": result})
    console.print(f"Written: {target}", soft_wrap=True, highlight=False)


def start(command: Callable[..., None]) -> None:
    """Run `command` as a script; mistakes of the user become one sentence."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app()
    except UserError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        sys.exit(1)

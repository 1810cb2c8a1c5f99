"""The command `predict`. It runs where nothing but the base requirements is installed.

NumPy, Pillow and the model are imported once the command runs, so that other commands start without them.
"""

import glob
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metal_defects.cli.start import start_logging
from metal_defects.config import find_root, load_settings
from metal_defects.errors import BundleError, UserError
from metal_defects.files import atomic_path
from metal_defects.log import console, library_noise_to, logger, track

if TYPE_CHECKING:
    from metal_defects.inference.answer import Outcome
    from metal_defects.inference.predictor import Predictor

MOST_SHARES = 6
LEAST_SHARE = 0.0005  # reads 0.1 %; in the table, smaller ones are left out
Runtime = Literal["onnx", "keras"]


class Format(StrEnum):
    """How `predict` writes its answers."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


_FORMAT_OF = {".jsonl": Format.JSONL, ".json": Format.JSONL, ".csv": Format.CSV}


def predict(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders, or patterns such as 'line3/*.jpg'.")
    ],
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="How to write the answers; as --output ends, else a table.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for [b]--format jsonl[/b].")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the answers to this file.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="DIR", help="Bundle; else your own run's, else the shipped one.")
    ] = None,
    runtime: Annotated[Runtime, typer.Option("--runtime", help="keras: the .h5 file of your own run.")] = "onnx",
    variant: Annotated[
        str | None, typer.Option("--variant", metavar="NAME", help="float32 or int8; else the bundle's default.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting. Repeatable.")
    ] = None,
) -> None:
    """Classify images: label, confidence and the probability of every class.

    Files that cannot be used are listed with the reason beside the answers for the others; the exit code is then 1.

    Examples:

      python main.py predict part_17.jpg

      python main.py predict line3/ 'line4/*.png' --output answers.csv
    """
    from metal_defects.inference.bundle import find_bundle
    from metal_defects.inference.predictor import Predictor

    settings = load_settings(find_root(), overrides or [])
    log_file = start_logging(settings)
    chosen = _choose_format(format_, as_json, output)
    paths = find_images(images)
    folder = find_bundle(settings.config.paths.artifacts, bundle)
    predictor = load_keras(folder, variant, log_file) if runtime == "keras" else Predictor.load(folder, variant)
    start = time.perf_counter()
    answers: Iterable[Outcome] = predictor.predict_many((show_name(path), path) for path in paths)
    if (output or chosen is Format.TABLE) and len(paths) > 1:
        answers = track(answers, "Classifying", total=len(paths))
    counts: Counter[str | None] = Counter()
    verdicts: Counter[str] = Counter()
    answers = _count(answers, counts, verdicts)
    if output:
        with atomic_path(output) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            _write(answers, chosen, predictor.bundle.classes, stream)
    else:
        _write(answers, chosen, predictor.bundle.classes, sys.stdout)
    if output or chosen is Format.TABLE:
        _show_summary(counts, verdicts, time.perf_counter() - start, output)
    if predictor.bundle.notice:
        typer.echo(f"! {predictor.bundle.notice}", err=True)
    if counts[None]:
        raise typer.Exit(1)


def find_images(arguments: Iterable[str]) -> list[Path]:
    """Files that the arguments stand for, in their order; those of a folder or pattern sorted.

    What exists by its very name is never read as a pattern; what does not exist stays in the list, to be reported.

    Raises:
        UserError: no argument stands for any file.
    """
    found: list[Path] = []
    for text in arguments:
        path = Path(text).expanduser()
        # Path.glob takes no absolute patterns.
        matches = [] if os.path.lexists(path) else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        for match in [Path(name) for name in matches] or [path]:
            found += _list_folder(match) if match.is_dir() else [match]
    if not found:
        raise UserError(f"There is no image to classify. Got {' '.join(arguments)}.")
    return found


def show_name(path: Path) -> str:
    """The path as text that any terminal and file can hold, even where its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _list_folder(folder: Path) -> list[Path]:
    """Images in a folder and all below it, judged by their suffix, hidden ones left out."""
    from metal_defects.data.layouts import IMAGE_SUFFIXES

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    visible = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    images = [path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        logger.warning("%s holds no images (%s)", folder, ", ".join(sorted(IMAGE_SUFFIXES)))
    elif len(images) < len(visible):
        logger.info("%s: %d other files were left out", folder, len(visible) - len(images))
    return images


def load_keras(folder: Path, variant: str | None = None, log_file: Path | None = None) -> "Predictor":
    """A predictor on the .h5 file that the bundle was made from, for those who doubt the exported graph.

    Raises:
        BundleError: the bundle is not usable, the run that made it is gone, or TensorFlow is not installed.
    """
    from metal_defects.inference.bundle import load_bundle
    from metal_defects.inference.predictor import Predictor

    if variant not in (None, "float32"):
        raise BundleError(f"The keras runtime has the variant float32 alone. Got '{variant}' instead.")
    bundle = load_bundle(folder)
    with library_noise_to(log_file.with_name("libraries.log")) if log_file else nullcontext():
        try:
            import keras  # noqa: F401

            from metal_defects.trust.answer import call_by_name, load_answer_model
        except ModuleNotFoundError as error:
            raise BundleError(
                "The keras runtime needs TensorFlow and Keras: pip install -r requirements.txt, or use the onnx "
                "runtime."
            ) from error
        infer = call_by_name(*load_answer_model(bundle.keras_artifacts()))
        return Predictor(bundle, lambda _: infer)


def _choose_format(format_: Format | None, as_json: bool, output: Path | None) -> Format:
    if as_json:
        return Format.JSONL
    return format_ or _FORMAT_OF.get(output.suffix.lower() if output else "", Format.TABLE)


def _count(answers: "Iterable[Outcome]", counts: Counter[str | None], verdicts: Counter[str]) -> "Iterator[Outcome]":
    """Pass answers on and count their labels, failures under None, and their verdicts."""
    from metal_defects.inference.answer import Prediction

    for answer in answers:
        counts[answer.label if isinstance(answer, Prediction) else None] += 1
        if isinstance(answer, Prediction) and answer.verdict:
            verdicts[answer.verdict] += 1
        yield answer


def _write(answers: "Iterable[Outcome]", format_: Format, classes: tuple[str, ...], stream: TextIO) -> None:
    from metal_defects.inference.answer import write_csv

    if format_ is Format.TABLE:
        target = console if stream is sys.stdout else Console(file=stream, width=160)
        target.print(_make_table(answers))
    elif format_ is Format.JSONL:
        for answer in answers:
            stream.write(json.dumps(answer.to_dict()) + "\n")
    else:
        write_csv(stream, answers, classes)


def _make_table(answers: "Iterable[Outcome]") -> Table:
    from metal_defects.inference.answer import Failure
    from metal_defects.inference.verdict import VERDICTS

    table = Table(box=None, pad_edge=False)
    for title in ("image", "verdict", "label", "confidence", "why, or all classes"):
        table.add_column(title, overflow="fold")
    for answer in answers:
        name = escape(answer.name or "")
        if isinstance(answer, Failure):
            table.add_row(name, "[red]error[/]", "", "", escape(answer.message))
            continue
        ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])[:MOST_SHARES]
        shown = [(label, share) for label, share in ranked if share >= LEAST_SHARE] or ranked[:1]
        others = ", ".join(f"{escape(label)} {100 * share:.1f}" for label, share in shown)
        verdict = f"[{VERDICTS[answer.verdict].terminal}]{answer.verdict}[/]" if answer.verdict else ""
        label, share = f"[bold]{escape(answer.label)}[/]", f"{100 * answer.confidence:.1f} %"
        table.add_row(name, verdict, label, share, escape(answer.reason) if answer.reason else others)
    return table


def _show_summary(counts: Counter[str | None], verdicts: Counter[str], seconds: float, output: Path | None) -> None:
    from metal_defects.inference.verdict import VERDICTS

    total, failed = counts.total(), counts[None]
    if total > 1:
        labels = ", ".join(f"{escape(label)} {n}" for label, n in counts.most_common() if label is not None)
        failures = f"[red]{failed} failed[/], " if failed else ""
        if verdicts:
            console.print("Verdicts: " + ", ".join(f"{name} {verdicts[name]}" for name in VERDICTS))
        console.print(f"{total} images: {labels}{', ' if labels else ''}{failures}{seconds:.1f} s in all.")
    if output:
        console.print(f"Answers: {escape(str(output))}", soft_wrap=True)

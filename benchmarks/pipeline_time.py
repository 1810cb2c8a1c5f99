"""Times the pipeline from nothing to a tested model, and again with nothing to do: `--help` tells the rest."""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from _common import PROJECT, Data, describe_machine, make_table, report, start
from _timing import measure_bare_rate, read_pixels

from metal_defects.artifacts import BUNDLE, IMAGES, LEADERBOARD, PREPROCESSED, TUNED_METRICS, TUNING
from metal_defects.data.manifest import ImageRow
from metal_defects.errors import UserError
from metal_defects.files import read_json
from metal_defects.inference.bundle import load_bundle
from metal_defects.log import console
from metal_defects.metrics import format_accuracy
from metal_defects.models.results import Leaderboard, TunedResult
from metal_defects.pipeline.digest import explain_difference
from metal_defects.pipeline.runner import LOCK
from metal_defects.pipeline.table import STAGES
from metal_defects.records import read_record, read_rows

REPEATS = 3
BARE_SECONDS = 4.0  # of each way to call the bare graph


def main(
    data: Data,
    models: Annotated[
        str | None, typer.Option("--models", metavar="NAMES", help="As for main.py; without it all of params.yaml.")
    ] = None,
) -> None:
    """Run main.py in a fresh folder, then again, and time everything a user waits for.

    The first run starts from nothing but the images and whatever weights files are on this machine. The second one
    has nothing to do: every stage must be up to date. `plan` and `--help` are the medians of three calls. One bare
    pass, right after the run, is all of its images once through the exported graph on ready pixels: a unit that
    hardly depends on the machine.

    Example: python benchmarks/pipeline_time.py --data ~/NEU-DET --models efficientnet_lite0
    """
    machine = describe_machine()
    with TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        options = ["--data", str(data.expanduser().absolute()), *(["--models", models] if models else [])]
        for part in ("artifacts", "logs", "downloads"):
            options += ["--set", f"paths.{part}={folder / part}"]
        console.print("Running the pipeline from nothing ...")
        total = _time_command("run", *options)
        records = read_records(folder / "artifacts")
        bare = time_bare_pass(folder / "artifacts")
        repeated = _time_command("run", *options)
        _check_repeated(records, read_records(folder / "artifacts"))
        plan = statistics.median(_time_command("plan", *options) for _ in range(REPEATS))
        usage = statistics.median(_time_command("--help") for _ in range(REPEATS))
        tuned = read_record(folder / "artifacts" / TUNED_METRICS.name, TunedResult)
        ranked = read_record(folder / "artifacts" / LEADERBOARD.name, Leaderboard).models
    stages = {record["stage"]: record["seconds"] for record in records}
    to_test = sum(seconds for stage, seconds in stages.items() if stage <= TUNING)
    table = make_table("The pipeline from nothing", "stage", "seconds", "bare passes")
    rest = {"start, checks and digests": total - sum(stages.values())}
    whole = {"from nothing to the tuned model and its test": to_test, "all": total}
    for what, seconds in (stages | rest | whole).items():
        style = "bold" if what in whole else None
        table.add_row(what, f"{seconds:.1f}", f"{seconds / bare:.1f}", style=style)
    quick = make_table("With nothing to do", "command", "seconds")
    for command, seconds in (("run, all stages up to date", repeated), ("plan", plan), ("--help", usage)):
        quick.add_row(command, f"{seconds:.2f}")
    names = ", ".join(f"{row.title} ({row.weights})" for row in ranked)
    notes = [
        f"Models: {names}. One bare pass: {bare:.2f} s.",
        f"Tuned {tuned.title}: test {format_accuracy(tuned.test)}.",
    ]
    result = {
        "models": [{"name": row.name, "weights": row.weights, "seconds": row.seconds} for row in ranked],
        "seconds": {"all": round(total, 1), "to_test": round(to_test, 1), "stages": stages},
        "bare_pass_seconds": round(bare, 2),
        "nothing_to_do": {"run": round(repeated, 2), "plan": round(plan, 2), "help": round(usage, 2)},
        "test": tuned.test.model_dump(mode="json"),
    }
    report("pipeline_time", [table, quick], notes, machine, result)


def read_records(artifacts: Path) -> list[dict[str, Any]]:
    """What the stages recorded of themselves, in the order of the table."""
    return [read_json(artifacts / stage.name / LOCK) for stage in STAGES]


def time_bare_pass(artifacts: Path) -> float:
    """Seconds that all images of the run take through its exported graph, on ready pixels."""
    bundle, rows = load_bundle(artifacts / BUNDLE.name), read_rows(artifacts / IMAGES.name, ImageRow)
    chosen = [rows[int(index)].path for index in np.linspace(0, len(rows) - 1, 64)]
    files = [artifacts / PREPROCESSED.writer / path for path in chosen]
    rate = measure_bare_rate(bundle.variant_file(bundle.card.default), read_pixels(bundle, files), BARE_SECONDS)
    return len(rows) / rate


def _check_repeated(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """Refuse a second run that had something to do.

    Raises:
        UserError: naming the first stage that ran again, and the cause.
    """
    for old, new in zip(before, after, strict=True):
        if old != new:
            cause = explain_difference(old["inputs"], new["inputs"]) or "an output was altered"
            raise UserError(f"The second run should have nothing to do, but it repeated {new['stage']}: {cause}.")


def _time_command(*arguments: str) -> float:
    """Seconds that one call of main.py takes, from start to exit.

    Raises:
        UserError: it failed; with what it said last.
    """
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, str(PROJECT / "main.py"), *arguments], capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UserError(f"main.py {arguments[0]} failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return seconds


if __name__ == "__main__":
    start(main)

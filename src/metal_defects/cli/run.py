"""The commands `run` and `plan`: which stages to run, and what they came to."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from metal_defects.config import Settings, find_root, load_settings
from metal_defects.errors import ConfigError
from metal_defects.log import console, library_noise_to, setup_logging
from metal_defects.models.specs import require_models

if TYPE_CHECKING:
    from metal_defects.metrics import Score
    from metal_defects.models.results import BaseResult, TunedResult
    from metal_defects.pipeline.context import Stage
    from metal_defects.pipeline.runner import Status

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder, .zip or .tar.gz of images; any usual layout is recognised."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as [b]seed=7[/b]. Repeatable."),
]
Models = Annotated[
    str | None,
    typer.Option("--models", metavar="NAMES", help="Models to train, such as [b]resnet50,custom_cnn[/b]."),
]
Only = Annotated[str | None, typer.Option("--only", metavar="NN", help="Run this stage alone, such as [b]06[/b].")]
From = Annotated[str | None, typer.Option("--from", metavar="NN", help="Run this stage and those after it.")]
Force = Annotated[bool, typer.Option("--force", help="Run the chosen stages even where they are up to date.")]


def run(
    data: Data = None,
    models: Models = None,
    overrides: Overrides = None,
    only: Only = None,
    from_: From = None,
    force: Force = False,
    plan_only: Annotated[bool, typer.Option("--plan", help="Show what would run, and why; run nothing.")] = False,
) -> None:
    """Run the stages that are not up to date.

    Examples:

      python main.py run --data ~/steel --models efficientnet_lite0

      python main.py run --from 06 --set training.epochs=50
    """
    from metal_defects.pipeline.runner import plan, require_current, run_stages
    from metal_defects.pipeline.table import STAGES

    settings = _settings(data, models, overrides)
    stages = _choose(STAGES, only, from_)
    if plan_only:
        _show_plan(plan(stages, settings, force))
        return
    start = time.monotonic()
    log_file = _start_logging(settings)
    require_current(STAGES[: STAGES.index(stages[0])], settings)
    with library_noise_to(log_file.with_name("libraries.log")):
        statuses = run_stages(stages, settings, force)
    _show_summary(settings, statuses, time.monotonic() - start, log_file)


def show_plan(data: Data = None, models: Models = None, overrides: Overrides = None) -> None:
    """Show for every stage whether it is up to date or must run, and the first cause.

    Examples:

      python main.py plan --set training.epochs=50
    """
    from metal_defects.pipeline.runner import plan
    from metal_defects.pipeline.table import STAGES

    _show_plan(plan(STAGES, _settings(data, models, overrides)))


def _settings(data: Path | None, models: str | None, overrides: list[str] | None) -> Settings:
    texts = list(overrides or [])
    if data is not None:
        texts.append(f"data.path={data.expanduser().absolute()}")
    if models is not None:
        texts.append(f"model_builder.models=[{models}]")
    settings = load_settings(find_root(), texts)
    require_models(settings.params.model_builder.models)
    return settings


def _start_logging(settings: Settings) -> Path:
    options = settings.config.logging
    return setup_logging(settings.config.paths.logs, options.level, options.max_bytes, options.backups)


def _choose(all_stages: "tuple[Stage, ...]", only: str | None, from_: str | None) -> "tuple[Stage, ...]":
    if only and from_:
        raise ConfigError("Use --only or --from, not both.")
    number = only or from_
    if number is None:
        return all_stages
    numbers = [stage.number for stage in all_stages]
    if number.zfill(2) not in numbers:
        raise ConfigError(f"There is no stage of this number to run; use one of {', '.join(numbers)}. Got '{number}'.")
    index = numbers.index(number.zfill(2))
    return all_stages[index : index + 1] if only else all_stages[index:]


def _show_plan(statuses: "list[Status]") -> None:
    table = Table(box=None, pad_edge=False)
    for title, style in (("stage", "bold"), ("", None), ("what it does, or why it runs", "dim"), ("last took", "dim")):
        table.add_column(title, style=style, overflow="fold")
    for status in statuses:
        mark = "[green]HIT[/]" if status.hit else "[yellow]RUN[/]"
        seconds = f"{status.seconds:.1f} s" if status.seconds is not None else ""
        text = status.stage.summary if status.hit else f"[yellow]{escape(status.cause)}[/]"
        table.add_row(status.stage.name, mark, text, seconds)
    console.print(table)


def _show_summary(settings: Settings, statuses: "list[Status]", seconds: float, log_file: Path) -> None:
    from metal_defects.artifacts import REPORT_PAGE, SOURCE
    from metal_defects.data.manifest import SourceCard
    from metal_defects.records import read_record

    artifacts = settings.config.paths.artifacts
    if rows := _result_rows(artifacts):
        table = Table(box=None, pad_edge=False)
        table.add_column("model", style="bold", overflow="fold")
        table.add_column("weights", overflow="fold")
        for title in ("valid % (95 %)", "test % (95 %)", "time"):
            table.add_column(title, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if (artifacts / SOURCE.name).exists() and (notice := read_record(artifacts / SOURCE.name, SourceCard).notice):
        console.print(f"[yellow]! {escape(notice)}[/]")
    console.print(f"{sum(s.hit for s in statuses)} of {len(statuses)} stages up to date, {seconds:.1f} s in all.")
    report = artifacts / REPORT_PAGE.name
    for title, path in (("Results:", artifacts), ("Report: ", report), ("Log:    ", log_file)):
        if path.exists():
            console.print(f"{title} {escape(str(path))}", soft_wrap=True)


def _result_rows(artifacts: Path) -> list[tuple[str, ...]]:
    from metal_defects.artifacts import LEADERBOARD, TUNED_METRICS
    from metal_defects.models.results import Leaderboard, TunedResult
    from metal_defects.records import read_record

    rows: list[tuple[str, ...]] = []
    if (artifacts / LEADERBOARD.name).exists():
        board = read_record(artifacts / LEADERBOARD.name, Leaderboard)
        rows += [_result_row(model, model.title) for model in board.models]
    if (artifacts / TUNED_METRICS.name).exists():
        tuned = read_record(artifacts / TUNED_METRICS.name, TunedResult)
        rows.append(_result_row(tuned, f"tuned {tuned.title}"))
    return rows


def _result_row(result: "BaseResult | TunedResult", title: str) -> tuple[str, ...]:
    scores = (_short_accuracy(result.valid.accuracy), _short_accuracy(result.test.accuracy))
    return (title, result.weights, *scores, f"{result.seconds:.0f} s")


def _short_accuracy(accuracy: "Score") -> str:
    value, low, high = (100 * part for part in (accuracy.value, accuracy.low, accuracy.high))
    return f"{value:.1f} ({low:.1f}-{high:.1f})"

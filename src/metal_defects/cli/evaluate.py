"""The command `evaluate`: how the model does on labelled images from elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from metal_defects.cli.start import start_logging
from metal_defects.config import find_root, load_settings
from metal_defects.errors import UserError
from metal_defects.files import write_json
from metal_defects.log import console, library_noise_to, track

if TYPE_CHECKING:
    from metal_defects.evaluation.external import ExternalScores
    from metal_defects.metrics import Score


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Labelled images; any usual layout is recognised.")],
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="THEIRS=OURS", help="Their class that is one of ours. Repeatable."),
    ] = None,
    adapt: Annotated[
        int | None,
        typer.Option("--adapt", metavar="N", min=1, help="Also show what N labelled images per class would buy."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="DIR", help="Bundle; else your own run's, else bundles/neu.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting. Repeatable.")
    ] = None,
) -> None:
    """Score the model on another mill's labelled images.

    Mapped classes count as right or wrong; every other class is one that the model cannot know, and should be flagged.
    A silent error is a wrong answer, or any answer to an unknown class, that was accepted.

    Examples:

      python main.py evaluate ~/x-sdd --map "slag inclusion=Inclusion" --map "surface scratch=Scratches"

      python main.py evaluate ~/x-sdd --map "slag inclusion=Inclusion" --adapt 5
    """
    from metal_defects.evaluation.external import judge, read_mapping, summarise

    settings = load_settings(find_root(), overrides or [])
    options, artifacts = settings.config.logging, settings.config.paths.artifacts
    log_file = setup_logging(settings.config.paths.logs, options.level, options.max_bytes, options.backups)
    if not folder.is_dir():
        raise UserError(f"DIR must be a folder of labelled images. Got {folder}.")
    found = read_image_set(folder.expanduser().absolute(), settings.data_schema.model_copy(update={"classes": "auto"}))
    predictor = Predictor.load(bundle or find_bundle(artifacts, settings.root / SHIPPED))
    mapping = read_mapping(maps or [], found.classes, predictor.bundle.classes)
    sources = [(file.path, found.root / file.path) for file in found.files]
    answers = track(predictor.predict_many(sources), "Classifying", total=len(sources))
    judged, failures = judge(zip((file.label for file in found.files), answers, strict=True), mapping)
    summary = summarise(judged)
    result: dict[str, Any] = {
        "folder": str(folder),
        "model": {"name": predictor.bundle.card["name"], "hash": predictor.bundle.hash},
        "mapping": mapping,
        **summary,
        "failures": [failure.to_dict() for failure in failures],
        "answers": [{"theirs": one.theirs, "ours": one.ours, **one.answer.to_dict()} for one in judged],
    }
    _show(summary, predictor.bundle.card["verdict_rules"] is not None)
    if failures:
        console.print(f"[yellow]! {len(failures)} files could not be read, such as {escape(failures[0].message)}[/]")
    if adapt is not None:
        try:
            from metal_defects.evaluation.adaptation import adapt_to
        except ModuleNotFoundError as error:
            raise UserError("--adapt needs the training packages: pip install -r requirements.txt.") from error
        with library_noise_to(log_file.with_name("libraries.log")):
            result["adapted"] = adapt_to(settings, found, adapt)
        _show_adapted(result["adapted"])
    target = artifacts / "evaluations" / f"{found.root.name}.json"
    write_json(target, result)
    console.print(f"Written: {escape(str(target))}", soft_wrap=True)


def _show(summary: dict[str, Any], has_verdicts: bool) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("their class", overflow="fold", style="bold")
    table.add_column("ours", overflow="fold")
    for title in ("images", "right", "flagged", "silent errors"):
        table.add_column(title, justify="right")
    table.add_column("most often called", overflow="fold")
    for row in summary["classes"]:
        right = _percent(row["accuracy"]) if row["accuracy"] else ""
        numbers = (str(row["images"]), right, _percent(row["flagged"]), str(row["silent_errors"]))
        table.add_row(escape(row["theirs"]), escape(row["ours"] or "unknown"), *numbers, escape(row["most_often"]))
    console.print(table)
    if not has_verdicts:
        console.print("[yellow]! This bundle gives no verdicts: every answer counts as accepted.[/]")
    for title, key in (
        ("mapped classes, right", "accuracy"),
        ("right among the accepted", "accuracy_of_accepted"),
        ("mapped classes, flagged", "known_flagged"),
        ("unknown classes, flagged", "unknown_flagged"),
        ("silent errors, of all", "silent_errors"),
    ):
        if summary[key]:
            console.print(f"{title + ':':28}{_percent(summary[key], interval=True)}", highlight=False)


def _show_adapted(adapted: dict[str, Any]) -> None:
    text = f"With {adapted['images_per_class']} labelled images per class from there ({adapted['draws']} draws): "
    console.print(text + f"{_percent(adapted['accuracy'], interval=True)} of the others right", highlight=False)
    shares = ", ".join(f"{escape(name)} {100 * share:.1f}" for name, share in adapted["classes"].items())
    console.print(f"By class: {shares}", highlight=False)


def _percent(share: dict[str, float], interval: bool = False) -> str:
    text = f"{100 * share['value']:.1f} %"
    return f"{text} ({100 * share['low']:.1f}-{100 * share['high']:.1f}), n = {share['n']}" if interval else text

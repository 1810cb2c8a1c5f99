"""The command `evaluate`: how the model does on labelled images from elsewhere."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from metal_defects.artifacts import LOADER, MODELS, TUNED_METRICS
from metal_defects.cli.start import start_logging
from metal_defects.config import Settings, find_root, load_settings
from metal_defects.errors import UserError
from metal_defects.files import write_json
from metal_defects.log import console, library_noise_to, track
from metal_defects.records import read_record

if TYPE_CHECKING:
    from metal_defects.data.layouts import ImageSet
    from metal_defects.evaluation.adaptation import Adapted
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
        Path | None, typer.Option("--bundle", metavar="DIR", help="Bundle; else your own run's, else the shipped one.")
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
    from metal_defects.data.layouts import read_image_set
    from metal_defects.evaluation.external import judge, read_mapping, summarise
    from metal_defects.inference.bundle import find_bundle
    from metal_defects.inference.predictor import Predictor

    settings = load_settings(find_root(), overrides or [])
    artifacts = settings.config.paths.artifacts
    log_file = start_logging(settings)
    if not folder.is_dir():
        raise UserError(f"DIR must be a folder of labelled images. Got {folder}.")
    found = read_image_set(folder.expanduser().absolute(), settings.data_schema.model_copy(update={"classes": "auto"}))
    predictor = Predictor.load(find_bundle(artifacts, bundle))
    card = predictor.bundle.card
    mapping = read_mapping(maps or [], found.classes, card.classes)
    sources = [(file.path, found.root / file.path) for file in found.files]
    answers = track(predictor.predict_many(sources), "Classifying", total=len(sources))
    judged, failures = judge(zip((file.label for file in found.files), answers, strict=True), mapping)
    scores = summarise(judged)
    result: dict[str, Any] = {
        "folder": str(folder),
        "model": {"name": card.name, "hash": predictor.bundle.hash},
        "mapping": mapping,
        **scores.model_dump(mode="json"),
        "failures": [failure.to_dict() for failure in failures],
        "answers": [{"theirs": one.theirs, "ours": one.ours, **one.answer.to_dict()} for one in judged],
    }
    _show(scores, card.verdict_rules is not None)
    if failures:
        console.print(f"[yellow]! {len(failures)} files could not be read, such as {escape(failures[0].message)}[/]")
    if adapt is not None:
        adapted = _adapt(settings, found, adapt, log_file)
        result["adapted"] = adapted.model_dump(mode="json")
        _show_adapted(adapted)
    target = artifacts / "evaluations" / f"{found.root.name}.json"
    write_json(target, result)
    console.print(f"Written: {escape(str(target))}", soft_wrap=True)


def _adapt(settings: Settings, found: "ImageSet", per_class: int, log_file: Path | None) -> "Adapted":
    """What so many labelled images would buy the network of the own run.

    Raises:
        UserError: there is no run, or the training packages are not installed.
    """
    try:
        from metal_defects.data.imaging import Preprocessor
        from metal_defects.data.snapshots import load_class_labels
        from metal_defects.evaluation.adaptation import adapt_to
        from metal_defects.models.results import ModelList, TunedResult
        from metal_defects.models.training import Training
    except ModuleNotFoundError as error:
        raise UserError("--adapt needs the training packages: pip install -r requirements.txt.") from error
    run, params = settings.config.paths.artifacts, settings.params
    metrics = run / TUNED_METRICS.name
    if not metrics.exists():
        raise UserError(
            f"--adapt needs a run of your own; the shipped bundle is not enough: `python main.py`. Got {run}."
        )
    entry = read_record(run / MODELS.name, ModelList).find(read_record(metrics, TunedResult).name)
    labels = load_class_labels(run / LOADER)
    resize, size = params.data_preprocessing.resize, labels.image_size
    prepare = Preprocessor(size, resize, settings.data_schema.image, labels.fit)
    training = Training(
        seed=params.seed,
        image_size=size,
        builder=params.model_builder,
        training=params.training,
        snapshots=run / LOADER,
        banks=run / "feature_banks",
    )
    with library_noise_to(log_file.with_name("libraries.log")) if log_file else nullcontext():
        return adapt_to(found, per_class, entry, training, prepare, run / "evaluations")


def _show(scores: "ExternalScores", has_verdicts: bool) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("their class", overflow="fold", style="bold")
    table.add_column("ours", overflow="fold")
    for title in ("images", "right", "flagged", "silent errors"):
        table.add_column(title, justify="right")
    table.add_column("most often called", overflow="fold")
    for row in scores.classes:
        right = _percent(row.accuracy) if row.accuracy else ""
        numbers = (str(row.images), right, _percent(row.flagged), str(row.silent_errors))
        table.add_row(escape(row.theirs), escape(row.ours or "unknown"), *numbers, escape(row.most_often))
    console.print(table)
    if not has_verdicts:
        console.print("[yellow]! This bundle gives no verdicts: every answer counts as accepted.[/]")
    for title, score in (
        ("mapped classes, right", scores.accuracy),
        ("right among the accepted", scores.accuracy_of_accepted),
        ("mapped classes, flagged", scores.known_flagged),
        ("unknown classes, flagged", scores.unknown_flagged),
        ("silent errors, of all", scores.silent_errors),
    ):
        if score:
            console.print(f"{title + ':':28}{_with_interval(score)}", highlight=False)


def _show_adapted(adapted: "Adapted") -> None:
    text = f"With {adapted.images_per_class} labelled images per class from there ({adapted.draws} draws): "
    console.print(text + f"{_with_interval(adapted.accuracy)} of the others right", highlight=False)
    shares = ", ".join(f"{escape(name)} {100 * share:.1f}" for name, share in adapted.classes.items())
    console.print(f"By class: {shares}", highlight=False)


def _percent(score: "Score") -> str:
    return f"{100 * score.value:.1f} %"


def _with_interval(score: "Score") -> str:
    return f"{_percent(score)} ({100 * score.low:.1f}-{100 * score.high:.1f}), n = {score.n}"

"""The command `priors`: how the classes are mixed among images without labels. It needs the base requirements alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from metal_defects.cli.predict import find_images, show_name
from metal_defects.cli.start import start_logging
from metal_defects.config import find_root, load_settings
from metal_defects.errors import BundleError, UserError
from metal_defects.log import console, logger, track

if TYPE_CHECKING:
    from metal_defects.inference.answer import Outcome
    from metal_defects.trust.priors import PriorEstimate

LEAST_SHARE = 0.0001  # a class that was not seen may still come


def priors(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Images as the line brings them: files, folders, patterns.")
    ],
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="DIR", help="Bundle; else your own run's, else the shipped one.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting. Repeatable.")
    ] = None,
) -> None:
    """Estimate the shares of the classes among images without labels, for `model_evaluation.priors`.

    A line brings other shares than a training set. The model's answers, corrected by expectation maximisation, tell
    them; images whose surface is unknown are left out. Paste the result into params.yaml and run again from stage 08.

    Example: python main.py priors line3/
    """
    import numpy as np

    from metal_defects.inference.bundle import find_bundle
    from metal_defects.inference.predictor import Predictor
    from metal_defects.trust.priors import estimate_priors

    settings = load_settings(find_root(), overrides or [])
    start_logging(settings)
    paths = find_images(images)
    folder = find_bundle(settings.config.paths.artifacts, bundle)
    predictor = Predictor.load(folder)
    if predictor.bundle.card.priors is None:
        raise BundleError(
            "This bundle does not say for which shares of the classes its answers are given; make it again with "
            f"`python main.py run --from 08`. Got {folder}."
        )
    answers = predictor.predict_many((show_name(path), path) for path in paths)
    rows = _gather(track(answers, "Classifying", total=len(paths)))
    if not rows:
        raise UserError(f"No image shows a surface that the model knows. Got {len(paths)} images.")
    found = estimate_priors(np.array(rows), np.array(predictor.bundle.card.priors), predictor.bundle.classes)
    _show(found, len(rows), len(paths))


def _gather(answers: "Iterable[Outcome]") -> list[list[float]]:
    """Probabilities of the images that were classified and whose surface is known."""
    from metal_defects.inference.answer import Failure

    rows = []
    for answer in answers:
        if isinstance(answer, Failure):
            logger.warning("%s: %s", answer.name, answer.message)
        elif answer.verdict != "unknown":
            rows.append(list(answer.probabilities.values()))
    return rows


def _show(found: "tuple[PriorEstimate, ...]", used: int, total: int) -> None:
    import yaml

    console.print(f"Shares of the classes, by {used} of {total} images:", highlight=False)
    table = Table(box=None, pad_edge=False)
    for title in ("class", "of 100", "95 % interval"):
        table.add_column(title, overflow="fold")
    for one in found:
        table.add_row(escape(one.name), f"{100 * one.share:.1f}", f"{100 * one.low:.1f} to {100 * one.high:.1f}")
    console.print(table)
    shares = {one.name: max(round(one.share, 4), LEAST_SHARE) for one in found}
    console.print("For params.yaml; then `python main.py run --from 08`:", highlight=False)
    text = yaml.safe_dump({"model_evaluation": {"priors": shares}}, sort_keys=False, allow_unicode=True)
    console.print(escape(text), highlight=False, soft_wrap=True)

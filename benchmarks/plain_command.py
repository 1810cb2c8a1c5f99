"""The plain command on any image set, with or without its boxes: `--help` tells the rest."""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _common import Data, Model, describe_machine, make_table, report, start, use_data, use_model, workspace

from metal_defects.artifacts import BUNDLE, EVALUATION, IMAGES, MANIFEST, TUNED_METRICS
from metal_defects.data.manifest import ImageRow, ManifestRow
from metal_defects.data.snapshots import read_images
from metal_defects.errors import UserError
from metal_defects.evaluation.results import Evaluation
from metal_defects.inference.answer import Prediction
from metal_defects.inference.predictor import Predictor
from metal_defects.metrics import Score, format_accuracy, share
from metal_defects.models.results import TunedResult
from metal_defects.pipeline.table import STAGES
from metal_defects.records import read_record, read_rows
from metal_defects.trust.locator_scores import score_maps

UP_TO_EXPORT = 8  # rows of the table of stages


def main(
    data: Data,
    model: Model = "efficientnet_lite0",
    group_by: Annotated[
        str | None, typer.Option("--group-by", metavar="REGEX", help="As data_ingestion.group_by.")
    ] = None,
    hide_boxes: Annotated[
        bool, typer.Option("--hide-boxes", help="Train from labels alone; the boxes only judge the heat map.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 42,
) -> None:
    """Run all stages that judge a model, and print what a user would get.

    Some minutes for a thousand images; as many more as fine-tuning says it takes, where it is tried.

    Example: python benchmarks/plain_command.py --data ~/boards --group-by '_(\\d{8})' --hide-boxes
    """
    machine, overrides = describe_machine(), ["classes=auto", f"seed={seed}"]
    if group_by:
        overrides.append(f"data_ingestion.group_by='{group_by}'")
    begin = time.monotonic()
    with workspace(STAGES[: 1 if hide_boxes else UP_TO_EXPORT], use_data(data), *use_model(model), *overrides) as place:
        known = {row.path: row for row in read_rows(place.path(MANIFEST), ManifestRow)}
        if not hide_boxes:
            result = _collect(place, known)
        else:
            root = _link_images(data, known, place.scratch / "images")
            with workspace(STAGES[:UP_TO_EXPORT], use_data(root), *use_model(model), *overrides) as hidden:
                result = _collect(hidden, known)
    result["seconds"] = round(time.monotonic() - begin, 1)
    table = make_table(f"{result['title']}, {data.name}", "what", "figure")
    for name, value in result["figures"].items():
        table.add_row(name, value)
    report("plain_command", [table], [result["recipe"], result["fine_tuning"]], machine, result)


def _link_images(data: Path, known: dict[str, ManifestRow], target: Path) -> Path:
    """A folder of links to the images alone, one folder per class, so that no annotation is found.

    Raises:
        UserError: the data is an archive.
    """
    root = data.expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"--hide-boxes needs a folder. Got {data}.")
    for path, row in known.items():
        link = target / row.label / Path(path).name
        link.parent.mkdir(parents=True, exist_ok=True)
        source = next(place for place in (root / path, *root.glob(f"*/{path}")) if place.exists())
        link.symlink_to(source)
    return target


def _collect(place, known: dict[str, ManifestRow]) -> dict:
    tuned, judged = read_record(place.path(TUNED_METRICS), TunedResult), read_record(place.path(EVALUATION), Evaluation)
    verdicts = judged.verdicts
    ece = judged.calibration.after.ece
    figures = {
        "test": format_accuracy(tuned.test),
        "test, mean recall of the classes": _percent(tuned.test.macro_recall),
        f"{judged.protocol.folds}-fold" if judged.protocol.folds > 1 else "validation": _percent(
            judged.cross_validation.accuracy
        ),
        "calibration error, points": f"{100 * ece.value:.2f} ({100 * ece.low:.2f}–{100 * ece.high:.2f})",
    }
    for name, counts in (("out of fold", verdicts.out_of_fold), ("test", verdicts.test)):
        if counts is not None:
            figures[f"accepted, {name}"] = f"{counts.accept} of {counts.images}, {counts.wrong_accept} of them wrong"
    rows, answers, maps = _answer_test(place)
    right = [answer.label == row.label for answer, row in zip(answers, rows, strict=True)]
    figures["test, as served: calibrated"] = _percent(share(sum(right), len(right)))
    if pointing := _point(rows, maps, known):
        figures["heat map points at the defect"] = _percent(pointing)
    return {
        "title": tuned.full_title,
        "figures": figures,
        "recipe": ", ".join(f"{name} {value}" for name, value in tuned.hyperparameters.items()),
        "fine_tuning": tuned.fine_tuning.reason if tuned.fine_tuning else "",
    }


def _answer_test(place) -> tuple[list[ImageRow], list[Prediction], list[np.ndarray]]:
    """The test images, what the bundle answers to them, and its heat maps, (rows, columns) each."""
    rows = [row for row in read_rows(place.path(IMAGES), ImageRow) if row.split == "test"]
    predictor = Predictor.load(place.path(BUNDLE))
    answers, maps = zip(*(predictor.explain(image) for image in read_images(place.snapshots, "test")), strict=True)
    return rows, list(answers), list(maps)


def _point(rows: list[ImageRow], maps: list[np.ndarray], known: dict[str, ManifestRow]) -> Score | None:
    """Pointing game of the exported graph on images with boxes; None where there are none."""
    by_name = {Path(path).name: row for path, row in known.items()}
    boxes = [by_name[Path(row.source).name].box_shares for row in rows]
    chosen = [index for index, each in enumerate(boxes) if len(each)]
    if not chosen:
        return None
    return score_maps(np.stack([maps[index] for index in chosen]), [boxes[index] for index in chosen], 0.5).pointing


def _percent(score: Score) -> str:
    return f"{100 * score.value:.1f} % ({100 * score.low:.1f}–{100 * score.high:.1f})"


if __name__ == "__main__":
    start(main)

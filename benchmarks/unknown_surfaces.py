"""Surfaces that the model was never trained on: which detector notices them? `--help` tells the rest."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from _common import (
    Data,
    Model,
    Workspace,
    describe_machine,
    make_table,
    open_frozen,
    report,
    start,
    use_data,
    use_model,
    workspace,
)
from _surfaces import cut_photographs, draw_textures
from cross_validation import choose_head, make_folds

from metal_defects.data.imaging import ImageError, Preprocessor
from metal_defects.data.manifest import SPLITS
from metal_defects.errors import UserError
from metal_defects.log import console
from metal_defects.models.feature_bank import BATCH, RICHEST, Engine, fastest_engine
from metal_defects.models.networks import build_feature_model
from metal_defects.models.trainers import FrozenTrainer
from metal_defects.pipeline.table import STAGES
from metal_defects.system import map_ordered
from metal_defects.trust.guard import choose_guard_taps, fit_guard

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
ACCEPTANCES = (0.99, 0.95)
FOLDS = 5
Scores = dict[str, np.ndarray]


def main(
    data: Data,
    unknown: Annotated[
        list[str] | None,
        typer.Option("--unknown", metavar="NAME=DIR", help="A folder of images of other surfaces; may be repeated."),
    ] = None,
    model: Model = "efficientnet_lite0",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 42,
) -> None:
    """Compare the guard with max-softmax and energy on surfaces that are none of the classes.

    All detectors are fitted to the training split alone, and their limits are set there, out of fold, so that 99 %
    or 95 % of the known images are accepted; the table shows how many images of other surfaces get through. Photographs
    (those of scikit-learn, and of scikit-image where it is installed) and drawn textures are always there.

    About three minutes for 1,800 images on two cores.

    Example: python benchmarks/unknown_surfaces.py --data ~/NEU-DET --unknown X-SDD=~/X-SDD
    """
    machine, folders = describe_machine(), _parse_folders(unknown or [])
    with workspace(STAGES[:4], use_data(data), *use_model(model)) as place:
        trainer = open_frozen(place)
        read = _make_reader(place, trainer)
        others = {name: read(sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES))
                  for name, folder in folders.items()}  # fmt: skip
        others["photographs"] = read(cut_photographs())
        drawn = list(draw_textures())
        others["drawn textures"] = read([image for _, image in drawn])
        scores = score(place, trainer, others, seed)
    rows = [row for name in others for row in _compare(name, scores)]
    table = make_table(
        f"{trainer.backbone.title}: images of other surfaces", "surfaces", "images", "detector", "AUROC",
        *(f"let through at {100 * share:g} %" for share in ACCEPTANCES),
    )  # fmt: skip
    for row in rows:
        passed = (f"{100 * row['false_acceptance'][str(share)]:.2f} %" for share in ACCEPTANCES)
        table.add_row(row["surfaces"], str(row["images"]), row["detector"], f"{row['auroc']:.4f}", *passed)
    held_out = {
        detector: {str(share): float((values["held out"] <= _limit(values, share)).mean()) for share in ACCEPTANCES}
        for detector, values in scores.items()
    }
    through = scores["guard"]["drawn textures"] <= _limit(scores["guard"], ACCEPTANCES[0])
    kinds = sorted({kind for (kind, _), passed in zip(drawn, through, strict=True) if passed})
    told = ", ".join(f"{100 * held_out['guard'][str(share)]:.1f} %" for share in ACCEPTANCES)
    notes = [
        f"Held-out known images (validation and test) that the guard accepts at these limits: {told}.",
        f"Drawn textures that it lets through at {100 * ACCEPTANCES[0]:g} %: {', '.join(kinds) or 'none'}.",
    ]
    result = {"model": trainer.backbone.name, "seed": seed, "rows": rows, "held_out_accepted": held_out}
    report("unknown_surfaces", [table], notes, machine, result)


def score(place: Workspace, trainer: FrozenTrainer, others: Scores, seed: int) -> dict[str, Scores]:
    """Per detector and set of images, how strange each image is; "out of fold" and "held out" are known images.

    Max-softmax: D. Hendrycks & K. Gimpel (ICLR 2017); energy: W. Liu et al. (NeurIPS 2020), both of the product's head.
    """
    bank = trainer.bank
    labels = trainer.labels["train"]
    groups = place.known.groups[: len(labels)]
    recipe = trainer.read_recipe({})
    taps = choose_guard_taps(trainer.backbone.taps)
    columns, head_columns = bank.columns(taps), bank.columns(recipe.taps, recipe.pooling)
    channels = {tap: trainer.network.get_layer(tap).output.shape[-1] for tap in taps}
    guard = fit_guard(bank.clean("train", columns), labels, groups, 0.99, seed, channels)
    known = np.concatenate([bank.features[split][0] for split in SPLITS[1:]])
    sets = {"held out": known, **others}
    distances = {"out of fold": guard.out_of_fold} | {n: guard.distance(x[:, columns]) for n, x in sets.items()}
    logits = np.zeros((len(groups), len(place.classes)))
    share = place.settings.params.data_ingestion.valid_share_of_train
    train, valid = trainer.examples(recipe), trainer.examples(recipe, "valid")
    for fold in make_folds(train.labels, groups, FOLDS, share, seed):
        heads = trainer.fit_heads(recipe, train.take(fold["train"]), place.make_callbacks, "Head")
        head = choose_head(heads, train.take(fold["valid"]))
        logits[fold["test"]] = head.logits(train.clean[fold["test"]])
    head = choose_head(trainer.fit_heads(recipe, train, place.make_callbacks, "Head"), valid)
    answers = {"out of fold": logits} | {name: head.logits(x[:, head_columns]) for name, x in sets.items()}
    energy = {name: -np.logaddexp.reduce(values, axis=1) for name, values in answers.items()}
    softmax = {name: -np.exp(values.max(axis=1) + energy[name]) for name, values in answers.items()}
    return {"guard": distances, "max-softmax": softmax, "energy": energy}


def _make_reader(place: Workspace, trainer: FrozenTrainer) -> Callable[[Iterable[Path | np.ndarray]], np.ndarray]:
    """A function from images to their features, (images, columns); images that cannot be read are told and left out."""
    resize, schema = place.settings.params.data_preprocessing.resize, place.settings.data_schema
    prepare = Preprocessor(place.labels.image_size, resize, schema.image, place.labels.fit)
    model = build_feature_model(trainer.backbone, trainer.network, trainer.backbone.taps, RICHEST)
    run: Engine = fastest_engine(model, place.scratch)[1]

    def decode(source: Path | np.ndarray) -> np.ndarray | None:
        try:
            return prepare(source)
        except ImageError as error:
            console.print(f"left out: {error}", style="yellow", highlight=False)
            return None

    def read(sources: Iterable[Path | np.ndarray]) -> np.ndarray:
        images = [image for image in map_ordered(decode, sources) if image is not None]
        if not images:
            raise UserError("--unknown needs folders with images in them. Got one without.")
        batches = (np.stack(images[first : first + BATCH]) for first in range(0, len(images), BATCH))
        return np.concatenate(list(map_ordered(run, batches)))

    return read


def _limit(scores: Scores, acceptance: float) -> float:
    return float(np.nanquantile(scores["out of fold"], acceptance, method="higher"))


def _compare(surfaces: str, scores: dict[str, Scores]) -> list[dict[str, Any]]:
    """One row per detector: AUROC and false acceptance of a set of unknown images."""
    from sklearn.metrics import roc_auc_score

    rows = []
    for detector, values in scores.items():
        known = values["out of fold"][np.isfinite(values["out of fold"])]
        strange = values[surfaces]
        truth = np.repeat([0, 1], [len(known), len(strange)])
        rows.append({
            "surfaces": surfaces,
            "images": len(strange),
            "detector": detector,
            "auroc": float(roc_auc_score(truth, np.concatenate([known, strange]))),
            "false_acceptance": {
                str(share): float((strange <= _limit(values, share)).mean()) for share in ACCEPTANCES
            },
        })  # fmt: skip
    return rows


def _parse_folders(texts: list[str]) -> dict[str, Path]:
    folders = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        path = Path(folder).expanduser()
        if not equals or not name or not path.is_dir():
            raise UserError(f"--unknown must be NAME=DIR, an existing folder, such as X-SDD=~/X-SDD. Got '{text}'.")
        folders[name] = path
    return folders


if __name__ == "__main__":
    start(main)

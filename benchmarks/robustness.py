"""Accuracy on damaged held-out images: `--help` tells the rest."""

import time
from typing import Annotated, get_args

import numpy as np
import typer
from _common import (
    SPLIT_80_20,
    Data,
    Model,
    describe_machine,
    make_table,
    open_frozen,
    report,
    start,
    use_data,
    use_model,
    workspace,
)

from metal_defects.config import Views
from metal_defects.data.snapshots import load_labels, read_images
from metal_defects.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from metal_defects.evaluation.robustness import measure_robustness
from metal_defects.models.feature_bank import fastest_engine
from metal_defects.pipeline.table import STAGES

SEEN = ("gaussian_noise", "blur", "motion_blur", "bright", "dark", "low_contrast", "high_contrast", "rotation", "shift",
        "occlusion", "dust")  # fmt: skip


def main(
    data: Data,
    model: Model = "efficientnet_lite0",
    images: Annotated[int, typer.Option("--images", min=10, help="Held-out images per cell, at most.")] = 180,
    views: Annotated[
        str, typer.Option("--views", metavar="all|damage|mild|none", help="Augmented views that the head learns from.")
    ] = "all",
    severities: Annotated[str, typer.Option("--severities", metavar="N,N,...")] = "1,2,3,4,5",
) -> None:
    """Train the product's head on 80 % of the images and judge the others damaged in every way and severity.

    Gaussian noise is given as the signal-to-noise ratio 10 log10(mean(x²) / σ²) over the grey levels of an image. Kinds
    of damage that the training views show in some form are marked, and averaged apart from the others.

    About two and a half minutes for 180 images in 80 cells on two cores.

    Example: python benchmarks/robustness.py --data ~/NEU-DET
    """
    machine = describe_machine()
    chosen = tuple(int(part) for part in severities.split(",") if part.strip() in map(str, SEVERITIES))
    if not chosen:
        raise typer.BadParameter(f"must be of 1 to 5. Got '{severities}'.", param_hint="--severities")
    if views not in get_args(Views):
        raise typer.BadParameter(f"must be all, damage, mild or none. Got '{views}'.", param_hint="--views")
    begin = time.perf_counter()
    with workspace(STAGES[:4], use_data(data), SPLIT_80_20, *use_model(model)) as place:
        trainer = open_frozen(place)
        fitted = trainer.fit({"views": views}, place.make_callbacks, place.scratch / "head", "Head")
        network = fitted.assemble()
        _, run = fastest_engine(network, place.scratch)
        result = measure_robustness(
            lambda batch: (run(batch), None),
            read_images(place.snapshots, "test"),
            load_labels(place.snapshots, "test"),
            severities=chosen,
            images_per_cell=images,
            seed=place.training.seed,
        )
    clean = 100 * result.clean.accuracy.value
    title = f"{trainer.backbone.title}, views: {views}: right answers of {result.images} in %; clean {clean:.1f}"
    table = make_table(title, "damage", "unit", "levels", *map(str, chosen))
    for name, cells in result.accuracy.items():
        levels = ", ".join(f"{level:g}" for level in result.levels[name])
        shown = [f"{100 * cell.value:.1f}" for cell in cells]
        table.add_row(f"{name}{' *' if name in SEEN else ''}", result.units[name], levels, *shown)
    summary: dict[str, list[float]] = {}
    for title, names in (
        ("mean", list(CORRUPTIONS)),
        ("mean of *", list(SEEN)),
        ("mean of the others", [name for name in CORRUPTIONS if name not in SEEN]),
    ):
        means = [np.mean([result.accuracy[name][severity].value for name in names]) for severity in range(len(chosen))]
        summary[title.replace(" ", "_")] = [float(mean) for mean in means]
        table.add_row(title, "", "", *(f"{100 * mean:.2f}" for mean in means))
    notes = [
        "* the training views show this damage in some form, other draws and strengths.",
        f"Everything took {time.perf_counter() - begin:.0f} s.",
    ]
    found = {"model": model, "views": views, **result.model_dump(mode="json"), **summary}
    report("robustness", [table], notes, machine, found)


if __name__ == "__main__":
    start(main)

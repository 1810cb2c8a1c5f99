"""Where is the defect? Heat maps and boxes on held-out images against their true boxes: `--help` tells the rest."""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from _common import (
    Data,
    Model,
    Seeds,
    Workspace,
    describe_machine,
    make_table,
    open_frozen,
    parse_seeds,
    report,
    start,
    use_data,
    use_model,
    workspace,
)

from metal_defects.config import load_settings
from metal_defects.data.geometry import Frame
from metal_defects.data.manifest import SPLITS
from metal_defects.data.snapshots import read_images
from metal_defects.errors import UserError
from metal_defects.inference.boxes import find_boxes
from metal_defects.inference.runtime import open_graph
from metal_defects.log import console
from metal_defects.models.feature_maps import extract_maps
from metal_defects.models.onnx_export import export_float32
from metal_defects.models.trainers import FrozenTrainer
from metal_defects.pipeline.table import STAGES
from metal_defects.plots.locator import draw_locations
from metal_defects.trust.answer import AnswerParts, build_answer_model, open_model
from metal_defects.trust.folds import make_folds
from metal_defects.trust.locator import Locator, draw_maps, fit_locator
from metal_defects.trust.locator_maps import choose_taps
from metal_defects.trust.locator_scores import draw_centre, draw_grad_cam, score_maps, share_of_area
from metal_defects.trust.locator_thresholds import choose_threshold

SCORES = ("pointing", "energy", "iou", "ap50")
ROWS = {
    "centre": "centre",
    "grad_cam": "Grad-CAM, last layer",
    "labels": "locator, from labels",
    "boxes": "locator, from boxes",
}
WARM_UP, TIMED = 20, 400
EXAMPLES = 12
Truth = Sequence[np.ndarray]


def main(
    data: Data,
    model: Model = "efficientnet_lite0",
    seeds: Seeds = "1,2,3",
    test_parts: Annotated[int, typer.Option("--parts", min=2, max=20, help="One of so many parts is held out.")] = 3,
) -> None:
    """Point at defects in images that were not learned from, and compare with their true boxes.

    Four heat maps beside one another: the centre whatever the image shows, Grad-CAM of the usual classifier, the
    product's locator taught by labels alone, and the same taught by boxes. Classes keep their shares, copies of an
    image stay on one side, and every threshold is chosen on the training side. Then the time of one answer, with the
    map and the boxes and without, the two taking turns.

    About three minutes for 1,800 images and three seeds on two cores.

    Example: python benchmarks/localisation.py --data ~/NEU-DET
    """
    machine, chosen_seeds = describe_machine(), parse_seeds(seeds)
    with workspace(STAGES[:4], use_data(data), *use_model(model)) as place:
        known, side = place.known, place.training.image_size
        frames = [Frame.of(row.width, row.height, side, place.labels.fit) for row in known.rows]
        boxes = [frame.to_square(row.box_shares) for frame, row in zip(frames, known.rows, strict=True)]
        labels = known.labels
        if not any(map(len, boxes)):
            raise UserError(f"--data must hold images with boxes (Pascal VOC files). Got none in {data}.")
        images = read_images(place.snapshots, *SPLITS)
        trainer = open_frozen(place)
        classifier = _train_classifier(place, trainer)
        opened = open_model(classifier)
        begin = time.perf_counter()
        taps = choose_taps({name: one.shape[1] for name, one in opened.maps.items()}, side)
        wanted = {tap: opened.maps[tap] for tap in taps}
        features = extract_maps(opened.pixels, wanted, images, place.scratch / "maps")
        seconds = {"maps": round(time.perf_counter() - begin, 1)}
        repetitions = []
        for seed in chosen_seeds:
            console.print(f"seed {seed}", style="dim", highlight=False)
            train, test = make_folds(labels, known.groups, test_parts, seed)[0]
            scores, locators, heat = _compare(features, labels, boxes, train, test, side, seed)
            repetitions.append({"seed": seed, "area": share_of_area([boxes[i] for i in test]), **scores})
        latency = _time_answers(classifier, locators["boxes"], images[test], place.scratch)
        target = load_settings(Path(__file__).parents[1]).config.paths.artifacts / "benchmarks" / "localisation.png"
        chosen = np.linspace(0, len(test) - 1, min(EXAMPLES, len(test))).astype(int)
        names = [Path(known.rows[test[i]].path).stem for i in chosen]
        draw_locations(
            images[test[chosen]], heat[chosen], [boxes[test[i]] for i in chosen], names,
            locators["boxes"].box_threshold, target, f"Held-out images, seed {chosen_seeds[-1]}",
        )  # fmt: skip
    tables = [_tabulate(trainer.backbone.title, repetitions)]
    notes = [
        f"Boxes cover {100 * np.mean([row['area'] for row in repetitions]):.1f} % of an image: how often a blind guess "
        f"points into one.",
        f"Feature maps of {len(images)} images: {seconds['maps']} s; fitting, seconds per seed: "
        + ", ".join(f"{kind} {np.mean([row[kind]['seconds'] for row in repetitions]):.0f}" for kind in locators),
        f"One answer, processor time on one thread: {latency['alone']:.2f} ms; with map and boxes "
        f"{latency['located']:.2f} ms, of which boxes {latency['boxes']:.3f} ms. Ratio of pairs: median "
        f"{latency['ratio']:.3f}, quartiles {latency['low']:.3f}–{latency['high']:.3f}.",
        f"Pictures: {target}",
    ]  # fmt: skip
    result = {"model": trainer.backbone.name, "repetitions": repetitions, "latency": latency, "seconds": seconds}
    report("localisation", tables, notes, machine, result)


def _train_classifier(place: Workspace, trainer: FrozenTrainer) -> Any:
    """The product's classifier with default settings: the answer that the map is added to."""
    folder = place.scratch / "classifier"
    return trainer.fit(trainer.defaults(), place.make_callbacks, folder, trainer.backbone.title).assemble()


def _compare(
    features: Mapping[str, np.ndarray], labels: np.ndarray, boxes: Truth,
    train: np.ndarray, test: np.ndarray, side: int, seed: int,
) -> tuple[dict[str, Any], dict[str, Locator], np.ndarray]:  # fmt: skip
    """Scores of every row, the locators, and the held-out heat maps of the one taught by boxes."""
    known, hidden = [boxes[index] for index in train], [boxes[index] for index in test]
    learned = {tap: one[train] for tap, one in features.items()}
    judged = {tap: one[test] for tap, one in features.items()}
    last, cells = list(features)[-1], 2 * next(iter(features.values())).shape[1]
    fixed = {
        "centre": (draw_centre(len(train), cells), draw_centre(len(test), cells)),
        "grad_cam": [draw_grad_cam(learned[last], labels[train], each[last]) for each in (learned, judged)],
    }
    scores: dict[str, Any] = {}
    for name, (seen, heat) in fixed.items():
        threshold = choose_threshold(seen, known)
        scores[name] = score_maps(heat, hidden, threshold).model_dump()
    locators: dict[str, Locator] = {}
    for kind, taught in (("labels", None), ("boxes", known)):
        begin = time.perf_counter()
        locators[kind] = fit_locator(learned, labels[train], taught, side, seed)
        taken = round(time.perf_counter() - begin, 1)
        heat = draw_maps(judged, locators[kind])
        found = score_maps(heat, hidden, locators[kind].threshold, locators[kind].box_threshold)
        scores[kind] = found.model_dump() | {"seconds": taken}
    return scores, locators, heat


def _time_answers(classifier: Any, locator: Locator, images: np.ndarray, folder: Path) -> dict[str, float]:
    """Milliseconds of one answer with the heat map and its boxes, and without, taking turns.

    It is processor time on one thread: other work on the machine lengthens it by a few percent, the time on the wall
    by any factor.
    """
    graphs = {}
    for name, part, outputs in (
        ("alone", None, ["probabilities"]),
        ("located", locator, ["probabilities", "heat_map"]),
    ):
        export_float32(build_answer_model(classifier, AnswerParts(locator=part)), outputs, folder / f"{name}.onnx")
        graphs[name] = open_graph(folder / f"{name}.onnx", threads=1)
    times: dict[str, list[float]] = {"alone": [], "located": [], "boxes": []}
    for turn in range(WARM_UP + TIMED):
        pixels = images[turn % len(images)][None]
        for name in ("alone", "located") if turn % 2 else ("located", "alone"):
            begin = time.thread_time()
            answer = graphs[name](pixels)
            if name == "located":
                middle = time.thread_time()
                find_boxes(answer["heat_map"][0], locator.box_threshold)
                times["boxes"].append(1000 * (time.thread_time() - middle))
            times[name].append(1000 * (time.thread_time() - begin))
    counted = {name: values[WARM_UP:] for name, values in times.items()}
    ratios = np.divide(counted["located"], counted["alone"]).tolist()
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return {name: statistics.median(values) for name, values in counted.items()} | {
        "ratio": ratio, "low": low, "high": high
    }  # fmt: skip


def _tabulate(title: str, repetitions: Sequence[Mapping[str, Any]]) -> Any:
    images = repetitions[0]["boxes"]["images"]
    heading = f"{title}: {images} held-out images, mean of {len(repetitions)} seeds (their 95 % intervals, joined)"
    table = make_table(heading, "heat map", "pointing", "energy", "mean IoU", "AP50")
    for name, told in ROWS.items():
        cells = []
        for score in SCORES:
            each = [row[name][score] for row in repetitions]
            mean = np.mean([one["value"] for one in each])
            low, high = min(one["low"] for one in each), max(one["high"] for one in each)
            cells.append(f"{100 * mean:.1f} ({100 * low:.1f}–{100 * high:.1f})")
        table.add_row(told, *cells)
    return table


if __name__ == "__main__":
    start(main)

"""The evaluation of a tuned model from end to end, on a network of a few weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.toy_network import CLASSES, COUNTS, SIDE, TOY, write_snapshots

from metal_defects.config import Settings
from metal_defects.data.manifest import DataCard, ImageRow, ManifestRow, NamedBox
from metal_defects.data.snapshots import load_labels, read_images
from metal_defects.evaluation.clock import Clock
from metal_defects.evaluation.cross_validation import OutOfFold
from metal_defects.evaluation.judged import judge_out_of_fold
from metal_defects.evaluation.judging import export_graph, fit_parts, judge_held_out, look_further
from metal_defects.evaluation.tuned_run import TunedRun, open_tuned_run, read_recipe
from metal_defects.models import specs
from metal_defects.models.results import ModelEntry, ModelList, TunedCard
from metal_defects.models.trainers import make_trainer
from metal_defects.models.training import Training
from metal_defects.trust.answer import AnswerParts

SHARES = dict(zip(CLASSES, np.arange(1, len(CLASSES) + 1) / sum(range(len(CLASSES) + 1)), strict=True))
PRIORS = "model_evaluation.priors={" + ", ".join(f"{name}: {share:.6f}" for name, share in SHARES.items()) + "}"
DATA = DataCard(kind="path", notice=None)


def make_entry(kind: str) -> ModelEntry:
    name = {"frozen": "toy", "from scratch": "custom_cnn"}[kind]
    weights = {"frozen": "ImageNet", "from scratch": "from scratch"}[kind]
    numbers = {"gmacs": 0.5, "parameters": 1, "trainable_parameters": 1}
    return ModelEntry(
        name=name, title=name, kind=kind, weights=weights, weights_file=None, weights_sha256=None, **numbers
    )


def list_rows(snapshots: Path, height: int) -> tuple[list[ManifestRow], list[ImageRow]]:
    """Rows of the toy images; every second one has a box of another class besides."""
    manifest, images = [], []
    for split in COUNTS:
        for index, label in enumerate(load_labels(snapshots, split)):
            path, name = f"{split}_{index}.png", CLASSES[label]
            box = NamedBox(left=0, top=height // 4, right=16, bottom=height // 2, label="Other")
            boxes = (box,) if index % 2 else ()
            shared = {"label": name, "split": split, "sha256": ""}
            manifest.append(ManifestRow(path=path, group=path, width=32, height=height, boxes=boxes, **shared))
            images.append(ImageRow(path=f"pictures/{path}", source=path, group=path, **shared))
    return manifest, images


def answer_by_hand(snapshots: Path) -> OutOfFold:
    """Answers to the training images in three folds, each nearly right."""
    labels = load_labels(snapshots, "train")
    count = len(labels)
    logits = 2 * np.eye(len(CLASSES))[labels] + np.random.default_rng(0).normal(size=(count, len(CLASSES)))
    groups = np.array([f"train_{index}.png" for index in range(count)])
    return OutOfFold(labels, logits[None].astype(np.float32), np.arange(count)[None] // 3, groups)


@pytest.fixture
def open_run(
    tmp_path: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TunedRun]:
    """Opens a run whose tuned model is of a kind, on images that were 32 pixels wide."""
    monkeypatch.setitem(specs.BACKBONES, "toy", TOY)
    params = make_settings(
        f"data_preprocessing.image_size={2 * SIDE}", "training.epochs=2", "training.views=[damage]"
    ).params
    snapshots = write_snapshots(tmp_path / "snapshots")
    short = params.training.model_copy(
        update={"from_scratch": params.training.from_scratch.model_copy(update={"epochs": 1, "batch_size": 4})}
    )
    training = Training(1, SIDE, params.model_builder, short, snapshots, tmp_path / "banks")

    def call_back_never(_folder: Path, _epochs: int, _learning_rate: float) -> list:
        return []

    def open_one(kind: str, fit: str = "stretch", height: int = 32) -> TunedRun:
        entry = make_entry("frozen" if kind == "fine-tuned" else kind)
        trainer = make_trainer(entry, training)
        fitted = trainer.fit({}, call_back_never, tmp_path / "fit", "toy")
        fitted.assemble().save(tmp_path / "tuned.h5", include_optimizer=False)
        card = TunedCard(
            data=DATA,
            model=entry.name,
            weights=entry.weights,
            classes=CLASSES,
            image_size=SIDE,
            resize="bilinear",
            fit=fit,
            limits=make_settings().data_schema.image,
            hyperparameters=trainer.defaults(),
            fine_tuned=kind == "fine-tuned",
            sha256="",
        )
        answer_by_hand(snapshots).save(tmp_path / "out_of_fold.npz")
        (tmp_path / "scratch").mkdir()
        rows = list_rows(snapshots, height)
        return open_tuned_run(
            card, entry, training, call_back_never, *rows, tmp_path / "tuned.h5", tmp_path / "out_of_fold.npz",
            tmp_path / "scratch",
        )  # fmt: skip

    return open_one


@pytest.mark.parametrize("kind", ["frozen", "fine-tuned", "from scratch"])
def test_each_step_takes_what_the_one_before_gave(
    kind: str, open_run: Callable[[str], TunedRun], make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    run, clock = open_run(kind), Clock()
    params = make_settings("model_evaluation.folds=3", PRIORS).params.model_evaluation
    before = [weights.copy() for weights in run.model.get_weights()]
    judged = judge_out_of_fold(run, params, clock)
    fitted = fit_parts(run, judged, params, clock)
    held_out = judge_held_out(run, judged, fitted, 3, export_graph(run, fitted, tmp_path, clock), clock)
    outlook = look_further(run, ModelList(data=DATA, models=(make_entry("frozen"),), skipped=()), params.folds, clock)

    is_frozen, is_network = kind == "frozen", kind == "from scratch"
    assert judged.protocol.images == (COUNTS["valid"] if is_network else COUNTS["train"])
    assert judged.protocol.folds == (1 if is_network else 3)
    assert (judged.protocol.note is not None) == is_network
    shift = judged.priors.log_ratio
    assert abs(shift).max() > 0.01 and fitted.scaling == judged.calibration.scaling.shift(shift)
    rules, selection = fitted.chosen.rules, fitted.chosen.selection
    assert (rules.set_threshold, rules.max_risk) == (judged.conformal.threshold, params.max_risk)
    assert rules.min_confidence == selection.chosen.threshold
    assert selection.images == judged.protocol.images
    for row in judged.cross_validation.misjudged:
        assert row.picture == f"pictures/{row.source}"
        assert row.other_boxes == (("Other",) if int(row.source[-5]) % 2 else ())
    verdicts = held_out.verdicts
    assert (verdicts.valid.images, verdicts.test.images) == (COUNTS["valid"], COUNTS["test"])
    assert (verdicts.out_of_fold is None) == is_network
    for row in (verdicts.valid, verdicts.test):
        assert row.accept + row.review + row.unknown == row.images
    assert held_out.locator is None or held_out.locator.kind == "labels"
    assert held_out.robustness.images == 3 and held_out.robustness.accepted is not None
    assert held_out.guard.accepted_held_out.n == COUNTS["valid"] + COUNTS["test"]
    assert (outlook.learning_curve is not None) == is_frozen
    assert outlook.comparison is None and outlook.ensemble is None, "there is one model alone"
    assert {"cross_validation", "guard", "locator", "robustness"} <= clock.seconds.keys()
    assert all(np.array_equal(*pair) for pair in zip(run.model.get_weights(), before, strict=True))
    fitted.parts.save(tmp_path / "answer.npz")
    assert AnswerParts.load(tmp_path / "answer.npz").outputs == ("probabilities", "distance", "heat_map")
    if not is_frozen:
        with pytest.raises(ValueError, match="no head"):
            read_recipe(run)


def test_images_come_in_the_order_of_the_splits(tmp_path: Path) -> None:
    folder = write_snapshots(tmp_path)
    images = read_images(folder, "valid", "test")
    assert images.shape == (COUNTS["valid"] + COUNTS["test"], SIDE, SIDE, 3) and images.dtype == np.uint8
    assert np.array_equal(images[-1], read_images(folder, "test")[-1])


def test_boxes_are_those_of_the_square_with_those_of_the_mirror_images(open_run: Callable[..., TunedRun]) -> None:
    run = open_run("frozen", fit="letterbox", height=16)
    assert run.train.boxes[0].shape == (0, 4)
    assert run.train.boxes[1].tolist() == [[0.0, 0.375, 0.5, 0.5], [0.0, 0.0, 0.5, 0.125]]
    assert len(run.held_out.boxes) == len(run.pixels)


def test_boxes_of_stretched_images_keep_their_shares(open_run: Callable[..., TunedRun]) -> None:
    assert open_run("frozen", height=16).train.boxes[1].tolist() == [[0.0, 0.25, 0.5, 0.5]]

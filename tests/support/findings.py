"""Findings of a small run, as the report takes them and as files."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metal_defects import artifacts as a
from metal_defects.config import ImageSchema
from metal_defects.data.geometry import CandidateScore, Geometry
from metal_defects.data.manifest import ImageRow, LeftOut, ManifestRow, NamedBox, SourceCard
from metal_defects.data.validation import (
    BalanceCheck,
    BoxesCheck,
    Check,
    CopiesCheck,
    Copy,
    LabelsCheck,
    OverlapsCheck,
    QuarantineCheck,
    SplitCheck,
    ValidationReport,
)
from metal_defects.inference.card import BundleCard, InputCard, Parity, Provenance, Variant
from metal_defects.metrics import share
from metal_defects.models.results import BaseResult, FineTuning, Leaderboard, LogLosses, Trial, TunedResult
from metal_defects.records import write_record, write_rows, write_table
from metal_defects.report.findings import Findings, StageRecord
from support.evaluations import (
    CLASSES,
    CLEAN,
    COUNT,
    EVIL,
    SOURCES,
    WRONG,
    make_evaluation,
    make_probabilities,
    make_split_metrics,
)
from support.model_results import make_gap, make_trial


def make_validation(**parts: Any) -> ValidationReport:
    counts = dict.fromkeys(CLASSES, COUNT // 2)
    ok = {"status": "ok", "message": "Well."}
    checks: dict[str, Any] = {
        "quarantine": QuarantineCheck(**ok, files=41, quarantined=1, share=1 / 41, reasons={"empty": 1}),
        "copies": CopiesCheck(
            status="warn",
            message=EVIL,
            groups=((EVIL, "b"),),
            pairs=(Copy(first=EVIL, second="b", kind="near", correlation=0.98),),
        ),
        "overlaps": OverlapsCheck(
            status="warn",
            message="2 of 40 images share surface with others.",
            images=COUNT,
            shared=2,
            pieces=counts,
            largest=dict.fromkeys(CLASSES, 2),
            unnamed=0,
            loosened=(),
        ),
        "labels": LabelsCheck(**ok, disputed=()),
        "split": SplitCheck(
            status="ok",
            message="train 40, valid 0, test 0.",
            origin="auto",
            counts={"train": counts},
            notes=(),
            dropped_copies=0,
            unused=0,
        ),
        "minimum": Check(**ok),
        "balance": BalanceCheck(**ok, ratio=1.0, counts=counts),
        "boxes": BoxesCheck(
            status="warn",
            message="Two.",
            images_with_annotation=COUNT,
            images_without=0,
            boxes=COUNT,
            boxes_of_another_class=COUNT // 2,
            images_with_another_class=SOURCES[::2],
            unusable_boxes=(),
        ),
    }
    return ValidationReport(**checks | parts)


def make_findings(artifacts: Path, **parts: Any) -> Findings:
    """Findings whose pictures and predictions lie below `artifacts`; `parts` replace fields."""
    manifest = tuple(
        ManifestRow(
            path=source,
            label=CLASSES[index % 2],
            split="train",
            sha256="0",
            group=source,
            width=20,
            height=20,
            boxes=(NamedBox(left=1, top=2, right=3, bottom=4, label=EVIL),),
        )
        for index, source in enumerate(SOURCES)
    )
    images = tuple(
        ImageRow(path=f"{index}.png", label=row.label, split=row.split, sha256="0", source=row.path, group=row.path)
        for index, row in enumerate(manifest)
    )
    folder = {name: artifacts / name for name in (a.PREPROCESSING, a.TRAINING, a.TUNING, a.EVALUATING, a.EXPORT)}
    findings: dict[str, Any] = {
        "source": SourceCard(kind="path", root="steel", layout="flat", classes=CLASSES, notice=None, attempts=()),
        "validation": make_validation(),
        "manifest": manifest,
        "quarantine": (LeftOut(path=EVIL, reason="empty", detail=EVIL),),
        "geometry": make_geometry(),
        "images": images,
        "leaderboard": Leaderboard(data=CLEAN, rule=EVIL, models=(_base("toy", EVIL), _base("other", "Other"))),
        "tuned": make_tuned(),
        "evaluation": make_evaluation(),
        "bundle": make_bundle(),
        "preprocessed": folder[a.PREPROCESSING],
        "data_plots": folder[a.PREPROCESSING] / "plots",
        "leaderboard_plot": folder[a.TRAINING] / "leaderboard.png",
        "base_plots": folder[a.TRAINING],
        "tuning_plots": folder[a.TUNING],
        "predictions": folder[a.TUNING],
        "evaluation_plots": folder[a.EVALUATING] / "plots",
        "variants_plot": folder[a.EXPORT] / "variants.png",
        "command": "python main.py run --set seed=7",
        "seed": 7,
        "made": (StageRecord("01_data_ingestion", 8.92, "2026-01-02T03:04:05+00:00"),),
    }
    found = Findings(**findings | parts)
    _leave_pictures(found)
    return found


def make_geometry() -> Geometry:
    figures = {"standard_error": 0.02, "accuracy": 0.9}
    stretch = CandidateScore(fit="stretch", image_size=224, log_loss=0.4, difference=0.1, relative_cost=1.0, **figures)
    letterbox = CandidateScore(
        fit="letterbox", image_size=224, log_loss=0.3, difference=0.0, relative_cost=1.0, **figures
    )
    candidates = (stretch, letterbox)
    chosen = {"fit": "letterbox", "image_size": 224, "reason": EVIL}
    return Geometry(**chosen, images=40, backbone=EVIL, candidates=candidates)


def _base(name: str, title: str) -> BaseResult:
    return BaseResult(
        data=CLEAN,
        name=name,
        title=title,
        kind="frozen",
        weights="ImageNet",
        gmacs=0.4,
        parameters=10,
        views=("damage", "mild"),
        engine="onnx",
        milliseconds_per_image=7.3,
        hyperparameters={"l2": 0.003},
        epochs=0,
        seconds=4.0,
        valid=make_split_metrics(),
        test=make_split_metrics(),
    )


def make_trials() -> tuple[Trial, ...]:
    """A first look at two recipes, and the comparison of three, of which the last one failed and the second wins."""
    compared = {"first_look": False, "images": COUNT, "damaged_accuracy": 0.925}
    return (
        make_trial(0),
        make_trial(1, gmacs=0.28, params={"taps": "early"}),
        make_trial(2, **compared, gap=make_gap(0.0, 0.0)),
        make_trial(3, **compared, gap=make_gap(0.0123, 0.0456), gmacs=0.28, params={"taps": "early"}),
        make_trial(4, first_look=False, status="FAILED", score=None, accuracy=None, images=None, seconds=None),
    )


def make_tuned(**parts: Any) -> TunedResult:
    """The result of a search for a recipe, beside which fine-tuning was tried and dropped; `parts` replace fields."""
    training = {"label_smoothing": 0.05, "dropout": 0.2, "learning_rate": 0.001, "batch_size": 64, "epochs": 30}
    usual: dict[str, Any] = {
        "data": CLEAN,
        "name": "toy",
        "title": EVIL,
        "kind": "frozen",
        "weights": "ImageNet",
        "base_model_kept": False,
        "hyperparameters": training | make_trials()[3].params,
        "trials": make_trials(),
        "reason": f"Its loss is near {EVIL}.",
        "fine_tuning": FineTuning(
            reason=f"Not more than {EVIL}.",
            minutes=3.5,
            epochs=12,
            images=COUNT,
            frozen_accuracy=0.975,
            accuracy=0.95,
            gain=-0.1,
            gain_error=0.02,
        ),
        "valid_log_loss": LogLosses(base=0.06, tuned=0.28),
        "seconds": 5.0,
        "valid": make_split_metrics(),
        "test": make_split_metrics(),
    }
    return TunedResult(**usual | parts)


def make_bundle() -> BundleCard:
    parity = Parity(
        images=72,
        labels_equal=72,
        verdicts_equal=71,
        max_difference=2e-6,
        max_differences={"probabilities": 2e-6},
        tolerance=1e-4,
        ok=True,
    )
    variants = {
        name: Variant(
            file=file,
            sha256="abc",
            bytes=12_359_276,
            valid_accuracy=share(72, 72),
            test_accuracy=share(71, 72),
            milliseconds_per_image=3.2,
            parity=parity,
            fault=fault,
        )
        for name, file, fault in (("float32", "model.onnx", None), ("int8", "model.int8.onnx", "71 of 72 labels"))
    }
    limits = ImageSchema(formats=("png",), min_side=8, max_side=100, max_bytes=1000)
    made_of = Provenance(
        model="toy",
        weights="ImageNet",
        hyperparameters={},
        keras_sha256="def",
        manifest_sha256="123",
        versions={"keras": "3.0"},
    )
    return BundleCard(
        format=1,
        name="toy",
        created="2026-01-02T03:04:05+00:00",
        code_version="0",
        classes=CLASSES,
        input=InputCard(image_size=64, resize="bilinear", limits=limits),
        default="float32",
        variants=variants,
        verdict_rules=None,
        locator=None,
        evaluation=None,
        data=CLEAN,
        provenance=made_of,
        metrics={},
    )


def _leave_pictures(found: Findings) -> None:
    """Every picture that the stages draw for these findings, and the tables of predictions."""
    labels = ("learning_curve",) if found.evaluation.learning_curve else ()
    measured = (
        "reliability",
        "coverage",
        "risk_coverage",
        "guard",
        "verdicts",
        "locator_examples",
        "robustness",
        "noise",
        *labels,
    )
    data = ("sample_images", "class_counts", "intensity_histograms", "mean_images")
    splits = [f"{plot}_{split}" for plot in ("confusion_matrix", "per_class") for split in ("valid", "test")]
    draw(found.preprocessed / f"{WRONG}.png")
    draw(found.leaderboard_plot)
    draw(found.variants_plot)
    for folder, names in (
        (found.data_plots, data),
        (found.tuning_plots, ("trials", *splits)),
        (found.evaluation_plots, measured),
        *(
            (found.base_plots / name, (curve, "confusion_matrix_test"))
            for name, curve in (("toy", "l2_path"), ("other", "learning_curves"))
        ),
    ):
        for name in names:
            draw(folder / f"{name}.png")
    rows = [(source, "", "", *shares) for source, shares in zip(SOURCES, make_probabilities(), strict=True)]
    for split in ("valid", "test"):
        table = found.predictions / f"predictions_{split}.csv"
        write_table(table, ("source", "true", "predicted", *CLASSES), rows)


def draw(target: Path, width: int = 16, height: int = 16) -> None:
    """A PNG file of noise, which no format makes small."""
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(target)


def write_findings(artifacts: Path, found: Findings) -> None:
    """The files that the stages would have left."""
    for artifact, record in (
        (a.SOURCE, found.source),
        (a.VALIDATION, found.validation),
        (a.GEOMETRY, found.geometry),
        (a.LEADERBOARD, found.leaderboard),
        (a.TUNED_METRICS, found.tuned),
        (a.EVALUATION, found.evaluation),
        (a.BUNDLE_CARD, found.bundle),
    ):
        write_record(artifacts / artifact.name, record)
    write_rows(artifacts / a.MANIFEST.name, ManifestRow, found.manifest)
    write_rows(artifacts / a.QUARANTINE.name, LeftOut, found.quarantine)
    write_rows(artifacts / a.IMAGES.name, ImageRow, found.images)

"""Results of a small run, made of the very types that the stages write; and the same as files."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metal_defects.config import ImageSchema
from metal_defects.data.manifest import DataCard, ImageRow, LeftOut, ManifestRow, NamedBox, SourceCard
from metal_defects.data.validation import (
    BalanceCheck,
    BoxesCheck,
    Check,
    CopiesCheck,
    Copy,
    LabelsCheck,
    QuarantineCheck,
    SplitCheck,
    ValidationReport,
)
from metal_defects.evaluation.cross_validation import ComparedModel, CrossValidation, Misjudged, Round, Suspect
from metal_defects.evaluation.ensemble import EnsembleRow, EnsembleTrial
from metal_defects.evaluation.learning_curve import CurvePoint
from metal_defects.evaluation.results import Evaluation, ModelTitle, Protocol, VerdictCounts, Verdicts
from metal_defects.evaluation.robustness import Robustness, Undamaged
from metal_defects.inference.card import BundleCard, InputCard, Parity, Provenance, Variant, VerdictRules
from metal_defects.metrics import Metrics, Misnamed, Score, SplitMetrics, classification_metrics, share
from metal_defects.models.results import BaseResult, Leaderboard, LogLosses, TunedResult
from metal_defects.pipeline import artifacts as a
from metal_defects.records import write_record, write_rows, write_table
from metal_defects.report.findings import Findings, StageRecord
from metal_defects.trust.calibration import Bin, Calibration, CalibrationError, Confidence
from metal_defects.trust.conformal import ClassCoverage, Coverage, SetScores
from metal_defects.trust.guard import GuardFindings, Quantiles
from metal_defects.trust.locator_scores import Baselines, LocatorFindings, MapScores

# A name that breaks a page, or a table of Markdown, which does not escape it.
EVIL = "<script>alert(1)</script>|x"
CLASSES = ("Crazing", EVIL)
COUNT = 40
SOURCES = tuple(f"IMAGES/{number} {EVIL.replace('/', ' ')}.jpg" for number in range(COUNT))
WRONG = 7
CLEAN = DataCard(kind="path", notice=None)
SEVERITIES = (1, 2, 3, 4, 5)


def make_probabilities() -> np.ndarray:
    """Answers to the images, (COUNT, 2): all right but WRONG."""
    labels = np.arange(COUNT) % 2
    probabilities = np.eye(2)[labels] * 0.8 + 0.1
    probabilities[WRONG] = probabilities[WRONG][::-1]
    return probabilities


def make_metrics() -> Metrics:
    return classification_metrics(np.arange(COUNT) % 2, make_probabilities(), CLASSES)


def make_split_metrics() -> SplitMetrics:
    error = Misnamed(source=SOURCES[WRONG], true=EVIL, predicted="Crazing", confidence=0.9)
    return SplitMetrics(**dict(make_metrics()), errors=(error,))


def make_evaluation(**parts: Any) -> Evaluation:
    """An evaluation with a cross-validation of 40 images; `parts` replace its fields."""
    measured: dict[str, Any] = {
        "data": CLEAN,
        "model": ModelTitle(name="toy", title=EVIL, weights="ImageNet"),
        "classes": CLASSES,
        "seconds": {"cross_validation": 12.5},
        "protocol": Protocol(images=COUNT, folds=5, repeats=2, note=None),
        "cross_validation": _cross_validation(),
        "calibration": _calibration(),
        "conformal": _coverage(),
        "guard": GuardFindings(
            taps=("block_8",),
            acceptance=0.99,
            accepted_out_of_fold=share(39, COUNT),
            accepted_held_out=share(71, 72),
            distances=Quantiles(out_of_fold=(0.4, 0.6, 0.8, 1.1), held_out=(0.4, 0.6, 0.9, 1.2)),
        ),
        "verdicts": make_verdicts(),
        "locator": LocatorFindings(
            kind="boxes",
            trained_on=COUNT,
            scores=_map_scores(70),
            baselines=Baselines(centre=_map_scores(30), grad_cam=_map_scores(50), share_of_area=0.55),
        ),
        "robustness": make_robustness(),
        "learning_curve": tuple(
            CurvePoint(per_class=size, images=10, draws=3, accuracy=share(9, 10), lowest=0.8, highest=0.95)
            for size in (5, None)
        ),
        "comparison": (
            _compared("toy", 1, None),
            _compared("other", 3, 0.4),
        ),
        "ensemble": EnsembleTrial(
            rows=(_averaged("toy"), _averaged("toy", "other")), recommended=("toy",), reason="No gain."
        ),
    }
    return Evaluation(**measured | parts)


def make_verdicts(**parts: Any) -> Verdicts:
    rules = VerdictRules(unknown_distance=1.0, review_distance=0.9, min_confidence=0.5, set_threshold=0.6)
    counts = VerdictCounts(
        images=COUNT, accept=36, review=3, unknown=1, wrong_accept=1, wrong_review=0, wrong_unknown=0
    )
    return Verdicts(**{"rules": rules, "out_of_fold": counts, "valid": counts, "test": counts} | parts)


def make_robustness() -> Robustness:
    shares = (0.9, 0.9, 0.8, 0.7, 0.6)
    scores = tuple(share(round(COUNT * one), COUNT) for one in shares)
    return Robustness(
        images=COUNT,
        clean=Undamaged(accuracy=share(39, COUNT), accepted=0.9, silent_errors=0.0),
        severities=SEVERITIES,
        levels={"gaussian_noise": (50, 40, 30, 25, 20), "blur": (0.5, 0.8, 1.2, 1.6, 2.0)},
        units={"gaussian_noise": "dB SNR", "blur": "px sigma"},
        accuracy={"gaussian_noise": scores, "blur": scores},
        mean=shares,
        accepted={"gaussian_noise": shares, "blur": shares},
        silent_errors={"gaussian_noise": shares, "blur": shares},
        silent_errors_mean=shares,
        errors_accepted=0.125,
    )


def _cross_validation() -> CrossValidation:
    case = Misjudged(
        source=SOURCES[WRONG],
        picture=f"{WRONG}.png",
        true=EVIL,
        predicted="Crazing",
        confidence=0.9,
        probabilities={"Crazing": 0.9, EVIL: 0.1},
        times=2,
        other_boxes=("Crazing",),
    )
    suspect = Suspect(source=SOURCES[WRONG], picture=case.picture, label=EVIL, suggested="Crazing", confidence=0.9)
    return CrossValidation(
        metrics=make_metrics(),
        accuracy=make_metrics().accuracy,
        repeats=(Round(repeat=1, errors=1, accuracy=0.975, spread_of_folds=None),),
        misjudged=(case,),
        suspects=(suspect,),
    )


def _calibration() -> Calibration:
    def confidence(ece: float) -> Confidence:
        bins = (Bin(count=COUNT, confidence=0.9, accuracy=0.975),)
        error = CalibrationError(value=ece, low=ece / 2, high=2 * ece, bins=bins)
        return Confidence(ece=error, negative_log_likelihood=0.03, brier=0.01)

    return Calibration(images=COUNT, errors=1, temperature=0.8, before=confidence(0.0112), after=confidence(0.0042))


def _coverage() -> Coverage:
    classes = (ClassCoverage(name="Crazing", images=20, covered=1.0), ClassCoverage(name=EVIL, images=0, covered=None))
    sets = SetScores(covered=share(39, COUNT), mean_size=1.1, sizes=(0.0, 0.9, 0.1), per_class=classes)
    return Coverage(coverage=0.99, images=COUNT, threshold=0.6, exact=sets, served=sets)


def _map_scores(hits: int) -> MapScores:
    score = Score(value=0.7, low=0.6, high=0.8)
    return MapScores(
        images=72,
        boxes=150,
        threshold=0.4,
        box_threshold=0.8,
        pointing=share(hits, 72),
        energy=score,
        iou=score,
        ap50=score,
    )


def _compared(name: str, errors: int, p_value: float | None) -> ComparedModel:
    others = {"only_best_wrong": 1, "only_this_wrong": 3, "more_than_chance": False} if p_value else {}
    empty: dict[str, Any] = dict.fromkeys(("only_best_wrong", "only_this_wrong", "more_than_chance"))
    return ComparedModel(model=name, errors=errors, log_loss=0.02, p_value=p_value, **empty | others)


def _averaged(*names: str) -> EnsembleRow:
    return EnsembleRow(
        models=names, errors=1, accuracy=share(39, COUNT), log_loss=0.02, gmacs=0.4, milliseconds=None, p_value=None
    )


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
        ImageRow(path=f"{index}.png", label=row.label, split=row.split, sha256="0", source=row.path)
        for index, row in enumerate(manifest)
    )
    folder = {name: artifacts / name for name in (a.PREPROCESSING, a.TRAINING, a.TUNING, a.EVALUATING, a.EXPORT)}
    findings: dict[str, Any] = {
        "source": SourceCard(kind="path", root="steel", layout="flat", classes=CLASSES, notice=None, attempts=()),
        "validation": make_validation(),
        "manifest": manifest,
        "quarantine": (LeftOut(path=EVIL, reason="empty", detail=EVIL),),
        "images": images,
        "leaderboard": Leaderboard(data=CLEAN, rule=EVIL, models=(_base("toy", EVIL), _base("other", "Other"))),
        "tuned": _tuned(),
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


def _base(name: str, title: str) -> BaseResult:
    return BaseResult(
        data=CLEAN,
        name=name,
        title=title,
        kind="frozen",
        weights="ImageNet",
        gmacs=0.4,
        parameters=10,
        views=2,
        fine_tuned=False,
        engine="onnx",
        milliseconds_per_image=7.3,
        hyperparameters={},
        epochs=3,
        seconds=4.0,
        valid=make_split_metrics(),
        test=make_split_metrics(),
    )


def _tuned() -> TunedResult:
    return TunedResult(
        data=CLEAN,
        name="toy",
        title=EVIL,
        kind="frozen",
        weights="ImageNet",
        base_model_kept=True,
        hyperparameters={"learning_rate": 0.001, "taps": "default"},
        trials=2,
        valid_log_loss=LogLosses(base=0.06, tuned=0.28),
        seconds=5.0,
        valid=make_split_metrics(),
        test=make_split_metrics(),
    )


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
        input=InputCard(image_size=20, resize="bilinear", limits=limits),
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
    curve = ("learning_curve",) if found.evaluation.learning_curve else ()
    measured = ("reliability", "coverage", "guard", "verdicts", "locator_examples", "robustness", "noise", *curve)
    data = ("sample_images", "class_counts", "intensity_histograms", "mean_images")
    splits = [f"{plot}_{split}" for plot in ("confusion_matrix", "per_class") for split in ("valid", "test")]
    draw(found.preprocessed / f"{WRONG}.png")
    draw(found.leaderboard_plot)
    draw(found.variants_plot)
    for folder, names in (
        (found.data_plots, data),
        (found.tuning_plots, ("learning_curves", "trials", *splits)),
        (found.evaluation_plots, measured),
        *((found.base_plots / name, ("learning_curves", "confusion_matrix_test")) for name in ("toy", "other")),
    ):
        for name in names:
            draw(folder / f"{name}.png")
    rows = [(source, "", "", *shares) for source, shares in zip(SOURCES, make_probabilities(), strict=True)]
    for split in ("valid", "test"):
        table = found.predictions / f"predictions_{split}.csv"
        write_table(table, ("source", "true", "predicted", *CLASSES), rows)


def draw(target: Path, side: int = 16) -> None:
    """A square PNG file of noise, which no format makes small."""
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(target)


def write_findings(artifacts: Path, found: Findings) -> None:
    """The files that the stages would have left."""
    for artifact, record in (
        (a.SOURCE, found.source),
        (a.VALIDATION, found.validation),
        (a.LEADERBOARD, found.leaderboard),
        (a.TUNED_METRICS, found.tuned),
        (a.EVALUATION, found.evaluation),
        (a.BUNDLE_CARD, found.bundle),
    ):
        write_record(artifacts / artifact.name, record)
    write_rows(artifacts / a.MANIFEST.name, ManifestRow, found.manifest)
    write_rows(artifacts / a.QUARANTINE.name, LeftOut, found.quarantine)
    write_rows(artifacts / a.IMAGES.name, ImageRow, found.images)

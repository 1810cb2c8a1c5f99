"""THE table: what runs, in this order, and all that each stage may read.

Component 05, callbacks, is a library of the stages that train: it has no row because it writes nothing of its own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metal_defects import artifacts as a
from metal_defects.config import Settings
from metal_defects.data.sources import find_source, source_fingerprint
from metal_defects.pipeline.command import repeat_command
from metal_defects.pipeline.context import Outside, Stage
from metal_defects.pipeline.digest import ROOT, digest_files
from metal_defects.pipeline.runner import Finished, read_history


def _weights_fingerprint(settings: Settings) -> dict[str, Any]:
    from metal_defects.models.specs import fingerprint_weights

    return fingerprint_weights(settings.params.model_builder.models, settings.config.paths.weights)


def _earlier_stages(settings: Settings) -> tuple[Finished, ...]:
    """Not the report itself: when it was last written must not change what it says."""
    return tuple(one for one in read_history(settings.config.paths.artifacts) if one.stage < a.REPORT)


def _earlier_fingerprint(settings: Settings) -> dict[str, Any]:
    return {one.stage: one.finished for one in _earlier_stages(settings)}


DATA = Outside("data", source_fingerprint, find_source)


def _weights_place(settings: Settings) -> tuple[Path, float]:
    """The folder of weights files, and seconds that a host has to answer."""
    return settings.config.paths.weights, settings.config.data.timeout_seconds


def _measure_fingerprint(settings: Settings) -> dict[str, Any]:
    """Whether the reference backbone is here; its file is verified, so that no other one can change a result."""
    from metal_defects.models.specs import REFERENCE
    from metal_defects.models.weights import locate_weights

    return {REFERENCE.name: locate_weights(REFERENCE.weights, settings.config.paths.weights) is not None}


WEIGHTS = Outside("weights", _weights_fingerprint, _weights_place)
MEASURE = Outside("reference backbone", _measure_fingerprint, lambda settings: settings.config.paths.weights)
COMMAND = Outside("command", lambda settings: {"line": repeat_command(settings)}, repeat_command)
HISTORY = Outside("history", _earlier_fingerprint, _earlier_stages)
TEMPLATES = Outside("templates", lambda _: digest_files(ROOT / "report" / "templates", "*.j2"))

STAGES = (
    Stage(
        name=a.INGESTION,
        component="metal_defects.components.c01_data_ingestion",
        summary="find, check and split the images",
        settings=("seed", "data_ingestion", "classes", "image", "split"),
        outside=(DATA,),
        reads=(),
        writes=(a.MANIFEST, a.QUARANTINE, a.SOURCE, a.VALIDATION, a.OVERLAPS, a.OVERLAPS_PLOT),
    ),
    Stage(
        name=a.PREPROCESSING,
        component="metal_defects.components.c02_data_preprocessing",
        summary="square RGB images and exploratory plots",
        settings=("seed", "data_preprocessing", "image"),
        outside=(MEASURE,),
        reads=(a.MANIFEST, a.SOURCE),
        writes=(a.GEOMETRY, a.IMAGES, a.PREPROCESSOR, a.DATA_PLOTS),
    ),
    Stage(
        name=a.LOADER,
        component="metal_defects.components.c03_dataset_loader",
        summary="train, valid and test tf.data snapshots",
        settings=(),
        reads=(a.SOURCE, a.GEOMETRY, a.IMAGES, a.PREPROCESSED),
        writes=(a.LABELS, a.SNAPSHOTS),
    ),
    Stage(
        name=a.BUILDER,
        component="metal_defects.components.c04_model_builder",
        summary="one architecture per model, and its weights",
        settings=("seed", "model_builder"),
        outside=(WEIGHTS,),
        reads=(a.SOURCE, a.LABELS),
        writes=(a.MODELS, a.SUMMARIES, a.DIAGRAMS),
    ),
    Stage(
        name=a.TRAINING,
        component="metal_defects.components.c06_model_training_evaluation",
        summary="train every model, choose the best",
        settings=("seed", "model_builder", "callbacks", "training"),
        reads=(a.SOURCE, a.IMAGES, a.PREPROCESSED, a.LABELS, a.SNAPSHOTS_FOLDER, a.MODELS),
        writes=(a.BASE_MODELS, a.BASE_PLOTS, a.LEADERBOARD, a.LEADERBOARD_TABLE, a.LEADERBOARD_PLOT, a.BEST),
    ),
    Stage(
        name=a.TUNING,
        component="metal_defects.components.c07_hyperparameter_tuning",
        summary="tune the best model, test it once",
        settings=(
            "seed",
            "model_builder",
            "callbacks",
            "training",
            "hyperparameter_tuning",
            "data_preprocessing.resize",
            "image",
        ),
        reads=(
            a.MANIFEST,
            a.SOURCE,
            a.IMAGES,
            a.PREPROCESSED,
            a.LABELS,
            a.SNAPSHOTS_FOLDER,
            a.MODELS,
            a.BEST,
            a.BASE_MODELS,
        ),
        writes=(
            a.TUNED_H5,
            a.TUNED_KERAS,
            a.TUNED_CARD,
            a.TUNED_METRICS,
            a.OUT_OF_FOLD,
            a.TRIALS,
            a.TUNING_PLOTS,
            a.PREDICTIONS,
        ),
    ),
    Stage(
        name=a.EVALUATING,
        component="metal_defects.components.c08_model_evaluation",
        summary="calibrate, guard, locate, stress",
        settings=(
            "seed",
            "model_builder",
            "callbacks",
            "training",
            "model_evaluation",
        ),
        reads=(
            a.MANIFEST,
            a.SOURCE,
            a.IMAGES,
            a.SNAPSHOTS_FOLDER,
            a.MODELS,
            a.TUNED_H5,
            a.TUNED_CARD,
            a.TUNED_METRICS,
            a.OUT_OF_FOLD,
        ),
        writes=(a.ANSWER, a.ANSWER_GRAPH, a.DECISION, a.EVALUATION, a.EVALUATION_PLOTS),
    ),
    Stage(
        name=a.EXPORT,
        component="metal_defects.components.c09_model_export",
        summary="ONNX graphs for serving, checked image by image",
        settings=("model_export",),
        reads=(
            a.MANIFEST,
            a.SNAPSHOTS_FOLDER,
            a.TUNED_H5,
            a.TUNED_CARD,
            a.TUNED_METRICS,
            a.ANSWER,
            a.ANSWER_GRAPH,
            a.DECISION,
            a.EVALUATION,
        ),
        writes=(a.BUNDLE, a.BUNDLE_CARD, a.PARITY, a.VARIANTS_PLOT),
    ),
    Stage(
        name=a.REPORT,
        component="metal_defects.components.c10_report",
        summary="the whole run on one page",
        settings=("seed",),
        outside=(TEMPLATES, COMMAND, HISTORY),
        reads=(
            a.MANIFEST,
            a.QUARANTINE,
            a.SOURCE,
            a.VALIDATION,
            a.GEOMETRY,
            a.IMAGES,
            a.PREPROCESSED,
            a.DATA_PLOTS,
            a.LEADERBOARD,
            a.LEADERBOARD_PLOT,
            a.BASE_PLOTS,
            a.TUNED_METRICS,
            a.TUNING_PLOTS,
            a.PREDICTIONS,
            a.EVALUATION,
            a.EVALUATION_PLOTS,
            a.BUNDLE_CARD,
            a.VARIANTS_PLOT,
        ),
        writes=(a.REPORT_PAGE, a.MODEL_CARD),
    ),
)


def readers(artifact: a.Artifact) -> Iterator[Stage]:
    """The stages that read an artifact."""
    return (stage for stage in STAGES if artifact in stage.reads)

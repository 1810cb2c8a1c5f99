"""THE table: what runs, in this order.

Component 05, callbacks, is a library of stages 06 and 07: it has no row because it writes nothing of its own.
"""

from metal_defects.data.sources import source_fingerprint
from metal_defects.pipeline.digest import template_digests
from metal_defects.pipeline.runner import Stage

MANIFEST = "01_data_ingestion/manifest.csv"
IMAGES = "02_data_preprocessing/images.csv"
SNAPSHOTS = "03_dataset_loader/snapshots.json"
LABELS = "03_dataset_loader/class_labels.json"
MODELS = "04_model_builder/models.json"
BEST = "06_model_training_evaluation/best_base_model.json"
TUNED = tuple(f"07_hyperparameter_tuning/{name}" for name in ("tuned_model.h5", "tuned_model.json", "metrics.json"))

ANSWER = tuple(f"08_model_evaluation/{name}" for name in ("answer.npz", "decision.json", "evaluation.json"))

STAGES = (
    Stage(
        name="01_data_ingestion",
        component="metal_defects.components.c01_data_ingestion",
        summary="find, check and split the images",
        params=("params.seed", "params.data_ingestion", "data_schema", "config.data.source", "config.data.kaggle"),
        fingerprint=source_fingerprint,
        reads=(),
        writes=("manifest.csv", "quarantine.csv", "source.json", "validation_report.json"),
    ),
    Stage(
        name="02_data_preprocessing",
        component="metal_defects.components.c02_data_preprocessing",
        summary="224 px RGB images and exploratory plots",
        params=("params.data_preprocessing", "data_schema.image"),
        reads=(MANIFEST,),
        writes=("images.csv", "resized_images_*", "pre_processor.joblib", "plots"),
    ),
    Stage(
        name="03_dataset_loader",
        component="metal_defects.components.c03_dataset_loader",
        summary="train, valid and test tf.data snapshots",
        params=("params.dataset_loader",),
        reads=(MANIFEST, IMAGES),
        writes=("train_ds", "valid_ds", "test_ds", "class_labels.json", "snapshots.json"),
    ),
    Stage(
        name="04_model_builder",
        component="metal_defects.components.c04_model_builder",
        summary="one architecture per model, and its weights",
        params=("params.seed", "params.model_builder", "params.data_preprocessing.image_size"),
        reads=(LABELS,),
        writes=("models.json", "model_summaries.txt", "diagrams"),
    ),
    Stage(
        name="06_model_training_evaluation",
        component="metal_defects.components.c06_model_training_evaluation",
        summary="train every model, choose the best",
        params=("params.seed", "params.model_builder", "params.callbacks", "params.training"),
        reads=(IMAGES, SNAPSHOTS, LABELS, MODELS),
        writes=("base_*.h5", "leaderboard.csv", "leaderboard.json", "best_base_model.json"),
    ),
    Stage(
        name="07_hyperparameter_tuning",
        component="metal_defects.components.c07_hyperparameter_tuning",
        summary="tune the best model, test it once",
        params=("params.seed", "params.callbacks", "params.training", "params.hyperparameter_tuning"),
        reads=(IMAGES, SNAPSHOTS, LABELS, MODELS, BEST),
        writes=("tuned_model.h5", "tuned_model.keras", "tuned_model.json", "metrics.json", "trials.csv"),
    ),
    Stage(
        name="08_model_evaluation",
        component="metal_defects.components.c08_model_evaluation",
        summary="calibrate, guard, locate, stress, report",
        params=("params.seed", "params.callbacks", "params.training", "params.model_evaluation"),
        fingerprint=template_digests,
        reads=(MANIFEST, IMAGES, SNAPSHOTS, LABELS, MODELS, *TUNED),
        writes=("answer.npz", "decision.json", "evaluation.json", "plots", "report.html", "model_card.md"),
    ),
    Stage(
        name="09_model_export",
        component="metal_defects.components.c09_model_export",
        summary="ONNX graphs for serving, checked image by image",
        params=("params.model_export",),
        reads=(MANIFEST, SNAPSHOTS, LABELS, *TUNED, *ANSWER),
        writes=("bundle/model.onnx", "bundle/bundle.json", "parity.csv"),
    ),
)

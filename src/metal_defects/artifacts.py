"""The data catalogue: every file that one stage leaves for others, under the name that rows and stages call it by.

A row of the table names the artifacts that its stage reads; who writes one stands here. `readers` in
`metal_defects.pipeline.table` turns the two into one list.
"""

from dataclasses import dataclass

INGESTION = "01_data_ingestion"
PREPROCESSING = "02_data_preprocessing"
LOADER = "03_dataset_loader"
BUILDER = "04_model_builder"
TRAINING = "06_model_training_evaluation"
TUNING = "07_hyperparameter_tuning"
EVALUATING = "08_model_evaluation"
EXPORT = "09_model_export"
REPORT = "10_report"


@dataclass(frozen=True)
class Artifact:
    """A file, or a folder with files, under artifacts/.

    Attributes:
        writer: the stage, which is also the folder that holds it.
        file: its path in there, or a pattern that stands for several files; "." is the whole folder.
        what: it holds, in a few words.
        known_by: files of the same stage whose content tells one state of it from another; itself where there are none.
            The bytes of a tf.data snapshot differ from run to run, for example, though its images do not.
    """

    writer: str
    file: str
    what: str
    known_by: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its path under artifacts/."""
        return f"{self.writer}/{self.file}"


MANIFEST = Artifact(INGESTION, "manifest.csv", "every image that is used: class, split, digest, copies, boxes")
QUARANTINE = Artifact(INGESTION, "quarantine.csv", "every file that is not used, and why")
SOURCE = Artifact(INGESTION, "source.json", "where the images come from, and their classes")
OVERLAPS = Artifact(INGESTION, "overlaps.csv", "every pair of images that overlap, and where")
OVERLAPS_PLOT = Artifact(INGESTION, "plots/overlaps.png", "the same: sizes of the pieces, and some of them stitched")
VALIDATION = Artifact(INGESTION, "validation_report.json", "what the checks of the data found")

IMAGES = Artifact(PREPROCESSING, "images.csv", "every preprocessed image")
PREPROCESSED = Artifact(PREPROCESSING, ".", "the preprocessed images", known_by=("images.csv",))
GEOMETRY = Artifact(PREPROCESSING, "geometry.json", "how images become squares, and why")
PREPROCESSOR = Artifact(PREPROCESSING, "pre_processor.joblib", "the preprocessing as an object, for other programs")
DATA_PLOTS = Artifact(PREPROCESSING, "plots", "plots to get to know the data")

LABELS = Artifact(LOADER, "class_labels.json", "the classes in their order, and the side of the images")
SNAPSHOTS = Artifact(LOADER, "snapshots.json", "what the snapshots hold")
SNAPSHOTS_FOLDER = Artifact(
    LOADER, ".", "tf.data snapshots of train, valid and test", known_by=("snapshots.json", "class_labels.json")
)

MODELS = Artifact(BUILDER, "models.json", "the models, and the weights that were to be had")
SUMMARIES = Artifact(BUILDER, "model_summaries.txt", "layers of every model")
DIAGRAMS = Artifact(BUILDER, "diagrams", "a diagram of every model")

LEADERBOARD = Artifact(TRAINING, "leaderboard.json", "every base model with its scores, the best first")
LEADERBOARD_TABLE = Artifact(TRAINING, "leaderboard.csv", "the same as a table")
LEADERBOARD_PLOT = Artifact(TRAINING, "leaderboard.png", "the same as a plot")
BEST = Artifact(TRAINING, "best_base_model.json", "the best base model, and why")
BASE_MODELS = Artifact(TRAINING, "base_*.h5", "the base models")
BASE_PLOTS = Artifact(
    TRAINING, "*/*.png", "learning curves or paths of penalties, and confusion matrices, of every base model"
)

TUNED_H5 = Artifact(TUNING, "tuned_model.h5", "the tuned model")
TUNED_KERAS = Artifact(TUNING, "tuned_model.keras", "the tuned model in Keras' own format")
TUNED_CARD = Artifact(TUNING, "tuned_model.json", "what prediction needs beside the weights")
TUNED_METRICS = Artifact(TUNING, "metrics.json", "scores of the tuned model; its test")
OUT_OF_FOLD = Artifact(
    TUNING,
    "out_of_fold.npz",
    "answers to training images by networks that never saw them; none of a frozen backbone",
)
TRIALS = Artifact(TUNING, "trials.csv", "every trial of the search: its hyperparameters, and how they did")
TUNING_PLOTS = Artifact(TUNING, "*.png", "plots of the search and of the tuned model")
PREDICTIONS = Artifact(TUNING, "predictions_*.csv", "the tuned model's answers to the validation and test images")

ANSWER = Artifact(EVALUATING, "answer.npz", "temperature, biases, guard and locator")
ANSWER_GRAPH = Artifact(EVALUATING, "answer.onnx", "the ONNX graph of the whole answer, which was judged")
DECISION = Artifact(EVALUATING, "decision.json", "the rules that make an answer of the graph's outputs")
EVALUATION = Artifact(EVALUATING, "evaluation.json", "everything that was measured of the tuned model")
EVALUATION_PLOTS = Artifact(EVALUATING, "plots", "plots of it")

BUNDLE = Artifact(EXPORT, "bundle", "the graphs and bundle.json: all that serving needs")
BUNDLE_CARD = Artifact(EXPORT, "bundle/bundle.json", "what the graphs can do and where they come from")
PARITY = Artifact(EXPORT, "parity.csv", "every graph against the Keras model")
VARIANTS_PLOT = Artifact(EXPORT, "variants.png", "the same as a plot")

REPORT_PAGE = Artifact(REPORT, "report.html", "the whole run on one page")
MODEL_CARD = Artifact(REPORT, "model_card.md", "the model on half a page")

ARTIFACTS = tuple(value for value in dict(globals()).values() if isinstance(value, Artifact))

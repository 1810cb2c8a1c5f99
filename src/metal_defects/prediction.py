"""Classifies image files with the tuned Keras model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metal_defects.config import ImageSchema
from metal_defects.data.imaging import ImageError, Preprocessor
from metal_defects.errors import UserError
from metal_defects.files import read_json, sha256_file

if TYPE_CHECKING:
    import keras

AGAIN = "python main.py run --from 07 --force"


@dataclass(frozen=True)
class Classifier:
    """The tuned model with its classes and preprocessing.

    Attributes:
        model: uint8 (batch, side, side, 3) to probabilities (batch, classes).
        classes: names.
        preprocess: image file to uint8 (side, side, 3).
        notice: what every user of the model must know, such as that it learnt from drawn images.
    """

    model: "keras.Model"
    classes: tuple[str, ...]
    preprocess: Preprocessor
    notice: str | None

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Read tuned_model.h5 and tuned_model.json.

        Raises:
            UserError: they are missing, or the model file is not the one that the description names.
        """
        if not (folder / "tuned_model.json").exists():
            raise UserError(f"There is no tuned model yet; run `python main.py` first. Looked in {folder}.")
        try:
            card = read_json(folder / "tuned_model.json")
        except ValueError as error:
            raise UserError(f"{folder}/tuned_model.json is damaged; run `{AGAIN}`. Got {error}.") from error
        path = folder / "tuned_model.h5"
        if not path.exists() or sha256_file(path) != card["sha256"]:
            raise UserError(f"{path} is missing or was altered; run `{AGAIN}`.")
        import keras

        preprocess = Preprocessor(card["image_size"], card["resize"], ImageSchema(**card["limits"]))
        model = keras.models.load_model(path, compile=False)
        return cls(model, tuple(card["classes"]), preprocess, card["data"]["notice"])

    def predict_file(self, path: Path) -> dict[str, Any]:
        """Label, confidence and all probabilities of one file, or its error in words."""
        try:
            image = self.preprocess(path)
        except ImageError as error:
            return {"image": str(path), "error": str(error)}
        except OSError as error:
            return {"image": str(path), "error": f"Cannot read the file: {error.strerror}."}
        probabilities = self.model(image[None], training=False).numpy()[0]
        best = int(probabilities.argmax())
        return {
            "image": str(path),
            "label": self.classes[best],
            "confidence": round(float(probabilities[best]), 6),
            "probabilities": {
                name: round(float(share), 6) for name, share in zip(self.classes, probabilities, strict=True)
            },
        }

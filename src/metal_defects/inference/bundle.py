"""The bundle: a folder with ONNX graphs and bundle.json, checked before anything in it is used."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metal_defects.config import DataPreprocessingParams, ImageSchema
from metal_defects.errors import UserError
from metal_defects.files import sha256_file
from metal_defects.log import logger

CARD = "bundle.json"
FORMAT = 1
ENV_BUNDLE = "METAL_DEFECTS_BUNDLE"
EXPORTED = Path("09_model_export", "bundle")
KERAS_FILE = Path("07_hyperparameter_tuning", "tuned_model.h5")
_NEEDED = {
    "classes": list, "input": dict, "default": str, "variants": dict, "data": dict, "provenance": dict, "metrics": dict,
}  # fmt: skip


class BundleError(UserError):
    """A bundle is missing, torn, altered or of another format."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were all found to be what bundle.json says.

    Attributes:
        folder: that holds it.
        card: the content of bundle.json.
        hash: first 12 hexadecimal digits of the SHA-256 of bundle.json: names this very bundle.
    """

    folder: Path
    card: dict[str, Any]
    hash: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the graph's output."""
        return tuple(self.card["classes"])

    @property
    def image_size(self) -> int:
        """Side of the graph's input in pixels."""
        return self.card["input"]["image_size"]

    @property
    def limits(self) -> ImageSchema:
        """Which images are accepted."""
        return ImageSchema(**self.card["input"]["limits"])

    @property
    def notice(self) -> str | None:
        """What every user of the model must know, such as that it learnt from drawn images."""
        return self.card["data"].get("notice")

    def variant_file(self, name: str) -> Path:
        """The graph of a variant, such as "float32".

        Raises:
            BundleError: there is no such variant.
        """
        if name not in self.card["variants"]:
            known = ", ".join(self.card["variants"])
            raise BundleError(f"The variant must be one of {known}. Got '{name}' instead.")
        return self.folder / self.card["variants"][name]["file"]

    def keras_artifacts(self) -> Path:
        """The artifacts folder of the run that the graphs were exported from, with tuned_model.h5 in it.

        Raises:
            BundleError: the bundle does not lie in one, or it holds another model.
        """
        artifacts = self.folder.absolute().parents[1]
        path = artifacts / KERAS_FILE
        if not path.exists():
            raise BundleError(
                "The keras runtime needs the run that made the bundle; run `python main.py` or use --runtime onnx. "
                f"Looked for {path}."
            )
        if sha256_file(path) != self.card["provenance"]["keras_sha256"]:
            raise BundleError(f"The bundle was not made from this model; run `python main.py`. Got {path}.")
        return artifacts


def find_bundle(artifacts: Path | None, shipped: Path) -> Path:
    """The folder to serve from: the one named by METAL_DEFECTS_BUNDLE, else the pipeline's own, else the shipped one.

    A folder that exists is taken even if it is damaged: `load_bundle` refuses it then, and nobody is served by
    another model than they think.

    Raises:
        BundleError: there is none.
    """
    named = os.environ.get(ENV_BUNDLE)
    if named:
        logger.info("Bundle: %s (named by %s)", named, ENV_BUNDLE)
        return Path(named).expanduser()
    if artifacts is not None and (artifacts / EXPORTED).exists():
        logger.info("Bundle: %s (of your own run)", artifacts / EXPORTED)
        return artifacts / EXPORTED
    if shipped.exists():
        logger.info("Bundle: %s (shipped; a run of the pipeline makes your own)", shipped)
        return shipped
    raise BundleError(f"There is no model to serve; run `python main.py` first. Looked in {artifacts} and {shipped}.")


def load_bundle(folder: Path) -> Bundle:
    """Read and check a bundle: its format, its fields, and the size and SHA-256 of every file.

    Raises:
        BundleError: with the first thing that is wrong.
    """
    path = folder / CARD
    try:
        content = path.read_bytes()
        card = json.loads(content)
    except OSError as error:
        raise BundleError(f"There is no bundle: {path} cannot be read. Got '{error.strerror}'.") from error
    except ValueError as error:
        raise _refuse(folder, f"{CARD} is not valid JSON") from error
    _check_card(folder, card)
    for name, variant in card["variants"].items():
        _check_file(folder, name, variant)
    return Bundle(folder, card, hashlib.sha256(content).hexdigest()[:12])


def _check_card(folder: Path, card: Any) -> None:
    found = card.get("format") if isinstance(card, dict) else None
    if found != FORMAT:
        raise BundleError(
            f"This version reads bundles of format {FORMAT}; export it again with `python main.py run --from 09`. "
            f"Got format {found!r} in {folder / CARD}."
        )
    for key, kind in _NEEDED.items():
        if not isinstance(card.get(key), kind):
            raise _refuse(folder, f"{CARD} has no valid '{key}'")
    contract = card["input"]
    try:
        ImageSchema.model_validate(contract.get("limits"))
        DataPreprocessingParams.model_validate({k: contract.get(k) for k in ("image_size", "resize")}, strict=True)
    except ValidationError as error:
        raise _refuse(folder, f"{CARD} has no valid 'input'") from error
    if card["default"] not in card["variants"]:
        raise _refuse(folder, f"its default variant '{card['default']}' does not exist")


def _check_file(folder: Path, name: str, variant: Any) -> None:
    file = variant.get("file") if isinstance(variant, dict) else None
    if not isinstance(file, str) or file != Path(file).name:
        raise _refuse(folder, f"variant '{name}' names no file in it")
    try:
        digest = sha256_file(folder / file)
    except OSError as error:
        raise _refuse(folder, f"{file} cannot be read ({error.strerror})") from error
    if digest != variant.get("sha256"):
        raise _refuse(folder, f"{file} is cut short or was altered (its SHA-256 is not the recorded one)")


def _refuse(folder: Path, fault: str) -> BundleError:
    return BundleError(f"The bundle is not usable: {fault}. Export or copy it again. Got {folder}.")

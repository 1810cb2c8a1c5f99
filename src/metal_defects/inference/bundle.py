"""The bundle: a folder with ONNX graphs and bundle.json, checked before anything in it is used."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from logging import INFO, WARNING
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from metal_defects.artifacts import BUNDLE, TUNED_H5
from metal_defects.config import ImageSchema
from metal_defects.errors import BundleError, ConfigError
from metal_defects.files import sha256_file
from metal_defects.inference.card import BundleCard, Variant
from metal_defects.log import logger
from metal_defects.shipped import find_shipped

CARD = "bundle.json"
FORMAT: Final = 1
ENV_BUNDLE = "METAL_DEFECTS_BUNDLE"
SHIPPED = "bundles/neu"
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were all found to be what bundle.json says.

    Attributes:
        folder: that holds it.
        card: the content of bundle.json.
        hash: first 12 hexadecimal digits of the SHA-256 of bundle.json: names this very bundle.
    """

    folder: Path
    card: BundleCard
    hash: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the graph's output."""
        return self.card.classes

    @property
    def image_size(self) -> int:
        """Side of the graph's input in pixels."""
        return self.card.input.image_size

    @property
    def limits(self) -> ImageSchema:
        """Which images are accepted."""
        return self.card.input.limits

    @property
    def notice(self) -> str | None:
        """What every user of the model must know, such as that it learnt from drawn images."""
        return self.card.data.notice

    def variant_file(self, name: str) -> Path:
        """The graph of a variant, such as "float32".

        Raises:
            BundleError: there is no such variant.
        """
        if name not in self.card.variants:
            known = ", ".join(self.card.variants)
            raise BundleError(f"The variant must be one of {known}. Got '{name}' instead.")
        return self.folder / self.card.variants[name].file

    def keras_artifacts(self) -> Path:
        """The artifacts folder of the run that the graphs were exported from, with tuned_model.h5 in it.

        Raises:
            BundleError: the bundle does not lie in one, or it holds another model.
        """
        artifacts = self.folder.absolute().parents[1]
        path = artifacts / TUNED_H5.name
        if not path.exists():
            raise BundleError(
                "The keras runtime needs the run that made the bundle; run `python main.py` or use --runtime onnx. "
                f"Looked for {path}."
            )
        if sha256_file(path) != self.card.provenance.keras_sha256:
            raise BundleError(f"The bundle was not made from this model; run `python main.py`. Got {path}.")
        return artifacts


def find_bundle(artifacts: Path, named: Path | None = None) -> Path:
    """The folder to serve from: the one that is named, else the pipeline's own, else the shipped one.

    A model that learnt from drawn images is a toy: it calls all real steel unknown. The pipeline's own bundle is
    therefore passed over where it is one; by its name it is served like any other. A folder that exists is taken even
    if it is damaged: `load_bundle` refuses it then, and nobody is served by another model than they think.

    Args:
        artifacts: folder of the pipeline's runs.
        named: by the caller; METAL_DEFECTS_BUNDLE where None.

    Raises:
        BundleError: there is none.
    """
    own, variable = artifacts / BUNDLE.name, os.environ.get(ENV_BUNDLE)
    if named is not None or variable:
        folder = (named or Path(variable or "")).expanduser()
        _say_once(f"Bundle: {folder} (named by {'--bundle' if named else ENV_BUNDLE})")
        if _is_synthetic(folder):
            _say_once(f"This model learnt from drawn images; it calls real steel unknown. Got {folder}.", WARNING)
        return folder
    if own.exists() and not _is_synthetic(own):
        _say_once(f"Bundle: {own} (of your own run)")
        return own
    if own.exists():
        _say_once(f"Your own run was trained on the synthetic set; name it with --bundle {own} to serve it.", WARNING)
    try:
        shipped = find_shipped(SHIPPED)
    except ConfigError as error:
        raise BundleError(f"There is no model to serve; run `python main.py` first. Looked in {artifacts}.") from error
    _say_once(f"Bundle: {shipped} (shipped; a run of the pipeline on your images makes your own)")
    return shipped


def load_bundle(folder: Path) -> Bundle:
    """Read and check a bundle: its format, its fields, and the size and SHA-256 of every file.

    Raises:
        BundleError: with the first thing that is wrong.
    """
    path = folder / CARD
    try:
        content = path.read_bytes()
        card = BundleCard.model_validate_json(content, strict=True)
    except OSError as error:
        raise BundleError(f"There is no bundle: {path} cannot be read. Got '{error.strerror}'.") from error
    except ValidationError as error:
        raise _explain(folder, error) from error
    if card.default not in card.variants:
        raise _refuse(folder, f"its default variant '{card.default}' does not exist")
    for name, variant in card.variants.items():
        _check_file(folder, name, variant)
    return Bundle(folder, card, hashlib.sha256(content).hexdigest()[:12])


def _is_synthetic(folder: Path) -> bool:
    """Whether its card says so; False where there is no readable card, for `load_bundle` to refuse."""
    try:
        return bool(json.loads((folder / CARD).read_bytes())["data"]["kind"] == SYNTHETIC)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@lru_cache(maxsize=64)
def _say_once(message: str, level: int = INFO) -> None:
    """Log a message, the first time alone: the app asks for its bundle at every click."""
    logger.log(level, message)


def _explain(folder: Path, error: ValidationError) -> BundleError:
    """The first thing that is wrong with a card."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _refuse(folder, f"{CARD} is not valid JSON")
    key = first["loc"][0] if first["loc"] else "format"
    if key != "format":
        return _refuse(folder, f"{CARD} has no valid '{key}'")
    found = None if first["type"] in ("missing", "model_type") else first["input"]
    return BundleError(
        f"This version reads bundles of format {FORMAT}; export it again with `python main.py run --from 09`. "
        f"Got format {found!r} in {folder / CARD}."
    )


def _check_file(folder: Path, name: str, variant: Variant) -> None:
    if variant.file != Path(variant.file).name:
        raise _refuse(folder, f"variant '{name}' names no file in it")
    try:
        digest = sha256_file(folder / variant.file)
    except OSError as error:
        raise _refuse(folder, f"{variant.file} cannot be read ({error.strerror})") from error
    if digest != variant.sha256:
        raise _refuse(folder, f"{variant.file} is cut short or was altered (its SHA-256 is not the recorded one)")


def _refuse(folder: Path, fault: str) -> BundleError:
    return BundleError(f"The bundle is not usable: {fault}. Export or copy it again. Got {folder}.")

"""Source `synthetic`: the drawn stand-in, for where no real images can be had."""

from pathlib import Path
from typing import Any

from metal_defects.config import Settings, normalise_name
from metal_defects.data.sources.base import NothingHereError, SourceKind
from metal_defects.files import atomic_folder, sha256_file, sha256_json


def _fetch(settings: Settings) -> Path:
    """Draw the set, once for each seed and size.

    Raises:
        NothingHereError: schema.yaml asks for other classes.
    """
    from metal_defects.data import synthetic  # the plan of a run must not wait for NumPy and Pillow

    classes = settings.data_schema.classes
    if classes != "auto":
        spellings = {normalise_name(text) for name, aliases in classes.items() for text in (name, *aliases)}
        missing = [name for name in synthetic.NEU_CLASSES if normalise_name(name) not in spellings]
        if missing:
            raise NothingHereError(
                "The synthetic set only has the six NEU classes; give your images with --data FOLDER. "
                f"Got a schema.yaml without {', '.join(missing)}."
            )
    count, seed = settings.params.data_ingestion.synthetic_images_per_class, settings.params.seed
    identity = [count, seed, sha256_file(Path(synthetic.__file__))]
    folder = settings.config.paths.downloads / f"synthetic-{sha256_json(identity)[:16]}"
    if not folder.is_dir():
        with atomic_folder(folder) as partial:
            synthetic.write_synthetic_set(partial, count, seed)
    return folder


def _fingerprint(_settings: Settings) -> dict[str, Any]:
    return {}


SYNTHETIC = SourceKind(
    "synthetic",
    "drawn images",
    _fetch,
    _fingerprint,
    notice="The images are SYNTHETIC: results say nothing about real steel.",
)

"""The model that the app serves: found, checked and loaded once for all visitors."""

from pathlib import Path

import streamlit as st

from metal_defects.config import Config, find_root, load_settings
from metal_defects.inference.bundle import CARD, find_bundle
from metal_defects.inference.predictor import Predictor


def get_predictor() -> Predictor:
    """The shared predictor; a new one when another bundle was written since.

    Raises:
        UserError: the settings or the bundle are not usable.
    """
    folder = find_bundle(get_config().paths.artifacts)
    card = folder / CARD
    return _load(str(folder), card.stat().st_mtime_ns if card.exists() else 0)


@st.cache_resource
def get_config() -> Config:
    """config/config.yaml.

    Raises:
        UserError: it is not usable.
    """
    return load_settings(find_root()).config


@st.cache_resource(max_entries=1, show_spinner="Loading the model …")
def _load(folder: str, written: int) -> Predictor:
    """`written` is part of the cache key only."""
    return Predictor.load(Path(folder))

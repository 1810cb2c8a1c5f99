"""One image: picture, answer, all classes, where the defect is."""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import streamlit as st
from PIL import Image, ImageOps

from metal_defects.app import markup
from metal_defects.app.occlusion import GRID, measure_heat
from metal_defects.app.scoring import Row, load_preview
from metal_defects.app.session import Visit
from metal_defects.inference.answer import Prediction
from metal_defects.inference.overlay import paint_overlay
from metal_defects.inference.predictor import Predictor

_SIDE = 640  # pixels, of the painted picture


def show_detail(row: Row, visit: Visit, predictor: Predictor) -> None:
    """Picture beside the answer, or above it where there is a table too."""
    answer = row.prediction
    with st.container(border=True):
        st.html(markup.answer(answer.label, answer.confidence, answer.verdict, answer.reason))
        alone = len(visit.rows) == 1
        picture, text = st.columns([2, 3], gap="large") if alone else (st.container(), st.container())
        with picture:
            _show_picture(row, visit, predictor)
        with text:
            st.html(markup.share_bars(answer.probabilities, answer.verdict != "unknown"))
            st.html(markup.facts(row.name, f"{row.width:,} × {row.height:,} px", *_list_facts(answer)))


def _list_facts(answer: Prediction) -> Iterator[str]:
    yield f"answered in {answer.milliseconds:.0f} ms"
    if answer.distance is not None:
        yield f"distance {answer.distance:.2f}, limit 1"
    if answer.prediction_set is not None and len(answer.prediction_set) > 1:
        yield f"possible: {' or '.join(answer.prediction_set)}"


def _show_picture(row: Row, visit: Visit, predictor: Predictor) -> None:
    """The image; over it what the graph located, or the occlusion map, which is computed when it is asked for."""
    is_located = row.heat_map is not None
    title = "Show where the defect is" if is_located else "Show where the model looked"
    if not st.toggle(title, value=is_located, key="overlay"):
        st.image(row.preview, width="stretch")
        return
    heat_map = _get_occlusion(row, visit, predictor) if row.heat_map is None else row.heat_map
    # Enlarged first, so that heat map and frames are smooth on a small image too.
    picture = ImageOps.contain(Image.open(BytesIO(row.preview)), (_SIDE, _SIDE))
    st.image(paint_overlay(picture, heat_map, row.prediction.boxes), width="stretch")
    st.caption(_explain_location(row) if is_located else _explain_occlusion(row, float(heat_map.max())))


def _get_occlusion(row: Row, visit: Visit, predictor: Predictor) -> np.ndarray:
    if row.digest not in visit.occlusions:
        with st.spinner(f"Hiding {GRID * GRID} patches, one at a time …"):
            visit.occlusions[row.digest] = measure_heat(predictor, load_preview(row), row.prediction.label)
    return visit.occlusions[row.digest]


def _explain_location(row: Row) -> str:
    if not row.prediction.boxes:
        return "The redder, the likelier a defect is there. No part is likely enough for a frame."
    return "The redder, the likelier a defect is there; each frame holds one."


def _explain_occlusion(row: Row, strongest: float) -> str:
    how = (
        f"Each of {GRID * GRID} patches was blurred away in turn; the redder, the more the evidence for "
        f"{markup.as_text(row.prediction.label)} fell. It shows what the answer rests on, not where the defect ends."
    )
    return how if strongest == 1 else f"No single patch decides: the evidence is spread over the whole image. {how}"

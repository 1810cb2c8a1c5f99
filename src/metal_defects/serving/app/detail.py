"""One image: picture, answer, all classes, where the model looked."""

from io import BytesIO

import numpy as np
import streamlit as st
from PIL import Image

from metal_defects.serving.app import markup
from metal_defects.serving.app.heat import GRID, SPREAD, measure_heat, paint_heat
from metal_defects.serving.app.scoring import Row, load_preview
from metal_defects.serving.app.session import Visit
from metal_defects.serving.predictor import Predictor


def show_detail(row: Row, visit: Visit, predictor: Predictor) -> None:
    """Picture beside the answer; the heat map is computed when it is asked for, once per image."""
    answer = row.prediction
    with st.container(border=True):
        st.html(markup.answer(answer.label, answer.confidence))
        alone = len(visit.rows) == 1
        picture, text = st.columns([2, 3], gap="large") if alone else (st.container(), st.container())
        with text:
            if answer.verdict:
                st.info(" · ".join(part for part in (answer.verdict, answer.reason) if part))
            st.html(markup.share_bars(answer.probabilities))
            size = f"{row.width:,} × {row.height:,} px"
            st.html(markup.facts(row.name, size, f"answered in {answer.milliseconds:.0f} ms"))
        with picture:
            wanted = st.toggle("Show where the model looked", key="heat")
            preview = Image.open(BytesIO(row.preview))
            if not wanted:
                st.image(row.preview, width="stretch")
                return
            heat = _get_heat(row, visit, predictor)
            st.image(paint_heat(preview, heat), width="stretch")
            st.caption(_explain(answer.label, float(heat.max())))


def _get_heat(row: Row, visit: Visit, predictor: Predictor) -> np.ndarray:
    if row.digest not in visit.heat_maps:
        with st.spinner(f"Hiding {GRID * GRID} patches, one at a time …"):
            heat = measure_heat(predictor, load_preview(row, predictor.bundle), row.prediction.label)
        visit.remember_heat_map(row.digest, heat)
    return visit.heat_maps[row.digest]


def _explain(label: str, strongest: float) -> str:
    how = (
        f"Each of {GRID * GRID} patches was blurred away in turn; the redder, the more the evidence for {label} fell. "
        "It shows what the answer rests on, not the outline of the defect."
    )
    if strongest < SPREAD:
        return f"No single patch decides: the evidence is spread over the whole image. {how}"
    return how

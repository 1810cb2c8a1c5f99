"""The frame of the app: page settings, style, the model, navigation."""

from pathlib import Path

import streamlit as st

from metal_defects.app import markup
from metal_defects.app.inspect_page import show_inspect_page
from metal_defects.app.model import get_config, get_predictor
from metal_defects.app.model_page import show_model_page
from metal_defects.errors import UserError
from metal_defects.log import logger

_STYLE = Path(__file__).with_name("style.css")


def show_app() -> None:
    """Draw the app once; Streamlit calls this at every click."""
    st.set_page_config(page_title="Metal defects", page_icon=":material/texture:", layout="wide")
    st.html(_STYLE)
    try:
        predictor = get_predictor()
    except UserError as error:
        logger.error("The app has no model: %s", error)
        st.title("Metal defects")
        st.error(f"**There is no model to answer.** {markup.as_text(str(error))}", icon=":material/error:")
        return
    inspect = st.Page(
        lambda: show_inspect_page(predictor, get_config().serving.max_pixels), title="Inspect",
        icon=":material/search:", url_path="inspect", default=True,
    )  # fmt: skip
    model = st.Page(
        lambda: show_model_page(predictor.bundle), title="Model", icon=":material/description:", url_path="model"
    )
    page = st.navigation([inspect, model], position="top")
    if predictor.bundle.notice:
        st.warning(f"**Not for decisions.** {markup.as_text(predictor.bundle.notice)}", icon=":material/warning:")
    page.run()
    if page is inspect:
        st.page_link(model, label="How good is this model?", icon=":material/arrow_forward:")

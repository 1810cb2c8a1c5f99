"""The page where images are handed over and answered."""

import time
from io import BytesIO
from pathlib import Path

import streamlit as st
from PIL import Image
from streamlit.delta_generator import DeltaGenerator

from metal_defects.app import markup
from metal_defects.app.intake import Intake, Item, open_uploads
from metal_defects.app.result_list import show_results
from metal_defects.app.scoring import make_thumbnail, score
from metal_defects.app.session import MAX_ROWS, Visit, current_visit
from metal_defects.inference.answer import Failure
from metal_defects.inference.predictor import Predictor

SAMPLES = Path(__file__).with_name("samples")
_REFRESH_SECONDS = 0.15
_UPLOAD, _CAMERA, _SAMPLES = "Upload", "Camera", "Samples"
_ICONS = {_UPLOAD: ":material/upload:", _CAMERA: ":material/photo_camera:", _SAMPLES: ":material/grid_view:"}


def show_inspect_page(predictor: Predictor, max_pixels: int) -> None:
    """Intake on top; below it the results, or what to do when there are none.

    Args:
        max_pixels: of one image, width times height.
    """
    visit = current_visit(predictor.bundle.hash)
    st.title("Which defect is it?")
    classes = markup.list_classes(predictor.bundle.classes)
    st.html(markup.lead(f"Hand over pictures of metal surfaces; each is named one of {classes}."))
    intake = _ask_images(visit, predictor)
    progress = st.empty()
    if not intake:
        if visit.rows or visit.failures:
            show_results(visit, predictor)
        else:
            intake = _show_first_steps()
    if intake:
        _work_through(intake, visit, predictor, progress, max_pixels)


def _ask_images(visit: Visit, predictor: Predictor) -> Intake | None:
    """The three ways in; what came in through one of them since the last click."""
    limits = predictor.bundle.limits
    with st.container(border=True, key="more" if visit.rows else "first"):
        way = st.segmented_control(
            "Where the images come from", list(_ICONS), default=_UPLOAD, key="way", required=True,
            format_func=lambda name: f"{_ICONS[name]} {name}", label_visibility="collapsed",
        )  # fmt: skip
        if way == _SAMPLES:
            return _offer_samples("samples")
        if way == _CAMERA:
            advice = "Hold the camera straight above the surface and fill the frame"
            photo = st.camera_input(advice, key=f"photo-{visit.generation}")
            named = [(f"photo {time.strftime('%H-%M-%S')}.jpg", photo)] if photo else []
        else:
            formats = f"One image or hundreds: {', '.join(limits.formats)}, or a ZIP of them"
            files = st.file_uploader(formats, accept_multiple_files=True, key=f"files-{visit.generation}")
            named = [(file.name, file) for file in files]
        return open_uploads(named, limits.max_bytes) if named else None


def _offer_samples(key: str) -> Intake | None:
    thumbnails = _sample_thumbnails()
    st.html(markup.strip(thumbnails))
    st.caption("Drawn, not photographed: a model that learned from real steel may well say that it does not know them.")
    if st.button(f"Try the {len(thumbnails)} drawn samples", key=key, type="primary", icon=":material/play_arrow:"):
        return Intake([Item(path.name, path.read_bytes) for path in _sample_files()])
    return None


def _show_first_steps() -> Intake | None:
    """What a newcomer can do; the samples where their button was pressed."""
    steps = [
        ("1 · Bring images", "Drop files or a ZIP above, or use the camera. They stay in this session only."),
        ("2 · Read the answer", "Every image gets a label and a confidence. Open one to see what the answer rests on."),
        ("3 · Take it along", "Filter by class and confidence, then download the list as CSV or JSON."),
    ]
    st.html(markup.steps(steps))
    if st.session_state["way"] == _SAMPLES:
        return None
    st.subheader("No image at hand?")
    return _offer_samples("samples-below")


def _work_through(
    intake: Intake, visit: Visit, predictor: Predictor, progress: DeltaGenerator, max_pixels: int
) -> None:
    """Answer everything that came in, under a progress bar, and draw the page again.

    A click meanwhile starts this again with the same files; what was answered by then is in the list and is passed
    over.
    """
    for failure in intake.failures:
        visit.add_failure(failure)
    items, excess = intake.items[: visit.room], intake.items[visit.room :]
    if excess:
        message = (
            f"The list holds {MAX_ROWS:,} images; download it, clear it and upload the rest. "
            f"Got {len(excess):,} too many, the first of them {excess[0].name}."
        )
        visit.add_failure(Failure.of(f"{len(excess):,} more images", "list_full", message))
    total = len(items)
    bar = progress.progress(0.0, text=f"{total:,} image{'' if total == 1 else 's'} to look at …")
    start = shown = time.perf_counter()
    for count in visit.add(score(items, predictor, visit.known, max_pixels)):
        now = time.perf_counter()
        if now - shown > _REFRESH_SECONDS:
            shown = now
            bar.progress(count / total, text=f"{count:,} of {total:,} images · {count / (now - start):.0f} per second")
    # New keys empty the input widgets, and the uploaded files leave the memory.
    visit.generation += 1
    st.rerun()


@st.cache_resource
def _sample_thumbnails() -> list[tuple[str, str]]:
    return [(make_thumbnail(Image.open(BytesIO(path.read_bytes()))), path.stem) for path in _sample_files()]


def _sample_files() -> list[Path]:
    return sorted(SAMPLES.glob("*.png"))

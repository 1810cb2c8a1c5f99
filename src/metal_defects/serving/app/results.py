"""The answers: one image in full, or a table with filters, counts, downloads and the files that failed."""

from collections import Counter
from collections.abc import Sequence

import streamlit as st

from metal_defects.serving.app import markup
from metal_defects.serving.app.detail import show_detail
from metal_defects.serving.app.export import format_csv, format_json
from metal_defects.serving.app.scoring import Row
from metal_defects.serving.app.session import Visit, clear_visit
from metal_defects.serving.predictor import Failure, Predictor

_TABLE_ROWS = 12  # that fit without scrolling inside the table


def show_results(visit: Visit, predictor: Predictor) -> None:
    """Everything below the intake, once there is something to show."""
    _show_failures(visit.failures)
    if visit.repeated:
        st.info(f"{visit.repeated:,} of the files were in the list already and are not listed twice.")
    if not visit.rows:
        st.button("Clear the list", icon=":material/delete:", on_click=clear_visit)
        return
    many = len(visit.rows) > 1
    if many:
        st.html(markup.cards(_list_figures(visit)))
    shown = _show_filters(visit.rows, predictor.bundle.classes) if many else visit.rows
    if not shown:
        st.info("No image passes these filters.", icon=":material/filter_alt_off:")
    elif many:
        left, right = st.columns([7, 5], gap="large")
        with left:
            row = _show_table(shown, visit)
        with right:
            show_detail(row, visit, predictor)
    else:
        show_detail(shown[0], visit, predictor)
    _show_downloads(shown, visit, predictor)


def _show_failures(failures: Sequence[Failure]) -> None:
    if not failures:
        return
    count = len(failures)
    title = "1 file has no answer" if count == 1 else f"{count:,} files have no answer"
    with st.expander(title, icon=":material/error:", expanded=count <= 5):
        st.html(markup.table(("File", "Reason"), [(failure.name, failure.message) for failure in failures]))


def _list_figures(visit: Visit) -> list[tuple[str, str, str]]:
    shares = sorted(row.prediction.confidence for row in visit.rows)
    times = sorted(row.prediction.milliseconds for row in visit.rows)
    doubtful = sum(share < 0.9 for share in shares)
    return [
        ("Images", f"{len(shares):,}", f"{len(visit.failures):,} without an answer"),
        ("Look twice", f"{doubtful:,}", "confidence below 90 %"),
        ("Typical confidence", markup.format_share(shares[len(shares) // 2]), "median"),
        ("Time", f"{times[len(times) // 2]:.0f} ms", "per image, median"),
    ]


def _show_filters(rows: Sequence[Row], classes: Sequence[str]) -> list[Row]:
    """The rows that pass, the least certain first."""
    counts = Counter(row.prediction.label for row in rows)
    left, right = st.columns([7, 5], gap="large")
    with left:
        st.html(markup.count_bars({name: counts[name] for name in classes}))
    with right:
        found = [name for name in classes if counts[name]]
        chosen = st.pills("Show only", found, selection_mode="multi", key="classes", wrap=True)
        low, high = st.slider("Confidence from and to, %", 0, 100, (0, 100), key="confidence")
    passing = [
        row
        for row in rows
        if (not chosen or row.prediction.label in chosen) and low <= 100 * row.prediction.confidence <= high
    ]
    return sorted(passing, key=lambda row: row.prediction.confidence)


def _show_table(rows: Sequence[Row], visit: Visit) -> Row:
    """The table; returns the row that is open."""
    answers = [row.prediction for row in rows]
    columns = {
        "Image": [row.thumbnail for row in rows],
        "File": [row.name for row in rows],
        "Answer": [answer.label for answer in answers],
        "Confidence": [min(99.9, 100 * answer.confidence) for answer in answers],
        "Runner-up": [_runner_up(answer.probabilities) for answer in answers],
        "ms": [answer.milliseconds for answer in answers],
    }
    if any(answer.verdict for answer in answers):
        columns["Verdict"] = [answer.verdict or "" for answer in answers]
    config = {
        "Image": st.column_config.ImageColumn(width=56),
        "File": st.column_config.TextColumn(width=150),
        "Confidence": st.column_config.ProgressColumn(format="%.1f %%", width=130, min_value=0, max_value=100),
        "ms": st.column_config.NumberColumn(format="%.0f", help="Decoding plus inference"),
    }
    st.caption(f"{len(rows):,} of {len(visit.rows):,} images, the least certain first. Select a row to open it.")
    start = next((index for index, row in enumerate(rows) if row is visit.latest), 0)
    event = st.dataframe(
        columns, column_config=config, hide_index=True, row_height=48, height=48 * min(len(rows), _TABLE_ROWS) + 40,
        on_select="rerun", selection_mode="single-row-required",
        selection_default={"selection": {"rows": [start]}}, key=f"table-{visit.generation}",
    )  # fmt: skip
    chosen = event.selection.rows
    return rows[chosen[0]] if chosen and chosen[0] < len(rows) else rows[start]


def _runner_up(shares: dict[str, float]) -> str:
    name, share = sorted(shares.items(), key=lambda item: -item[1])[1]
    return f"{name} {markup.format_share(share)}"


def _show_downloads(rows: Sequence[Row], visit: Visit, predictor: Predictor) -> None:
    bundle, failures = predictor.bundle, visit.failures
    what = "answer" if len(rows) == 1 else f"{len(rows):,} answers"
    with st.container(horizontal=True):
        st.download_button(
            f"CSV · {what}", lambda: format_csv(rows, failures, bundle), "metal-defects.csv", "text/csv",
            icon=":material/download:", on_click="ignore", disabled=not rows,
        )  # fmt: skip
        st.download_button(
            f"JSON · {what}", lambda: format_json(rows, failures, bundle), "metal-defects.json", "application/json",
            icon=":material/download:", on_click="ignore", disabled=not rows,
        )  # fmt: skip
        st.button("Clear the list", icon=":material/delete:", on_click=clear_visit)

"""The answers: one image in full, or a table with filters, counts, downloads and the files that failed."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import streamlit as st

from metal_defects.app import markup
from metal_defects.app.detail import show_detail
from metal_defects.app.export import format_csv, format_json
from metal_defects.app.scoring import Row
from metal_defects.app.session import Visit, clear_visit
from metal_defects.inference.answer import Failure
from metal_defects.inference.predictor import Predictor
from metal_defects.inference.verdict import VERDICTS

_TABLE_ROWS = 10  # that fit without scrolling inside the table
_MOST_BARS = 12
_COLUMNS = [7, 5]


def show_results(visit: Visit, predictor: Predictor) -> None:
    """Everything below the intake, once there is something to show."""
    _show_failures(visit.failures)
    if visit.repeated:
        files = "1 file was" if visit.repeated == 1 else f"{visit.repeated:,} files were"
        st.info(f"{files} in the list already: not listed twice.", icon=":material/content_copy:")
    if len(visit.rows) > 1:
        _show_many(visit, predictor)
    elif visit.rows:
        show_detail(visit.rows[0], visit, predictor)
        _show_actions(visit.rows, visit, predictor)
    else:
        st.button("Clear the list", icon=":material/delete:", on_click=clear_visit)


def _show_many(visit: Visit, predictor: Predictor) -> None:
    _show_figures(visit)
    shown = _show_filters(visit.rows, predictor.bundle.classes)
    _show_actions(shown, visit, predictor)
    if not shown:
        st.info("No image passes these filters.", icon=":material/filter_alt_off:")
        return
    left, right = st.columns(_COLUMNS, gap="medium")
    with left:
        row = _show_table(shown, visit)
    with right:
        show_detail(row, visit, predictor)


def _show_failures(failures: Sequence[Failure]) -> None:
    if not failures:
        return
    count = len(failures)
    title = "1 file has no answer" if count == 1 else f"{count:,} files have no answer"
    with st.expander(title, icon=":material/error:", expanded=count <= 5):
        st.html(markup.failures([(failure.name or "", failure.message) for failure in failures]))


def _show_figures(visit: Visit) -> None:
    """What to know first: the verdicts, or where there are none, how certain the answers are."""
    total = len(visit.rows)
    times = sorted(row.prediction.milliseconds for row in visit.rows)
    time = ("Time", f"{times[total // 2]:.0f} ms", "per image, median")
    if _is_judged(visit.rows):
        counts: Counter[str | None] = Counter(row.prediction.verdict for row in visit.rows)
        figures = [(_title(name), f"{counts[name]:,}", style.advice) for name, style in VERDICTS.items()]
        st.html(markup.cards([*figures, time], [style.colour for style in VERDICTS.values()]))
        return
    shares = sorted(row.prediction.confidence for row in visit.rows)
    doubtful = sum(share < 0.9 for share in shares)
    figures = [
        ("Images", f"{total:,}", f"{len(visit.failures):,} without an answer"),
        ("Look twice", f"{doubtful:,}", "confidence below 90 %"),
        ("Typical confidence", markup.format_share(shares[total // 2]), "median"),
        time,
    ]
    st.html(markup.cards(figures))


def _show_filters(rows: Sequence[Row], classes: Sequence[str]) -> list[Row]:
    """The rows that pass, those first that need a person most."""
    counts = Counter(row.prediction.label for row in rows)
    left, right = st.columns(_COLUMNS, gap="medium")
    verdicts: list[str] = []
    with left:
        names = classes if len(classes) <= _MOST_BARS else [name for name, _ in counts.most_common(_MOST_BARS)]
        st.html(markup.count_bars({name: counts[name] for name in names}))
    with right:
        if _is_judged(rows):
            verdicts = st.pills(
                "Show only", list(VERDICTS), selection_mode="multi", key="verdicts", label_visibility="collapsed",
                format_func=_title, wrap=True,
            )  # fmt: skip
        found = [name for name in classes if counts[name]]
        labels = st.pills(
            "Show only", found, selection_mode="multi", key="classes", label_visibility="collapsed", wrap=True
        )
        low, high = st.slider("Confidence from and to, %", 0, 100, (0, 100), key="confidence")
    urgency: dict[str | None, int] = {name: place for place, name in enumerate(reversed(VERDICTS))}
    passing = [
        row
        for row in rows
        if (not verdicts or row.prediction.verdict in verdicts)
        and (not labels or row.prediction.label in labels)
        and low <= 100 * row.prediction.confidence <= high
    ]
    return sorted(passing, key=lambda row: (urgency.get(row.prediction.verdict, 0), row.prediction.confidence))


def _title(verdict: str) -> str:
    return markup.capitalise(VERDICTS[verdict].title)


def _is_judged(rows: Sequence[Row]) -> bool:
    return any(row.prediction.verdict for row in rows)


def _show_table(rows: Sequence[Row], visit: Visit) -> Row:
    """The table; returns the row that is open."""
    answers = [row.prediction for row in rows]
    columns: dict[str, list[Any]] = {"Image": [row.thumbnail for row in rows], "File": [row.name for row in rows]}
    if _is_judged(rows):
        columns["Verdict"] = [[_title(one.verdict) if one.verdict else "–"] for one in answers]
    columns |= {
        "Answer": [answer.label for answer in answers],
        "Confidence": [min(99.9, 100 * answer.confidence) for answer in answers],
        "Runner-up": [_runner_up(answer.probabilities) for answer in answers],
        "ms": [answer.milliseconds for answer in answers],
    }
    words, colours = [_title(name) for name in VERDICTS], [style.colour for style in VERDICTS.values()]
    config = {
        "Image": st.column_config.ImageColumn(width=56),
        "File": st.column_config.TextColumn(width=150),
        "Verdict": st.column_config.MultiselectColumn(options=words, color=colours, width=90),
        "Confidence": st.column_config.ProgressColumn(format="%.1f %%", width=130, min_value=0, max_value=100),
        "ms": st.column_config.NumberColumn(format="%.0f", help="Decoding plus inference"),
    }
    st.caption(f"{len(rows):,} of {len(visit.rows):,} images, the most doubtful first. Select a row to open it.")
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


def _show_actions(rows: Sequence[Row], visit: Visit, predictor: Predictor) -> None:
    """Downloads of the rows shown, and a fresh start."""
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

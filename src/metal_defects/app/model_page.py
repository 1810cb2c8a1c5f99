"""The page that says what is being served, how good it was measured to be, and what it cannot do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from metal_defects.app import markup
from metal_defects.inference.bundle import Bundle

_SOURCES = {
    "path": "a folder", "download": "a download", "url": "a download", "kaggle": "Kaggle", "synthetic": "drawn images",
}  # fmt: skip
_SPLITS = {"test": "Test images, which training never saw", "valid": "Validation images, which chose the model"}

# Place in the evaluation, title, meaning.
_MEASURES = (
    ("ece", "Calibration error", "how far the stated confidence is from the share that is right"),
    ("coverage", "Coverage", "how often the true class is among the possible ones"),
    ("mean_set_size", "Possible classes", "per image, mean"),
    ("guard.accepted", "Known surfaces let through", "images like those of the training that are taken for known"),
    ("verdicts.accept", "Accepted", "of the images"),
    ("verdicts.review", "Sent to review", "of the images"),
    ("verdicts.unknown", "Called unknown", "of the images"),
    ("verdicts.error_among_accepted", "Wrong among the accepted", "errors that nobody would look at"),
)
_MOST_MATRIX_CLASSES = 24
_MOST_CONFUSIONS = 20


def show_model_page(bundle: Bundle) -> None:
    """The model's card."""
    card = bundle.card
    st.title(card["name"])
    created = str(card.get("created", "")).replace("T", " ")[:16]
    st.html(markup.lead(f"Names one of {markup.list_classes(bundle.classes)}."))
    st.html(markup.cards(_list_figures(bundle, created)))
    st.subheader("How good it is")
    measured = {name: card["metrics"][name] for name in _SPLITS if card["metrics"].get(name)}
    if not measured:
        st.info("This model came without measurements: treat its answers as unproven.", icon=":material/help:")
    else:
        tabs = st.tabs([_SPLITS[name] for name in measured])
        for tab, metrics in zip(tabs, measured.values(), strict=True):
            with tab:
                _show_metrics(metrics)
    evaluation = list(_list_evaluation(card.get("evaluation") or {}))
    if evaluation:
        st.subheader("How far to trust it")
        st.html(markup.table(("Measure", "Value (95 % interval)", "What it says"), evaluation))
    st.subheader("Limits of use")
    st.markdown("\n".join(f"- {limit}" for limit in _list_limits(bundle)))
    st.subheader("What is being served")
    st.html(markup.table(_VARIANT_HEADER, [_variant_row(name, bundle) for name in card["variants"]]))
    with st.expander("Provenance: data, settings, versions, hashes", icon=":material/fingerprint:"):
        st.html(markup.table(("", ""), list(_flatten({"bundle": bundle.hash, **_provenance(card)}))))


def _list_figures(bundle: Bundle, created: str) -> list[tuple[str, str, str]]:
    test = bundle.card["metrics"].get("test")
    variant = bundle.card["variants"][bundle.card["default"]]
    kind = bundle.card["data"].get("kind", "unknown")
    manifest = str(bundle.card["provenance"].get("manifest_sha256", "unknown"))
    figures = [
        ("Bundle", bundle.hash, "first digits of its SHA-256"),
        ("Made", created[:10], f"{created[11:]} UTC, code {bundle.card.get('code_version', '?')}"),
        ("Learnt from", _SOURCES.get(kind, str(kind)), f"manifest {manifest[:12]}"),
        ("Size", f"{variant['bytes'] / 1e6:.1f} MB", f"{bundle.card['default']}, the variant in use"),
    ]
    if test:
        low = test["accuracy"]["low"]
        share = f"{test['correct']} of {test['n']}"
        figures.insert(0, ("Right on test images", share, f"so at least {100 * low:.1f} %, at 95 % confidence"))
    return figures


def _show_metrics(metrics: Mapping[str, Any]) -> None:
    left, right = st.columns([1, 1], gap="large")
    with left:
        rows = [
            ("Accuracy", markup.format_interval(metrics["accuracy"])),
            ("Macro F1", markup.format_interval(metrics.get("macro_f1"))),
            ("Macro precision", markup.format_interval(metrics.get("macro_precision"))),
            ("Macro recall", markup.format_interval(metrics.get("macro_recall"))),
            ("Images", f"{metrics['correct']} right of {metrics['n']}"),
        ]
        st.html(markup.table(("Measure", "Value (95 % interval)"), rows))
        st.caption("An interval says what to expect on other images of the same kind: few images, wide interval.")
    with right:
        if metrics.get("confusion_matrix"):
            _show_confusions(metrics["class_names"], np.array(metrics["confusion_matrix"]))
    per_class = [
        (one["name"], one["support"], *(markup.format_interval(one.get(key)) for key in ("precision", "recall", "f1")))
        for one in metrics.get("per_class", ())
    ]
    if per_class:
        with st.expander("Per class"):
            st.html(markup.table(("Class", "Images", "Precision", "Recall", "F1"), per_class))


def _show_confusions(names: Sequence[str], counts: np.ndarray) -> None:
    """The matrix where it fits the page, else the commonest confusions."""
    if len(names) <= _MOST_MATRIX_CLASSES:
        st.html(markup.confusion_matrix(names, counts.tolist()))
        st.caption("Down: the true class. Across: the answer.")
        return
    wrong = counts * (1 - np.eye(len(names), dtype=int))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    places = [divmod(int(place), len(names)) for place in worst if wrong.flat[place]]
    rows = [(names[true], names[answer], wrong[true, answer]) for true, answer in places]
    st.html(markup.table(("True class", "Answer", "Images"), rows))
    st.caption("The commonest confusions." if rows else "Not one was confused with another.")


def _list_evaluation(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """One row for every known measure that the evaluation left."""
    for path, title, meaning in _MEASURES:
        value: Any = evaluation
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            yield title, markup.format_interval(value), meaning
        elif value is not None:
            is_share = isinstance(value, float) and path != "mean_set_size"
            yield title, f"{100 * value:.2f} %" if is_share else f"{value:,.3g}", meaning


def _list_limits(bundle: Bundle) -> Iterator[str]:
    limits = bundle.limits
    if bundle.card.get("verdict_rules"):
        yield "“Unknown” catches surfaces unlike the training images; a new defect that resembles one can slip through."
    else:
        yield (
            f"It always names one of its {len(bundle.classes)} classes, even for a faultless surface, another defect "
            "or a picture of something else. It cannot say “none of these”."
        )
        yield "A high confidence is not a measured probability: check answers on your own images before relying on it."
    yield "It was measured on images like those it learnt from. Another line, camera or light can lower every figure."
    yield "It sees one label per image; where two defects meet, it names one."
    side = bundle.image_size
    yield f"Every image is scaled to {side} × {side} pixels: what is thinner than a pixel then is lost."
    yield (
        f"Accepted: {', '.join(limits.formats)}; {limits.min_side} to {limits.max_side:,} pixels a side; "
        f"{limits.max_bytes / 1e6:.0f} MB at most."
    )


_VARIANT_HEADER = (
    "Variant", "Size", "Same label as training", "Largest difference", "Accuracy, validation", "Accuracy, test",
    "ms per image", "Remark",
)  # fmt: skip


def _variant_row(name: str, bundle: Bundle) -> tuple[str, ...]:
    variant = bundle.card["variants"][name]
    parity = variant.get("parity") or {}
    speed = variant.get("milliseconds_per_image")
    return (
        name,
        f"{variant['bytes'] / 1e6:.1f} MB",
        f"{parity['labels_equal']} of {parity['images']}" if parity else "–",
        f"{parity['max_difference']:.1e}" if parity else "–",
        markup.format_interval(variant.get("valid_accuracy")),
        markup.format_interval(variant.get("test_accuracy")),
        f"{speed:.1f}" if speed else "–",
        variant.get("fault") or ("in use" if name == bundle.card["default"] else ""),
    )


def _provenance(card: Mapping[str, Any]) -> dict[str, Any]:
    hashes = {name: variant["sha256"] for name, variant in card["variants"].items()}
    return {"data": card["data"], **card["provenance"], "sha256": hashes}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            yield from _flatten(item, f"{name} · ")
        else:
            yield name, "–" if item is None else str(item)

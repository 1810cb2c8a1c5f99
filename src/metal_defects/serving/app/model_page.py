"""The page that says what is being served, how good it was measured to be, and what it cannot do."""

from collections.abc import Iterator, Mapping
from typing import Any

import streamlit as st

from metal_defects.serving.app import markup
from metal_defects.serving.bundle import Bundle

_SOURCES = {
    "path": "a folder", "download": "a download", "url": "a download", "kaggle": "Kaggle", "synthetic": "drawn images",
}  # fmt: skip
_SPLITS = {"test": "Test images, which training never saw", "valid": "Validation images, which chose the model"}


def show_model_page(bundle: Bundle) -> None:
    """The model's card."""
    card = bundle.card
    st.title(card["name"])
    created = str(card.get("created", "")).replace("T", " ")[:16]
    st.html(markup.lead(f"Answers with one of {len(bundle.classes)} classes: {', '.join(bundle.classes)}."))
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
    figures = [
        ("Bundle", bundle.hash, "first digits of its SHA-256"),
        ("Made", created[:10], f"{created[11:]} UTC, code {bundle.card.get('code_version', '?')}"),
        ("Learnt from", _SOURCES.get(kind, str(kind)), "what kind of source"),
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
            st.html(markup.confusion_matrix(metrics["class_names"], metrics["confusion_matrix"]))
            st.caption("Down: the true class. Across: the answer.")
    per_class = [
        (one["name"], one["support"], *(markup.format_interval(one.get(key)) for key in ("precision", "recall", "f1")))
        for one in metrics.get("per_class", ())
    ]
    if per_class:
        with st.expander("Per class"):
            st.html(markup.table(("Class", "Images", "Precision", "Recall", "F1"), per_class))


def _list_limits(bundle: Bundle) -> Iterator[str]:
    limits = bundle.limits
    if not bundle.card.get("verdict_rules"):
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

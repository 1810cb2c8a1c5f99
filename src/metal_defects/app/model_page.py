"""The model card: what is being served, how good it was measured to be, and what it cannot do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from metal_defects.app import markup
from metal_defects.data.sources import SOURCE_TITLES
from metal_defects.inference.bundle import Bundle
from metal_defects.inference.card import BundleCard, TrustCard
from metal_defects.metrics import SplitMetrics

_SPLITS = {"test": "Test images, which training never saw", "valid": "Validation images, which chose the model"}
_MOST_MATRIX_CLASSES = 24
_MOST_CONFUSIONS = 20


def show_model_page(bundle: Bundle) -> None:
    """The model's card."""
    card = bundle.card
    st.title(card.name)
    st.html(markup.lead(f"Names one of {markup.list_classes(bundle.classes)}."))
    st.html(markup.cards(_list_figures(bundle)))
    st.subheader("How good it is")
    measured = {name: card.metrics[name] for name in _SPLITS if name in card.metrics}
    if not measured:
        st.info("This model came without measurements: treat its answers as unproven.", icon=":material/help:")
    else:
        tabs = st.tabs([_SPLITS[name] for name in measured])
        for tab, metrics in zip(tabs, measured.values(), strict=True):
            with tab:
                _show_metrics(metrics)
    if card.evaluation:
        st.subheader("How far to trust it")
        rows = list(_list_evaluation(card.evaluation))
        st.html(markup.table(("Measure", "Value (95 % interval)", "What it says"), rows))
    st.subheader("Limits of use")
    st.markdown("\n".join(f"- {limit}" for limit in _list_limits(bundle)))
    st.subheader("What is being served")
    st.html(markup.table(_VARIANT_HEADER, [_variant_row(name, card) for name in card.variants]))
    with st.expander("Provenance: data, settings, versions, hashes", icon=":material/fingerprint:"):
        st.html(markup.table(("", ""), list(_flatten({"bundle": bundle.hash, **_provenance(card)}))))


def _list_figures(bundle: Bundle) -> list[tuple[str, str, str]]:
    card = bundle.card
    created = card.created.replace("T", " ")[:16]
    size, data = card.variants[card.default].bytes, card.data.kind
    figures = [
        ("Bundle", bundle.hash, "first digits of its SHA-256"),
        ("Made", created[:10], f"{created[11:]} UTC, code {card.code_version}"),
        ("Learnt from", SOURCE_TITLES.get(data, data), f"manifest {card.provenance.manifest_sha256[:12]}"),
        ("Size", f"{size / 1e6:.1f} MB", f"{card.default}, the variant in use"),
    ]
    if test := card.metrics.get("test"):
        sure = f"so at least {100 * test.accuracy.low:.1f} %, at 95 % confidence"
        figures.insert(0, ("Right on test images", f"{test.correct} of {test.n}", sure))
    return figures


def _show_metrics(metrics: SplitMetrics) -> None:
    left, right = st.columns([1, 1], gap="large")
    with left:
        rows = [
            ("Accuracy", markup.format_interval(metrics.accuracy)),
            ("Macro F1", markup.format_interval(metrics.macro_f1)),
            ("Macro precision", markup.format_interval(metrics.macro_precision)),
            ("Macro recall", markup.format_interval(metrics.macro_recall)),
            ("Images", f"{metrics.correct} right of {metrics.n}"),
        ]
        st.html(markup.table(("Measure", "Value (95 % interval)"), rows))
        st.caption("An interval says what to expect on other images of the same kind: few images, wide interval.")
    with right:
        _show_confusions(metrics.class_names, np.array(metrics.confusion_matrix))
    per_class = [
        (one.name, one.support, *map(markup.format_interval, (one.precision, one.recall, one.f1)))
        for one in metrics.per_class
    ]
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


def _list_evaluation(found: TrustCard) -> Iterator[tuple[str, str, str]]:
    """Title, value and meaning of every figure."""
    verdicts = found.verdicts
    known = "images like those of the training that are taken for known"
    error, coverage = markup.format_interval(found.ece), markup.format_interval(found.coverage)
    yield "Calibration error", error, "how far the stated confidence is from the share that is right"
    yield "Coverage", coverage, "how often the true class is among the possible ones"
    yield "Possible classes", f"{found.mean_set_size:,.3g}", "per image, mean"
    yield "Known surfaces let through", _percent(found.guard.accepted), known
    yield "Accepted", _percent(verdicts.accept), "of the images"
    yield "Sent to review", _percent(verdicts.review), "of the images"
    yield "Called unknown", _percent(verdicts.unknown), "of the images"
    wrong = _percent(verdicts.error_among_accepted)
    yield "Wrong among the accepted", wrong, "errors that nobody would look at"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _list_limits(bundle: Bundle) -> Iterator[str]:
    limits = bundle.limits
    if bundle.card.verdict_rules:
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
    kept = "" if bundle.card.input.fit == "stretch" else " and keeps its shape"
    yield f"Every image is scaled to {side} × {side} pixels{kept}: what is thinner than a pixel then is lost."
    yield (
        f"Accepted: {', '.join(limits.formats)}; {limits.min_side} to {limits.max_side:,} pixels a side; "
        f"{limits.max_bytes / 1e6:.0f} MB at most."
    )


_VARIANT_HEADER = (
    "Variant",
    "Size",
    "Same label as training",
    "Largest difference",
    "Accuracy, validation",
    "Accuracy, test",
    "ms per image",
    "Remark",
)


def _variant_row(name: str, card: BundleCard) -> tuple[str, ...]:
    variant = card.variants[name]
    return (
        name,
        f"{variant.bytes / 1e6:.1f} MB",
        f"{variant.parity.labels_equal} of {variant.parity.images}",
        f"{variant.parity.max_difference:.1e}",
        markup.format_interval(variant.valid_accuracy),
        markup.format_interval(variant.test_accuracy),
        f"{variant.milliseconds_per_image:.1f}",
        variant.fault or ("in use" if name == card.default else ""),
    )


def _provenance(card: BundleCard) -> dict[str, Any]:
    hashes = {name: variant.sha256 for name, variant in card.variants.items()}
    return {"data": card.data.model_dump(), **card.provenance.model_dump(), "sha256": hashes}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            yield from _flatten(item, f"{name} · ")
        else:
            yield name, "–" if item is None else str(item)

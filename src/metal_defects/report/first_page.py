"""The first page of the report, its limits, and what others published: results in words that need no training."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metal_defects.report.parts import Table, dig, humanise, is_score, of_hundred, proportion, show

VERDICTS = {
    "accept": ("accepted", "the answer can be used"),
    "review": ("to review", "a person should look"),
    "unknown": ("unknown", "unlike the training images"),
}
# What the lower limit of the accuracy must reach for the sentence on the first page.
TRIAL_READY, HELPFUL = 0.99, 0.95
BASELINES = re.compile(r"centre|center|grad|area|chance")
NEU_CLASSES = ("Crazing", "Inclusion", "Patches", "Pitted", "Rolled", "Scratches")
NEU_IMAGES_PER_CLASS = 300
SONG = "Song & Yan, Applied Surface Science 285 (2013) 858–864"
NEU_TO_GC10 = "public project “Steel Surface Defect Classification and Cross-Dataset Generalization”"
# Result, protocol, figure, source.
PUBLISHED = (
    ("AECLBP + SVM", "150 train and 150 test per class, 100 random splits", "98.93 ± 0.63 %", SONG),
    ("MobileNetV2", "5-fold cross-validation", "96.4 %",
     "public project “Surface Defect Detection using Deep Learning”"),
    ("ResNet18, frozen", "72 test images", "98.61 %", "public project “Metal Surface Defect Classification”"),
    ("transfer learning, L2", "not stated", "95.83 %", "public project “Metal Surface Defect Inspection”"),
    ("ResNet50, fine-tuned in two stages", "72 test images", "100 % (95 % interval 94.9–100)", NEU_TO_GC10),
    ("ResNet50", "split not seen", "99.4 %", "Applied Sciences 13(9), 5260 (2023)"),
    ("VGG16 with attention", "split not seen", "99.98 %", "abmir.yazd.ac.ir, article 3954 (2025)"),
    ("AECLBP + SVM, Gaussian noise of 30 dB", "as above", "88.29 %", SONG),
    ("AECLBP + SVM, Gaussian noise of 20 dB", "as above", "37.09 %", SONG),
)  # fmt: skip


@dataclass(frozen=True)
class Card:
    """One big figure: the number, what it counts, its interval and its basis; without a number, why there is none."""

    number: str | None
    unit: str
    title: str
    detail: str


@dataclass(frozen=True)
class Bar:
    """A verdict's part of all images."""

    verdict: str
    title: str
    meaning: str
    count: int
    share: str
    width: str


def headline(evaluation: Mapping[str, Any], tuned: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The metrics that stand for the model, and what they were measured on."""
    if metrics := out_of_fold_metrics(evaluation):
        folds = dig(evaluation, "protocol", "folds") or "k"
        return metrics, f"{metrics['n']:,} images, each judged by a model that had not seen it ({folds}-fold)"
    metrics = tuned.get("test")
    return metrics, f"{metrics['n']:,} test images" if metrics else ""


def out_of_fold_metrics(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Metrics of the cross-validation; without classes where only the accuracy is known; None where there was none.

    A model that is trained as a whole judges its validation images instead, as one fold: that is no cross-validation.
    """
    if metrics := dig(evaluation, "cross_validation", "metrics"):
        return metrics
    accuracy, count = dig(evaluation, "cross_validation", "accuracy"), dig(evaluation, "protocol", "images")
    if not accuracy or not count or (dig(evaluation, "protocol", "folds") or 0) < 2:
        return None
    return {"n": count, "correct": round(accuracy["value"] * count), "accuracy": accuracy, "per_class": []}


def count_verdicts(evaluation: Mapping[str, Any]) -> tuple[dict[str, int], int, str]:
    """Images per verdict, the wrong ones among the accepted, and which images they are."""
    for name, words in (
        ("out_of_fold", "in cross-validation"),
        ("test", "of the test images"),
        ("valid", "of the validation images"),
    ):
        found = dig(evaluation, "verdicts", name)
        if found and sum(found.get(verdict) or 0 for verdict in VERDICTS):
            return {verdict: int(found.get(verdict) or 0) for verdict in VERDICTS}, int(
                found.get("errors_among_accepted") or 0
            ), words
    return {}, 0, ""


def make_bars(evaluation: Mapping[str, Any]) -> list[Bar]:
    """The verdicts' parts of all images."""
    counts, _, _ = count_verdicts(evaluation)
    total = sum(counts.values())
    return [
        Bar(verdict, *VERDICTS[verdict], count, of_hundred(count / total), f"{100 * count / total:.2f}")
        for verdict, count in counts.items()
    ]


def judge(evaluation: Mapping[str, Any], tuned: Mapping[str, Any], notices: list[str]) -> tuple[str, str]:
    """"good", "fair" or "poor", and the one sentence about the model."""
    metrics, _ = headline(evaluation, tuned)
    if metrics is None:
        return "poor", "Nothing was measured: the model's answers are unproven."
    counts, errors, _ = count_verdicts(evaluation)
    low = metrics["accuracy"]["low"]
    text = f"It names {of_hundred(metrics['accuracy']['value'])} of 100 images rightly"
    if accepted := counts.get("accept"):
        wrong = "none was wrong" if not errors else f"{errors:,} {'was' if errors == 1 else 'were'} wrong"
        text += f"; it accepts {of_hundred(accepted / sum(counts.values()))} of 100 by itself, and of those {wrong}"
    if notices:
        return "poor", f"A demonstration, not fit for use on a line. {text}."
    if low >= TRIAL_READY:
        return "good", f"Ready for a supervised trial on surfaces like those it was measured on. {text}."
    if low >= HELPFUL:
        return "fair", f"A help to an inspector, who still sees every part. {text}."
    return "poor", f"Not good enough to work without a person. {text}."


def make_cards(evaluation: Mapping[str, Any], tuned: Mapping[str, Any]) -> list[Card]:
    """The big figures of the first page."""
    metrics, basis = headline(evaluation, tuned)
    counts, errors, words = count_verdicts(evaluation)
    total, accepted = sum(counts.values()), counts.get("accept", 0)
    right = metrics["accuracy"] if metrics else None
    person = proportion(total - accepted, total) if total else None
    wrong = proportion(errors, accepted) if accepted else None
    return [
        _card("named rightly", right, "of 100", basis, "Nothing was measured."),
        _card("need a person", person, "of 100", f"review or unknown, {words}", "No verdicts were measured."),
        _card("wrong among the accepted", wrong, "of 100", f"{errors:,} of {accepted:,} {words}", "No verdicts."),
        _guard_card(evaluation),
        _locator_card(evaluation),
        _calibration_card(evaluation),
    ]


def _card(title: str, score: Any, unit: str, detail: str, otherwise: str) -> Card:
    """A card of a share, or of a number without an interval, or of neither."""
    if score is None:
        return Card(None, "", title, otherwise)
    if not isinstance(score, Mapping):
        return Card(of_hundred(score), unit, title, detail)
    value = score.get("value", score.get("mean"))
    if score.get("low") is not None:
        detail = f"95 % interval {of_hundred(score['low'])} to {of_hundred(score['high'])}; {detail}"
    return Card(of_hundred(value), unit, title, detail)


def _guard_card(evaluation: Mapping[str, Any]) -> Card:
    title = "unknown surfaces are let through"
    found = list(_find(evaluation.get("guard"), re.compile(r"false_accept")))
    known = dig(evaluation, "guard", "accepted_held_out")
    if not found and known is not None:
        detail = "as they should; how many unknown ones slip in, python main.py evaluate FOLDER tells"
        return _card("known surfaces pass the guard", known, "of 100", detail, "")
    if not found:
        return Card(None, "", title, "No images of unknown surfaces were at hand.")
    strict = [item for item in found if "99" in " ".join(item[0])]
    path, score = max(strict or found, key=lambda item: _value(item[1]))
    several = f"the worst of {len(strict or found)} kinds: " if len(strict or found) > 1 else ""
    return _card(title, score, "of 100", several + ", ".join(map(humanise, path)), "")


def _locator_card(evaluation: Mapping[str, Any]) -> Card:
    title = "heat maps point at the defect"
    found = list(_find(evaluation.get("locator"), re.compile(r"pointing")))
    found = [item for item in found if not BASELINES.search(" ".join(item[0]))]
    if not found:
        return Card(None, "", title, "There are no boxes in this data to check the heat map against.")
    detail = "the heat map's strongest point lies inside a box, on held-out images"
    return _card(title, found[0][1], "of 100", detail, "")


def _calibration_card(evaluation: Mapping[str, Any]) -> Card:
    title = "gap between confidence and truth"
    found = [*_find(dig(evaluation, "calibration", "after"), re.compile(r"^ece$"))]
    found = found or [*_find(evaluation.get("calibration"), re.compile(r"^ece"))]
    if not found:
        return Card(None, "", title, "The confidence was not checked against the share that is right.")
    score = found[-1][1]
    detail = "0: of the answers with 90 % confidence, 90 of 100 are right"
    if isinstance(score, Mapping) and score.get("low") is not None:
        detail = f"95 % interval {100 * score['low']:.2f} to {100 * score['high']:.2f}; {detail}"
    return Card(f"{100 * _value(score):.2f}", "points", title, detail)


def _find(value: Any, pattern: re.Pattern[str], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Figures whose own name matches, or whose parent's does, with their places."""
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        named = pattern.search(key)
        if named and isinstance(item, Mapping | float | int) and is_score(item):
            yield (*path, key), item
        elif named and isinstance(item, Mapping):
            yield from _find(item, re.compile(""), (*path, key))
        else:
            yield from _find(item, pattern, (*path, key))


def _value(score: Any) -> float:
    return float(score.get("value", score.get("mean", 0.0)) if isinstance(score, Mapping) else score)


def list_notices(evaluation: Mapping[str, Any]) -> list[str]:
    """What must be read before any figure."""
    notices = [dig(evaluation, "data", "notice")] if dig(evaluation, "data", "notice") else []
    if dig(evaluation, "data", "kind") == "synthetic" and not notices:
        notices.append("The images are drawings: no figure here says how the model does on metal.")
    if dig(evaluation, "model", "weights") == "random":
        notices.append(
            "The backbone's weights are random: ImageNet weights were not to be had. This is a baseline, not the model "
            "that the same program builds with them."
        )
    return notices


def list_limits(
    evaluation: Mapping[str, Any], tuned: Mapping[str, Any], checks: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What the figures do not say, for this data and this model."""
    classes = list(evaluation.get("classes") or [])
    metrics, _ = headline(evaluation, tuned)
    limits = [
        f"It knows {len(classes)} classes and answers with one of them, or with “unknown”. A new defect that resembles "
        "one of them can slip through; so can a second defect beside the one that it names.",
        "All images come from one source. Another mill, camera, light or magnification is another surface: measure it "
        "first (python main.py evaluate FOLDER).",
        "Copies are kept on one side of the split, overlapping pictures of the same plate may not be: figures from "
        "random splits tend to be optimistic.",
    ]
    if metrics and metrics["per_class"]:
        weakest = min(metrics["per_class"], key=lambda row: row["recall"]["low"])
        limits.append(
            f"Weakest proof: {weakest['name']}, found in {of_hundred(weakest['recall']['value'])} of 100 on "
            f"{weakest['support']:,} images; the true share may be as low as {of_hundred(weakest['recall']['low'])}."
        )
    if several := dig(checks, "boxes", "images_with_another_class"):
        limits.append(f"{len(several):,} images have boxes of another class than their label: they show two defects.")
    if not evaluation.get("guard"):
        limits.append("Nothing checks whether a surface is known: an unknown object is named as one of the classes.")
    if not evaluation.get("locator"):
        limits.append("Where the heat map points was not checked: do not rely on it to find a defect.")
    if not evaluation.get("robustness"):
        limits.append("The effect of noise, blur and light was not measured.")
    limits.append("It does not replace the acceptance test of the product or a person's responsibility for it.")
    return limits


def compare_with_published(
    evaluation: Mapping[str, Any], tuned: Mapping[str, Any], checks: Mapping[str, Mapping[str, Any]]
) -> list[Table]:
    """Published figures and ours; nothing where the data are not NEU: its six classes, 300 images each."""
    counts = dig(checks, "balance", "counts") or {}
    is_neu = set(counts) == set(NEU_CLASSES) and set(counts.values()) == {NEU_IMAGES_PER_CLASS}
    if not is_neu or dig(evaluation, "data", "kind") == "synthetic":
        return []
    rows = []
    if metrics := out_of_fold_metrics(evaluation):
        folds = dig(evaluation, "protocol", "folds") or "k"
        rows.append(("this model", f"{folds}-fold, {metrics['n']:,} images", show(metrics["accuracy"], "accuracy")))
    if metrics := tuned.get("test"):
        rows.append(("this model", f"{metrics['n']:,} test images", show(metrics["accuracy"], "accuracy")))
    noise = dig(evaluation, "robustness", "accuracy", "gaussian_noise")
    if isinstance(noise, list) and len(noise) == 5:
        for decibels, place in ((30, 2), (20, 4)):
            images = f"{dig(evaluation, 'robustness', 'images') or 'some'} held-out images"
            rows.append((f"this model, Gaussian noise of {decibels} dB", images, show(noise[place], "accuracy")))
    ours = tuple((*row, "this report") for row in rows)
    return [Table("", ("method", "images", "accuracy", "source"), ours + PUBLISHED)]

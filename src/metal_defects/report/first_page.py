"""The first page of the report, and the model card: results in words that need no training, and their limits."""

import math
from dataclasses import dataclass

from metal_defects.evaluation.results import VerdictCounts
from metal_defects.inference.verdict import VERDICTS, VerdictStyle
from metal_defects.metrics import Metrics, Score, share
from metal_defects.report.advice import list_advice
from metal_defects.report.advice_parts import Advice
from metal_defects.report.findings import Findings
from metal_defects.report.parts import of_hundred
from metal_defects.trust.priors import Priors
from metal_defects.trust.selective import RiskCoverage

# What the lower limit of the accuracy must reach for the sentence on the first page.
TRIAL_READY, HELPFUL = 0.99, 0.95


@dataclass(frozen=True)
class Card:
    """One big figure: the number, what it counts, its interval and its basis; without a number, why there is none."""

    title: str
    number: str | None
    unit: str
    detail: str


@dataclass(frozen=True)
class Bar:
    """A verdict's part of all images, of 100 and as the width of its stripe."""

    style: VerdictStyle
    share: str
    width: str


@dataclass(frozen=True)
class FirstPage:
    """What a reader must know before anything else.

    Attributes:
        notices: before any figure.
        level: "good", "fair" or "poor".
        sentence: the one about the model.
        metrics: that stand for it, and `basis`, the images that they were measured on.
        acceptance: what may be accepted at the stated risk and at others, in words.
        judged: the images whose verdicts `bars` show, in words.
        advice: what limits the data set and what to do about it, the most helpful first.
        limits: what the figures do not say.
    """

    notices: tuple[str, ...]
    level: str
    sentence: str
    metrics: Metrics
    basis: str
    acceptance: str
    cards: tuple[Card, ...]
    bars: tuple[Bar, ...]
    judged: str
    advice: tuple[Advice, ...]
    limits: tuple[str, ...]


def make_first_page(found: Findings) -> FirstPage:
    """The first page of these findings."""
    metrics, basis = _choose_metrics(found)
    counts, judged = _choose_verdicts(found)
    notices = _list_notices(found)
    level, sentence = _judge(metrics, counts, bool(notices))
    return FirstPage(
        notices=notices,
        level=level,
        sentence=sentence,
        metrics=metrics,
        basis=basis,
        acceptance=_tell_acceptance(found.evaluation.selection, found.evaluation.priors),
        cards=_make_cards(found, metrics, basis, counts, judged),
        bars=tuple(_make_bar(style, counts) for style in VERDICTS.values()),
        judged=judged,
        advice=list_advice(found),
        limits=_list_limits(found, metrics),
    )


def _choose_metrics(found: Findings) -> tuple[Metrics, str]:
    """Those of the cross-validation where there was one, because they rest on most images."""
    if metrics := found.out_of_fold:
        folds = found.evaluation.protocol.folds
        return metrics, f"{metrics.n:,} images, each judged by a model that had not seen it ({folds}-fold)"
    return found.tuned.test, f"{found.tuned.test.n:,} test images"


def _choose_verdicts(found: Findings) -> tuple[VerdictCounts, str]:
    verdicts = found.evaluation.verdicts
    if verdicts.out_of_fold and verdicts.out_of_fold.images:
        return verdicts.out_of_fold, "in cross-validation"
    return verdicts.test, "of the test images"


def _make_bar(style: VerdictStyle, counts: VerdictCounts) -> Bar:
    part = {"accept": counts.accept, "review": counts.review, "unknown": counts.unknown}[style.name] / counts.images
    return Bar(style, of_hundred(part), f"{100 * part:.2f}")


def _judge(metrics: Metrics, counts: VerdictCounts, is_demonstration: bool) -> tuple[str, str]:
    text = f"It names {of_hundred(metrics.accuracy.value)} of 100 images rightly"
    if counts.accept:
        errors = counts.wrong_accept
        wrong = "none was wrong" if not errors else f"{errors:,} {'was' if errors == 1 else 'were'} wrong"
        accepted = of_hundred(counts.accept / counts.images)
        text += f"; it accepts {accepted} of 100 by itself, and of those {wrong}"
    if is_demonstration:
        return "poor", f"A demonstration, not fit for use on a line. {text}."
    if metrics.accuracy.low >= TRIAL_READY:
        return "good", f"Ready for a supervised trial on surfaces like those it was measured on. {text}."
    if metrics.accuracy.low >= HELPFUL:
        return "fair", f"A help to an inspector, who still sees every part. {text}."
    return "poor", f"Not good enough to work without a person. {text}."


def _tell_acceptance(selection: RiskCoverage, priors: Priors) -> str:
    """What the data allow, and what they cannot show."""
    chosen, risk = selection.chosen, f"{100 * selection.chosen.max_risk:g} %"
    others = [one for one in selection.others if one.max_risk > chosen.max_risk]
    offers = "; ".join(f"at {100 * one.max_risk:g} %: {of_hundred(one.accepted.value)}" for one in others)
    text = f"With these data {of_hundred(chosen.accepted.value)} of 100 can be accepted, at most {risk} of them wrong"
    if chosen.threshold is None:
        text = f"With these data nothing can be accepted if at most {risk} of it may be wrong"
    text += f" ({offers})." if offers else "."
    if not chosen.is_shown:
        needed = math.ceil(1 / chosen.max_risk)
        text += (
            f" Counting cannot show {risk} here: the {needed:,} most confident answers would have to be right, of "
            f"{selection.images:,} in all."
        )
        text += "" if chosen.threshold is None else " What is accepted rests on the calibrated confidence instead."
    if priors.is_shifted:
        text += " Shares and risks are those of the mix of classes in the settings, not of the training images."
    return text


def _make_cards(found: Findings, metrics: Metrics, basis: str, counts: VerdictCounts, judged: str) -> tuple[Card, ...]:
    """The big figures."""
    guard, ece = found.evaluation.guard, found.evaluation.calibration.after.ece
    seen = f"; out of fold {_show_interval(guard.accepted_out_of_fold)}" if guard.accepted_out_of_fold else ""
    person = share(counts.images - counts.accept, counts.images)
    wrong = share(counts.wrong_accept, counts.accept) if counts.accept else None
    pointing = found.evaluation.locator.scores.pointing if found.evaluation.locator else None
    return (
        _make_card("named rightly", metrics.accuracy, basis),
        _make_card("need a person", person, f"review or unknown, {judged}"),
        _make_card(
            "wrong among the accepted",
            wrong,
            f"{counts.wrong_accept:,} of {counts.accept:,} {judged}",
            f"No answer was accepted {judged}.",
        ),
        _make_card(
            "known surfaces pass the guard",
            guard.accepted_held_out,
            f"held-out images{seen}. How many unknown ones slip in, python main.py evaluate FOLDER tells",
        ),
        _make_card(
            "heat maps point at the defect",
            pointing,
            "the heat map's strongest point lies inside a box, on held-out images",
            "There are no boxes in this data to check the heat map against.",
        ),
        Card(
            "gap between confidence and truth",
            f"{100 * ece.value:.2f}",
            "points",
            f"95 % interval {100 * ece.low:.2f} to {100 * ece.high:.2f}; "
            "0: of the answers with 90 % confidence, 90 of 100 are right",
        ),
    )


def _make_card(title: str, score: Score | None, detail: str, otherwise: str = "") -> Card:
    """A card of a share; `otherwise` says why there is none."""
    if score is None:
        return Card(title, None, "", otherwise)
    interval = f"95 % interval {of_hundred(score.low)} to {of_hundred(score.high)}"
    return Card(title, of_hundred(score.value), "of 100", f"{interval}; {detail}")


def _show_interval(score: Score) -> str:
    return f"{of_hundred(score.value)} ({of_hundred(score.low)} to {of_hundred(score.high)})"


def _list_notices(found: Findings) -> tuple[str, ...]:
    notices = []
    if notice := found.evaluation.data.notice:
        notices.append(notice)
    if found.evaluation.model.weights == "random":
        notices.append(
            "The backbone's weights are random: ImageNet weights were not to be had. This is a baseline, not the model "
            "that the same program builds with them."
        )
    return tuple(notices)


def _list_limits(found: Findings, metrics: Metrics) -> tuple[str, ...]:
    """What the figures do not say, for this data and this model."""
    weakest = min((scores for scores in metrics.per_class if scores.support), key=lambda scores: scores.recall.low)
    limits = [
        f"It knows {len(found.evaluation.classes)} classes and answers with one of them, or with “unknown”. A new "
        "defect that resembles one of them can slip through; so can a second defect beside the one that it names.",
        "All images come from one source. Another mill, camera, light or magnification is another surface: measure it "
        "first (python main.py evaluate FOLDER).",
        f"{found.validation.overlaps.message} Images of one plate that do not overlap are known only by their names "
        "(data_ingestion.group_by): without these, figures tend to be optimistic.",
        f"Weakest proof: {weakest.name}, found in {of_hundred(weakest.recall.value)} of 100 on "
        f"{weakest.support:,} images; the true share may be as low as {of_hundred(weakest.recall.low)}.",
    ]
    if several := found.validation.boxes.images_with_another_class:
        limits.append(f"{len(several):,} images have boxes of another class than their label: they show two defects.")
    if not found.evaluation.locator:
        limits.append("Where the heat map points was not checked: do not rely on it to find a defect.")
    limits.append("It does not replace the acceptance test of the product or a person's responsibility for it.")
    return tuple(limits)

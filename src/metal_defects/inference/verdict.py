"""What to do with an answer: accept it, have a person look at it, or admit that the surface is unknown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metal_defects.inference.card import VerdictRules


@dataclass(frozen=True)
class VerdictStyle:
    """How a verdict is told: the one place for its words and its colour.

    Attributes:
        name: as it stands in answers and files.
        title: for people, in the middle of a sentence.
        advice: what follows from it, to be read after the title.
        colour: of badges, cards and plots, as #RRGGBB; dark enough for white letters.
        terminal: Rich's style for it.
    """

    name: str
    title: str
    advice: str
    colour: str
    terminal: str


# From what nobody needs to look at to the gravest.
VERDICTS: dict[str, VerdictStyle] = {
    style.name: style
    for style in (
        VerdictStyle("accept", "accepted", "the answer can be used", "#2E7D54", "green"),
        VerdictStyle("review", "to review", "a person should look", "#B4690E", "yellow"),
        VerdictStyle("unknown", "unknown", "unlike the training images", "#6B4FA0", "magenta"),
    )
}
COUNT_WORDS = ("no class is", "one class is", "two classes are", "three classes are", "four classes are")
MOST_LISTED = 4


@dataclass(frozen=True)
class Verdict:
    """The advice that goes with an answer.

    Attributes:
        verdict: a key of `VERDICTS`.
        reason: in words; None where the answer is accepted.
        prediction_set: classes that cannot be ruled out, most probable first; never empty.
    """

    verdict: str
    reason: str | None
    prediction_set: tuple[str, ...]


def possible_classes(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Which classes cannot be ruled out, bool (n, C), at least one per row.

    All classes of at least `threshold`; where there is none, as many of the most probable as it takes to add up to it.

    Args:
        probabilities: calibrated, (n, C).
        threshold: in [0, 1].
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    before = np.cumsum(ranked, axis=1) - ranked
    chosen = (ranked >= threshold) | ((before < threshold) & (ranked[:, :1] < threshold))
    chosen[:, 0] = True
    sets: np.ndarray = np.empty_like(chosen)
    np.put_along_axis(sets, order, chosen, axis=1)
    return sets


def decide(probabilities: np.ndarray, distance: float | None, classes: Sequence[str], rules: VerdictRules) -> Verdict:
    """Apply the rules, the gravest first.

    Args:
        probabilities: calibrated, of every class, (C,).
        distance: of the guard; None where there is no guard.
        classes: C names.
        rules: limits of the distance and of the confidence; which classes are possible is told beside it.
    """
    order = np.argsort(-probabilities, kind="stable")
    sets = possible_classes(probabilities[None], rules.set_threshold)[0]
    possible = [index for index in order if sets[index]]
    names = tuple(classes[index] for index in possible)
    verdict, reason = "accept", None
    # Written so that NaN, which no comparison holds for, is never accepted.
    if distance is not None and not distance <= rules.unknown_distance:
        verdict = "unknown"
        reason = f"this surface is unlike the training images: {_compare(distance, rules.unknown_distance)}"
    elif rules.min_confidence is None:
        verdict, reason = "review", "this model makes too many errors for any answer of it to be accepted"
    elif not probabilities[order[0]] >= rules.min_confidence:
        verdict = "review"
        shares = _tell_apart(float(probabilities[order[0]]), rules.min_confidence, digits=2)
        reason = f"the confidence is low: {names[0]} {shares[0]}, {shares[1]} wanted"
        if len(possible) > 1:
            reason = _list_classes(names, probabilities[possible])
    elif distance is not None and rules.review_distance is not None and not distance <= rules.review_distance:
        verdict = "review"
        reason = f"this surface is almost unlike the training images: {_compare(distance, rules.unknown_distance)}"
    return Verdict(verdict, reason, names)


def _list_classes(names: Sequence[str], shares: np.ndarray) -> str:
    count = len(names)
    words = COUNT_WORDS[count] if count < len(COUNT_WORDS) else f"{count} classes are"
    listed = [f"{name} {_format_share(float(share))}" for name, share in zip(names, shares, strict=True)]
    more = [f"and {count - MOST_LISTED} more"] if count > MOST_LISTED else []
    return f"{words} possible: {', '.join(listed[:MOST_LISTED] + more)}"


def _format_share(share: float) -> str:
    """Two digits, or as many as it takes not to say 0 or 1."""
    digits = next((digits for digits in (2, 3, 4) if 0 < round(share, digits) < 1), 2)
    return f"{share:.{digits}f}"


def _compare(distance: float, limit: float) -> str:
    told = _tell_apart(distance, limit, digits=1)
    return f"distance {told[0]}, limit {told[1]}"


def _tell_apart(value: float, limit: float, digits: int) -> tuple[str, str]:
    """Both numbers, the first with more digits where they would read the same."""
    shown = f"{limit:.{digits}f}" if round(limit, digits) == limit else f"{limit:g}"
    texts = (f"{value:.{more}f}" for more in range(digits, digits + 4))
    return next((text for text in texts if float(text) != limit), f"{value:.{digits}f}"), shown

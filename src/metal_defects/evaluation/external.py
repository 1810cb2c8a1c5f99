"""Scores a bundle on labelled images from elsewhere: what it gets right, what it flags, what slips through."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metal_defects.config import normalise_name
from metal_defects.errors import UserError
from metal_defects.inference.predictor import Failure, Prediction
from metal_defects.metrics import accuracy_interval


@dataclass(frozen=True)
class Judged:
    """One image with what it shows and what was answered.

    Attributes:
        name: of the file.
        theirs: its class there.
        ours: the class of the model that stands for it; None where the model does not know the class.
        answer: of the model.
    """

    name: str
    theirs: str
    ours: str | None
    answer: Prediction

    @property
    def is_right(self) -> bool:
        """Whether the label is the mapped class."""
        return self.answer.label == self.ours

    @property
    def is_accepted(self) -> bool:
        """Whether nobody would look at it again; without verdicts every answer is taken at its word."""
        return self.answer.verdict in (None, "accept")

    @property
    def is_silent_error(self) -> bool:
        """Wrong, or of a class that the model cannot know, and accepted."""
        return self.is_accepted and not self.is_right


def read_mapping(texts: Iterable[str], theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str | None]:
    """Which class of the model stands for each class there; equal names need no mapping.

    Args:
        texts: "their class=our class".
        theirs: class names of the folder.
        ours: class names of the model.

    Raises:
        UserError: a text is not of this form, or names an unknown class.
    """
    own = {normalise_name(name): name for name in ours}
    foreign = {normalise_name(name): name for name in theirs}
    mapping: dict[str, str | None] = {name: own.get(key) for key, name in foreign.items()}
    for text in texts:
        left, equals, right = text.partition("=")
        source, target = foreign.get(normalise_name(left)), own.get(normalise_name(right))
        if not equals or source is None or target is None:
            raise UserError(
                f"--map must be 'THEIRS=OURS' with THEIRS among {', '.join(theirs)} and OURS among {', '.join(ours)}. "
                f"Got '{text}'."
            )
        mapping[source] = target
    return mapping


def judge(
    answers: Iterable[tuple[str, Prediction | Failure]], mapping: Mapping[str, str | None]
) -> tuple[list[Judged], list[Failure]]:
    """Pair the answers with what the images show.

    Args:
        answers: the class there, and the answer.
        mapping: of `read_mapping`.
    """
    judged: list[Judged] = []
    failures: list[Failure] = []
    for theirs, answer in answers:
        if isinstance(answer, Failure):
            failures.append(answer)
        else:
            judged.append(Judged(answer.name or "", theirs, mapping[theirs], answer))
    return judged, failures


def summarise(judged: Sequence[Judged]) -> dict[str, Any]:
    """Shares with 95 % intervals: over all images, and per class there.

    Raises:
        UserError: there is no image.
    """
    if not judged:
        raise UserError("None of the images could be read.")
    known = [one for one in judged if one.ours is not None]
    unknown = [one for one in judged if one.ours is None]
    classes = sorted({one.theirs for one in judged})
    return {
        "images": len(judged),
        "accuracy": _share(known, lambda one: one.is_right),
        "accuracy_of_accepted": _share([one for one in known if one.is_accepted], lambda one: one.is_right),
        "known_flagged": _share(known, lambda one: not one.is_accepted),
        "unknown_flagged": _share(unknown, lambda one: not one.is_accepted),
        "silent_errors": _share(judged, lambda one: one.is_silent_error),
        "verdicts": {
            verdict: sum(one.answer.verdict == verdict for one in judged) for verdict in ("accept", "review", "unknown")
        },
        "classes": [_summarise_class(name, [one for one in judged if one.theirs == name]) for name in classes],
    }


def _summarise_class(name: str, judged: Sequence[Judged]) -> dict[str, Any]:
    labels = [one.answer.label for one in judged]
    return {
        "theirs": name,
        "ours": judged[0].ours,
        "images": len(judged),
        "accuracy": _share(judged, lambda one: one.is_right) if judged[0].ours else None,
        "flagged": _share(judged, lambda one: not one.is_accepted),
        "silent_errors": sum(one.is_silent_error for one in judged),
        "most_often": max(sorted(set(labels)), key=labels.count),
    }


def _share(judged: Sequence[Judged], holds: Any) -> dict[str, float] | None:
    """Share of the images for which `holds`, with its 95 % Wilson interval; None where there are none."""
    if not judged:
        return None
    hits = sum(map(holds, judged))
    low, high = accuracy_interval(hits, len(judged))
    return {"value": hits / len(judged), "low": low, "high": high, "n": len(judged)}

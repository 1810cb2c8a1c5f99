"""Scores a bundle on labelled images from elsewhere: what it gets right, what it flags, what slips through."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from metal_defects.config import normalise_name
from metal_defects.errors import UserError
from metal_defects.inference.answer import Failure, Outcome, Prediction
from metal_defects.inference.verdict import VERDICTS
from metal_defects.metrics import Score, share
from metal_defects.records import Record


class ExternalClass(Record):
    """One class of the other mill.

    Attributes:
        theirs: its name there.
        ours: the class of the model that stands for it; None where the model does not know it.
        accuracy: of the labels; None where no label can be right.
        flagged: share that was not accepted.
        silent_errors: images that were answered wrongly, or could not be answered rightly, and accepted.
        most_often: the commonest label.
    """

    theirs: str
    ours: str | None
    images: int
    accuracy: Score | None
    flagged: Score
    silent_errors: int
    most_often: str


class ExternalScores(Record):
    """How a bundle does on labelled images from elsewhere; None where there is no image of a kind.

    Attributes:
        accuracy: of the images of mapped classes.
        accuracy_of_accepted: of those among them that nobody would look at.
        known_flagged, unknown_flagged: share of the mapped and of the other images that was not accepted.
        silent_errors: share of all images that are wrong, or of a class that the model cannot know, and accepted.
        verdicts: number of images by verdict.
    """

    images: int
    accuracy: Score | None
    accuracy_of_accepted: Score | None
    known_flagged: Score | None
    unknown_flagged: Score | None
    silent_errors: Score
    verdicts: dict[str, int]
    classes: tuple[ExternalClass, ...]


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
    answers: Iterable[tuple[str, Outcome]], mapping: Mapping[str, str | None]
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


def summarise(judged: Sequence[Judged]) -> ExternalScores:
    """Shares with 95 % intervals: over all images, and per class there.

    Raises:
        UserError: there is no image.
    """
    if not judged:
        raise UserError("None of the images could be read.")
    known = [one for one in judged if one.ours is not None]
    unknown = [one for one in judged if one.ours is None]
    classes = sorted({one.theirs for one in judged})
    return ExternalScores(
        images=len(judged),
        accuracy=_share(known, lambda one: one.is_right),
        accuracy_of_accepted=_share([one for one in known if one.is_accepted], lambda one: one.is_right),
        known_flagged=_share(known, lambda one: not one.is_accepted),
        unknown_flagged=_share(unknown, lambda one: not one.is_accepted),
        silent_errors=share(sum(one.is_silent_error for one in judged), len(judged)),
        verdicts={verdict: sum(one.answer.verdict == verdict for one in judged) for verdict in VERDICTS},
        classes=tuple(_summarise_class([one for one in judged if one.theirs == name]) for name in classes),
    )


def _summarise_class(judged: Sequence[Judged]) -> ExternalClass:
    labels = [one.answer.label for one in judged]
    return ExternalClass(
        theirs=judged[0].theirs,
        ours=judged[0].ours,
        images=len(judged),
        accuracy=_share(judged, lambda one: one.is_right) if judged[0].ours else None,
        flagged=share(sum(not one.is_accepted for one in judged), len(judged)),
        silent_errors=sum(one.is_silent_error for one in judged),
        most_often=max(sorted(set(labels)), key=labels.count),
    )


def _share(judged: Sequence[Judged], holds: Callable[[Judged], bool]) -> Score | None:
    """Share of the images for which `holds`; None where there are none."""
    return share(sum(map(holds, judged)), len(judged)) if judged else None

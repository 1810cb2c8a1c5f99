"""Checks of the images against schema.yaml, as a report that a person can read and a program can act on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from metal_defects.config import DataIngestionParams, SplitName, SplitSchema
from metal_defects.data.annotations import Boxes
from metal_defects.data.duplicates import Match
from metal_defects.data.manifest import SPLITS, LeftOut
from metal_defects.data.splits import Assignment, Item
from metal_defects.errors import DataError
from metal_defects.records import Record

Status = Literal["ok", "warn", "fail"]
MAX_CLASS_RATIO = 1.5
_SHOWN = 5


class Check(Record):
    """One question about the data and its answer.

    Attributes:
        status: "fail" stops the stage.
        message: one sentence.
    """

    status: Status
    message: str


class QuarantineCheck(Check):
    """Are few enough of the files unusable? How many for each reason."""

    files: int
    quarantined: int
    share: float
    reasons: dict[str, int]


class Copy(Record):
    """Two images that show the same; see `metal_defects.data.duplicates.Match`."""

    first: str
    second: str
    kind: str
    correlation: float | None


class CopiesCheck(Check):
    """Which images show the same: groups of paths, and the pairs that join them."""

    groups: tuple[tuple[str, ...], ...] = ()
    pairs: tuple[Copy, ...] = ()


class OverlapsCheck(Check):
    """Which images show one piece of surface?

    Attributes:
        images: all of them.
        shared: images that share their piece with others.
        pieces: by class; a piece that shows two classes counts for both.
        largest: images of the largest piece, by class.
        unnamed: images whose path names no part by data_ingestion.group_by.
        loosened: classes of too few pieces to divide; their images are divided as if each were a piece.
    """

    images: int
    shared: int
    pieces: dict[str, int]
    largest: dict[str, int]
    unnamed: int
    loosened: tuple[str, ...]


class LabelsCheck(Check):
    """Do copies of an image agree on its class? Of each group that does not, the class by path."""

    disputed: tuple[dict[str, str], ...]


class SplitCheck(Check):
    """Where does the split come from?

    Attributes:
        counts: images by split and class.
        notes: what a reader must know about it.
        dropped_copies: left out because copies of them are on another side.
        unused: images beyond the sizes asked for.
    """

    origin: str
    counts: dict[SplitName, dict[str, int]]
    notes: tuple[str, ...]
    dropped_copies: int
    unused: int


class BalanceCheck(Check):
    """Are the classes of like size? Largest over smallest, and images by class."""

    ratio: float
    counts: dict[str, int]


class BoxesCheck(Check):
    """Are there boxes, are they usable, and do they carry the class of their image?"""

    images_with_annotation: int
    images_without: int
    boxes: int
    boxes_of_another_class: int
    images_with_another_class: tuple[str, ...]
    unusable_boxes: tuple[str, ...]


class ValidationReport(Record):
    """validation_report.json: every check of the data."""

    quarantine: QuarantineCheck
    copies: CopiesCheck
    overlaps: OverlapsCheck
    labels: LabelsCheck
    split: SplitCheck
    minimum: Check
    balance: BalanceCheck
    boxes: BoxesCheck

    @property
    def checks(self) -> dict[str, Check]:
        """All of them by name, in their order."""
        return {name: getattr(self, name) for name in type(self).model_fields}


def require_passed(checks: Iterable[Check]) -> None:
    """Go on only if no check failed.

    Raises:
        DataError: with the message of the first one that did.
    """
    for check in checks:
        if check.status == "fail":
            raise DataError(check.message)


def check_quarantine(rejected: Sequence[LeftOut], usable: int, max_share: float) -> QuarantineCheck:
    """Are few enough of the files unusable?"""
    total = usable + len(rejected)
    share = len(rejected) / max(total, 1)
    status: Status = "ok"
    message = f"All {total} files are usable images."
    if rejected:
        first = ", ".join(f"{item.path} ({item.reason})" for item in rejected[:_SHOWN])
        count = f"{len(rejected)} of {total} files ({100 * share:.1f} %) cannot be used"
        status, message = "warn", f"{count}; see quarantine.csv. First: {first}."
    if rejected and share > max_share:
        status, message = (
            "fail",
            f"{count}, more than data_ingestion.max_quarantined_share ({100 * max_share:.1f} %) allows. "
            f"Mend or remove them, or raise the limit. Got, first: {first}.",
        )
    return QuarantineCheck(
        status=status,
        message=message,
        files=total,
        quarantined=len(rejected),
        share=round(share, 4),
        reasons=dict(sorted(Counter(item.reason for item in rejected).items())),
    )


def check_copies(items: Sequence[Item], matches: Sequence[Match], mode: str) -> CopiesCheck:
    """Which images show the same?"""
    if mode == "off":
        message = "Copies were not looked for (data_ingestion.duplicates: off): some may be on both sides of the split."
        return CopiesCheck(status="warn", message=message)
    found: dict[str, list[str]] = {}
    for item in items:
        found.setdefault(item.copies or item.group, []).append(item.path)
    groups = tuple(tuple(paths) for paths in found.values() if len(paths) > 1)
    pairs = tuple(
        Copy(
            first=items[match.first].path,
            second=items[match.second].path,
            kind=match.kind,
            correlation=match.correlation,
        )
        for match in matches
    )
    kinds = Counter(match.kind for match in matches)
    message = (
        f"{len(groups)} groups of copies, kept on one side: {kinds['file']} pairs of equal files, "
        f"{kinds['pixels']} of equal pixels, {kinds['near']} nearly equal, {kinds['turned']} turned or reflected."
    )
    return CopiesCheck(status="warn" if groups else "ok", message=message, groups=groups, pairs=pairs)


def check_overlaps(
    items: Sequence[Item], params: DataIngestionParams, unnamed: int, loosened: Sequence[str]
) -> OverlapsCheck:
    """Which images show one piece of surface?

    Args:
        items: with their groups, before any class was loosened.
        params: what was looked for.
        unnamed: images whose path names no part.
        loosened: classes that are divided by images all the same.
    """
    sizes = Counter(item.group for item in items)
    members: dict[str, Counter[str]] = {}
    for item in items:
        members.setdefault(item.label, Counter())[item.group] += 1
    shared = sum(size for size in sizes.values() if size > 1)
    pieces = sum(size > 1 for size in sizes.values())
    message = f"{shared} of {len(items)} images share surface with others, in {pieces} pieces, which stay on one side."
    if params.duplicates != "overlap":
        message += f" Overlaps were not looked for (data_ingestion.duplicates: {params.duplicates})."
    if unnamed:
        message += (
            f" {unnamed} images do not match data_ingestion.group_by '{params.group_by}': each counts as its own part."
        )
    if loosened:
        message += (
            f" {', '.join(loosened)}: too few pieces to divide, so that images of one piece are trained on and tested "
            "on; expect worse on new pieces, and add images of others."
        )
    return OverlapsCheck(
        status="warn" if shared or unnamed or loosened or params.duplicates != "overlap" else "ok",
        message=message,
        images=len(items),
        shared=shared,
        pieces={label: len(found) for label, found in sorted(members.items())},
        largest={label: max(found.values()) for label, found in sorted(members.items())},
        unnamed=unnamed,
        loosened=tuple(loosened),
    )


def check_labels(items: Sequence[Item]) -> LabelsCheck:
    """Do copies of an image agree on its class?"""
    labels: dict[str, dict[str, str]] = {}
    for item in items:
        labels.setdefault(item.copies or item.group, {})[item.path] = item.label
    disputed = tuple(found for found in labels.values() if len(set(found.values())) > 1)
    if not disputed:
        return LabelsCheck(status="ok", message="No image appears under two labels.", disputed=())
    first = ", ".join(f"{path} ({label})" for path, label in disputed[0].items())
    message = f"{len(disputed)} images appear under more than one label; one of them is wrong. First: {first}."
    return LabelsCheck(status="warn", message=message, disputed=disputed)


def count_images(
    labels: Mapping[str, str], classes: Sequence[str], assignment: Assignment
) -> dict[SplitName, dict[str, int]]:
    """Images by split and class; `labels` holds the class of each path."""
    counts = {split: dict.fromkeys(classes, 0) for split in SPLITS}
    for path, split in assignment.splits.items():
        counts[split][labels[path]] += 1
    return counts


def check_split(counts: dict[SplitName, dict[str, int]], assignment: Assignment) -> SplitCheck:
    """Where does the split come from?

    Args:
        counts: of `count_images`.
        assignment: the split.
    """
    sizes = ", ".join(f"{split} {sum(counts[split].values())}" for split in SPLITS)
    message = " ".join((f"{sizes} ({assignment.origin}).", *assignment.notes))
    if assignment.unused:
        message += f" {len(assignment.unused)} images are beyond the sizes asked for and are not used."
    return SplitCheck(
        status="warn" if assignment.notes or assignment.unused else "ok",
        message=message,
        origin=assignment.origin,
        counts=counts,
        notes=assignment.notes,
        dropped_copies=len(assignment.dropped),
        unused=len(assignment.unused),
    )


def check_boxes(images: Iterable[tuple[str, str, Boxes | None]]) -> BoxesCheck:
    """Are there boxes, are they usable, and do they carry the class of their image?

    Args:
        images: path, label and what its annotation holds (None where it has none), of each image.
    """
    images = list(images)
    annotated = [(path, label, found) for path, label, found in images if found is not None]
    differing = {path: count for path, label, found in annotated if (count := _count_other(label, found))}
    problems = tuple(problem for *_, found in annotated for problem in found.problems)
    boxes, others, without = sum(len(found.boxes) for *_, found in annotated), sum(differing.values()), len(images)
    without -= len(annotated)
    message = f"{boxes} boxes in {len(annotated)} images." if annotated else "There are no annotations."
    if annotated and without:
        message += f" {without} images have no annotation."
    if differing:
        message += (
            f" {others} boxes in {len(differing)} images carry a class other than their file's: these images show two "
            "defects."
        )
    if problems:
        message += f" {len(problems)} annotations cannot be used. First: {problems[0]}."
    return BoxesCheck(
        status="warn" if differing or problems else "ok",
        message=message,
        images_with_annotation=len(annotated),
        images_without=without,
        boxes=boxes,
        boxes_of_another_class=others,
        images_with_another_class=tuple(differing),
        unusable_boxes=problems,
    )


def _count_other(label: str, found: Boxes) -> int:
    return sum(box.label != label for box in found.boxes)


def check_minimum(counts: Mapping[SplitName, Mapping[str, int]], schema: SplitSchema) -> Check:
    """Does every class have enough images in each part?"""
    lacking = [
        f"'{label}' has {count} {split} images, {schema.min_images_per_class[split]} are needed"
        for split in SPLITS
        for label, count in counts[split].items()
        if count < schema.min_images_per_class.get(split, 0)
    ]
    if not lacking:
        return Check(status="ok", message="Every class has enough images in every split.")
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    message = (
        "Some classes have too few different images (schema.yaml, split.min_images_per_class; images of one piece stay "
        "together). "
        f"Add images, or take the class out of schema.yaml. Got: {'; '.join(lacking[:_SHOWN])}{more}."
    )
    return Check(status="fail", message=message)


def check_balance(counts: Mapping[SplitName, Mapping[str, int]], classes: Sequence[str]) -> BalanceCheck:
    """Are the classes of like size?"""
    totals = {label: sum(counts[split][label] for split in SPLITS) for label in classes}
    largest, smallest = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
    ratio = round(totals[largest] / max(totals[smallest], 1), 2)
    message = (
        f"The largest class, '{largest}' ({totals[largest]}), is {ratio:g} times the smallest, "
        f"'{smallest}' ({totals[smallest]})."
    )
    status: Status = "warn" if ratio > MAX_CLASS_RATIO else "ok"
    return BalanceCheck(status=status, message=message, ratio=ratio, counts=totals)

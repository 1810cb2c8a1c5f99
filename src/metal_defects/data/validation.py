"""Checks of the images against schema.yaml, as a report that a person can read and a program can act on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from metal_defects.config import SplitSchema
from metal_defects.data.annotations import Boxes
from metal_defects.data.duplicates import Match
from metal_defects.data.layouts import RejectedFile
from metal_defects.data.splits import SPLITS, Assignment, Item
from metal_defects.errors import DataError

MAX_CLASS_RATIO = 1.5
_SHOWN = 5


@dataclass(frozen=True)
class Check:
    """One question about the data and its answer.

    Attributes:
        name: a short code.
        status: "fail" stops the stage.
        message: one sentence.
        details: JSON-able figures.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


def make_report(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as JSON; raises `DataError` with the message of the first one that failed."""
    for check in checks:
        if check.status == "fail":
            raise DataError(check.message)
    status = "warn" if any(check.status == "warn" for check in checks) else "ok"
    listed = [
        {"name": check.name, "status": check.status, "message": check.message, **check.details} for check in checks
    ]
    return {"status": status, "checks": listed}


def check_quarantine(rejected: Sequence[RejectedFile], usable: int, max_share: float) -> Check:
    """Are few enough of the files unusable?"""
    total = usable + len(rejected)
    share = len(rejected) / max(total, 1)
    reasons = dict(sorted(Counter(item.reason for item in rejected).items()))
    details = {"files": total, "quarantined": len(rejected), "share": round(share, 4), "reasons": reasons}
    if not rejected:
        return Check("quarantine", "ok", f"All {total} files are usable images.", details)
    first = ", ".join(f"{item.path} ({item.reason})" for item in rejected[:_SHOWN])
    count = f"{len(rejected)} of {total} files ({share:.1%}) cannot be used"
    if share > max_share:
        message = (
            f"{count}, more than data_ingestion.max_quarantined_share ({max_share:.1%}) allows. "
            f"Mend or remove them, or raise the limit. Got, first: {first}."
        )
        return Check("quarantine", "fail", message, details)
    return Check("quarantine", "warn", f"{count}; see quarantine.csv. First: {first}.", details)


def check_copies(items: Sequence[Item], matches: Sequence[Match], mode: str) -> Check:
    """Which images show the same?"""
    if mode == "off":
        message = "Copies were not looked for (data_ingestion.duplicates: off): some may be on both sides of the split."
        return Check("copies", "warn", message)
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item.path)
    groups = {name: paths for name, paths in groups.items() if len(paths) > 1}
    pairs = [
        {
            "first": items[match.first].path,
            "second": items[match.second].path,
            "kind": match.kind,
            "correlation": match.correlation,
        }
        for match in matches
    ]
    kinds = Counter(match.kind for match in matches)
    message = (
        f"{len(groups)} groups of copies, kept on one side: {kinds['file']} pairs of equal files, "
        f"{kinds['pixels']} of equal pixels, {kinds['near']} nearly equal, {kinds['turned']} turned or reflected."
    )
    return Check("copies", "warn" if groups else "ok", message, {"groups": list(groups.values()), "pairs": pairs})


def check_labels(items: Sequence[Item]) -> Check:
    """Do copies of an image agree on its class?"""
    labels: dict[str, dict[str, str]] = {}
    for item in items:
        labels.setdefault(item.group, {})[item.path] = item.label
    disputed = [found for found in labels.values() if len(set(found.values())) > 1]
    if not disputed:
        return Check("labels", "ok", "No image appears under two labels.", {"disputed": []})
    first = ", ".join(f"{path} ({label})" for path, label in disputed[0].items())
    message = f"{len(disputed)} images appear under more than one label; one of them is wrong. First: {first}."
    return Check("labels", "warn", message, {"disputed": disputed})


def check_split(
    labels: Mapping[str, str], classes: Sequence[str], assignment: Assignment, schema: SplitSchema
) -> list[Check]:
    """Where does the split come from, does every class have enough images in each part, and are classes balanced?

    Args:
        labels: class of each path.
        classes: in order.
        assignment: the split.
        schema: what every class must have.
    """
    counts = {split: dict.fromkeys(classes, 0) for split in SPLITS}
    for path, split in assignment.splits.items():
        counts[split][labels[path]] += 1
    sizes = ", ".join(f"{split} {sum(counts[split].values())}" for split in SPLITS)
    details = {
        "origin": assignment.origin,
        "counts": counts,
        "notes": list(assignment.notes),
        "dropped_copies": len(assignment.dropped),
        "unused": len(assignment.unused),
    }
    message = " ".join((f"{sizes} ({assignment.origin}).", *assignment.notes))
    if assignment.unused:
        message += f" {len(assignment.unused)} images are beyond the sizes asked for and are not used."
    loud = assignment.notes or assignment.unused
    split_check = Check("split", "warn" if loud else "ok", message, details)
    return [split_check, _check_minimum(counts, schema), _check_balance(counts, classes)]


def check_boxes(images: Iterable[tuple[str, str, Boxes | None]]) -> Check:
    """Are there boxes, are they usable, and do they carry the class of their image?

    Args:
        images: path, label and what its annotation holds (None where it has none), of each image.
    """
    images = list(images)
    annotated = [(path, label, found) for path, label, found in images if found is not None]
    differing = {path: count for path, label, found in annotated if (count := _count_other(label, found))}
    problems = [problem for *_, found in annotated for problem in found.problems]
    details = {
        "images_with_annotation": len(annotated),
        "images_without": len(images) - len(annotated),
        "boxes": sum(len(found.boxes) for *_, found in annotated),
        "boxes_of_another_class": sum(differing.values()),
        "images_with_another_class": list(differing),
        "unusable_boxes": problems,
    }
    if not annotated:
        return Check("boxes", "ok", "There are no annotations.", details)
    message = f"{details['boxes']} boxes in {len(annotated)} images."
    if len(images) > len(annotated):
        message += f" {details['images_without']} images have no annotation."
    if differing:
        message += (
            f" {details['boxes_of_another_class']} boxes in {len(differing)} images carry a class other than "
            "their file's: these images show two defects."
        )
    if problems:
        message += f" {len(problems)} annotations cannot be used. First: {problems[0]}."
    return Check("boxes", "warn" if differing or problems else "ok", message, details)


def _count_other(label: str, found: Boxes) -> int:
    return sum(box.label != label for box in found.boxes)


def _check_minimum(counts: Mapping[str, Mapping[str, int]], schema: SplitSchema) -> Check:
    lacking = [
        f"'{label}' has {count} {split} images, {schema.min_images_per_class[split]} are needed"
        for split in SPLITS
        for label, count in counts[split].items()
        if count < schema.min_images_per_class.get(split, 0)
    ]
    if not lacking:
        return Check("minimum", "ok", "Every class has enough images in every split.")
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    message = (
        "Some classes have too few different images (schema.yaml, split.min_images_per_class; copies stay together). "
        f"Add images, or take the class out of schema.yaml. Got: {'; '.join(lacking[:_SHOWN])}{more}."
    )
    return Check("minimum", "fail", message)


def _check_balance(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> Check:
    totals = {label: sum(counts[split][label] for split in SPLITS) for label in classes}
    largest, smallest = max(totals, key=totals.get), min(totals, key=totals.get)
    ratio = round(totals[largest] / max(totals[smallest], 1), 2)
    message = (
        f"The largest class, '{largest}' ({totals[largest]}), is {ratio:g} times the smallest, "
        f"'{smallest}' ({totals[smallest]})."
    )
    status = "warn" if ratio > MAX_CLASS_RATIO else "ok"
    return Check("balance", status, message, {"ratio": ratio, "counts": totals})

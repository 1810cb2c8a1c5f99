"""Stage 01: find the images, open every one of them, and write down what is there and who goes where."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from metal_defects.artifacts import MANIFEST, OVERLAPS, OVERLAPS_PLOT, QUARANTINE, SOURCE, VALIDATION
from metal_defects.config import Classes, DataSchema, ImageSchema, normalise_name
from metal_defects.data.annotations import Boxes, choose_annotation, read_boxes
from metal_defects.data.duplicates import ImagePrint, find_matches, group_pairs, take_print
from metal_defects.data.grouping import loosen_classes, pair_names, regroup
from metal_defects.data.imaging import ImageError, decode_image, read_size
from metal_defects.data.layouts import ImageSet, LabelledFile, read_image_set
from metal_defects.data.manifest import LeftOut, ManifestRow, OverlapRow, SourceCard
from metal_defects.data.overlaps import Overlap, drop_poor_copies, find_overlaps
from metal_defects.data.sources import Source
from metal_defects.data.splits import Assignment, Item, assign_splits
from metal_defects.data.surface import Surface, choose_reduction, reduce_image, take_surface
from metal_defects.data.validation import (
    ValidationReport,
    check_balance,
    check_boxes,
    check_copies,
    check_labels,
    check_minimum,
    check_overlaps,
    check_quarantine,
    check_split,
    count_images,
    require_passed,
)
from metal_defects.files import sha256_file
from metal_defects.log import logger, track
from metal_defects.pipeline.context import StageContext
from metal_defects.pipeline.table import DATA
from metal_defects.plots.overlaps import draw_overlaps
from metal_defects.records import write_record, write_rows
from metal_defects.system import map_ordered


@dataclass(frozen=True)
class DecodedImage:
    """What remains of an image after it was decoded; width and height in pixels."""

    file: LabelledFile
    width: int
    height: int
    print: ImagePrint
    surface: Surface


def run(ctx: StageContext) -> None:
    """Write manifest.csv, quarantine.csv, source.json, validation_report.json, overlaps.csv and plots/overlaps.png.

    Every file of the set is in the manifest or in the quarantine, with the reason.

    Raises:
        DataError: no usable image set was found, or it fails a check.
    """
    params, classes = ctx.setting("data_ingestion"), ctx.setting("classes")
    limits, split_schema = ctx.setting("image"), ctx.setting("split")
    source = ctx.outside(DATA)
    image_set = read_image_set(source.folder, DataSchema(classes=classes, image=limits, split=split_schema))
    logger.info("Reading %d files of layout '%s' in %s", len(image_set.files), image_set.layout, image_set.root)
    sizes = (read_size(image_set.root / file.path) for file in image_set.files)
    reduction = choose_reduction([size for size in sizes if size])
    images, unreadable = _decode_all(image_set, limits, reduction)
    rejected = sorted((*image_set.rejected, *unreadable), key=lambda item: item.path)
    quarantine = check_quarantine(rejected, len(images), params.max_quarantined_share)
    require_passed([quarantine])  # the other checks would only blame what is left

    matches = find_matches([image.print for image in images], params.duplicates)
    if params.duplicates == "overlap":
        matches = drop_poor_copies(matches, [image.surface for image in images])
    originals = group_pairs(len(images), [(match.first, match.second) for match in matches])
    overlaps = _find_overlaps(images, originals, ctx.setting("seed")) if params.duplicates == "overlap" else []
    named, unnamed = pair_names([image.file.path for image in images], params.group_by) if params.group_by else ([], 0)
    plain = [
        Item(image.file.path, image.file.label, image.file.path, image.file.split, images[first].file.path)
        for image, first in zip(images, originals, strict=True)
    ]
    whole = regroup(plain, [*named, *((overlap.first, overlap.second) for overlap in overlaps)])
    items, loosened = loosen_classes(whole)
    boxes = _read_all_boxes(image_set, images, classes)
    label_of = {file.path: file.label for file in image_set.files}
    lost = Counter(label_of[item.path] for item in unreadable)
    assignment = assign_splits(items, params, ctx.setting("seed"), lost)
    counts = count_images(label_of, image_set.classes, assignment)
    report = ValidationReport(
        quarantine=quarantine,
        copies=check_copies(items, matches, params.duplicates),
        overlaps=check_overlaps(whole, params, unnamed, loosened),
        labels=check_labels(items),
        split=check_split(counts, assignment),
        minimum=check_minimum(counts, split_schema),
        balance=check_balance(counts, image_set.classes),
        boxes=check_boxes((item.path, item.label, found) for item, found in zip(items, boxes, strict=True)),
    )
    require_passed(report.checks.values())
    for name, check in report.checks.items():
        logger.log(logging.WARNING if check.status == "warn" else logging.INFO, "%s: %s", name, check.message)

    rows = _describe_all(images, _keep_two_to_train(items, assignment), boxes, assignment)
    left_out = sorted((*rejected, *_explain_left_out(assignment)), key=lambda item: item.path)
    write_rows(ctx.out / MANIFEST.file, ManifestRow, rows)
    write_rows(ctx.out / QUARANTINE.file, LeftOut, left_out)
    write_record(ctx.out / SOURCE.file, _describe_source(source, image_set))
    write_record(ctx.out / VALIDATION.file, report)
    write_rows(ctx.out / OVERLAPS.file, OverlapRow, (_describe_overlap(one, items, reduction) for one in overlaps))
    _draw_pieces(ctx.out / OVERLAPS_PLOT.file, image_set, images, whole, overlaps, reduction, limits)


def _decode_all(image_set: ImageSet, limits: ImageSchema, reduction: float) -> tuple[list[DecodedImage], list[LeftOut]]:
    def decode(file: LabelledFile) -> DecodedImage | LeftOut:
        path = image_set.root / file.path
        try:
            pixels = decode_image(path, limits)
        except ImageError as error:
            return LeftOut(path=file.path, reason=error.reason, detail=str(error))
        height, width = pixels.shape[:2]
        return DecodedImage(file, width, height, take_print(pixels, sha256_file(path)), take_surface(pixels, reduction))

    files = image_set.files
    results = list(track(map_ordered(decode, files), "Decoding images", total=len(files)))
    images = [result for result in results if isinstance(result, DecodedImage)]
    return images, [result for result in results if isinstance(result, LeftOut)]


def _find_overlaps(images: Sequence[DecodedImage], originals: Sequence[int], seed: int) -> list[Overlap]:
    """Overlaps of the images that repeat no earlier one; a copy overlaps what its original does."""
    chosen = [index for index, original in enumerate(originals) if index == original]
    found = find_overlaps([images[index].surface for index in chosen], seed)
    return [replace(one, first=chosen[one.first], second=chosen[one.second]) for one in found]


def _describe_overlap(overlap: Overlap, items: Sequence[Item], reduction: float) -> OverlapRow:
    return OverlapRow(
        first=items[overlap.first].path,
        second=items[overlap.second].path,
        turn=overlap.turn,
        down=round(overlap.down * reduction, 1),
        across=round(overlap.across * reduction, 1),
        correlation=overlap.correlation,
        shared=overlap.shared,
    )


def _draw_pieces(
    target: Path,
    image_set: ImageSet,
    images: Sequence[DecodedImage],
    items: Sequence[Item],
    overlaps: Sequence[Overlap],
    reduction: float,
    limits: ImageSchema,
) -> None:
    def read_reduced(index: int) -> np.ndarray:
        return reduce_image(decode_image(image_set.root / images[index].file.path, limits), reduction)

    shapes = {index: image.surface.steps.shape for index, image in enumerate(images)}
    target.parent.mkdir(exist_ok=True)
    draw_overlaps(
        target, [item.group for item in items], overlaps, shapes, [item.label for item in items], read_reduced
    )


def _read_all_boxes(image_set: ImageSet, images: Sequence[DecodedImage], classes: Classes) -> list[Boxes | None]:
    """For each image what its annotation holds, None where it has none."""
    spellings = {normalise_name(name): name for name in image_set.classes}
    if classes != "auto":
        spellings |= {normalise_name(alias): name for name, aliases in classes.items() for alias in aliases}
    boxes: list[Boxes | None] = []
    for image in images:
        chosen = choose_annotation(image.file.path, image_set.annotations.get(Path(image.file.path).stem, ()))
        found = read_boxes(image_set.root / chosen, image.width, image.height, spellings) if chosen else None
        boxes.append(found)
    return boxes


def _keep_two_to_train(items: Sequence[Item], assignment: Assignment) -> list[Item]:
    """The items, where a class has one piece alone in train with its images as pieces: folds need two at least."""
    trained = [item for item in items if assignment.splits.get(item.path) == "train"]
    groups = {item.path: item.group for item in loosen_classes(trained, fewest=2)[0]}
    return [replace(item, group=groups.get(item.path, item.group)) for item in items]


def _explain_left_out(assignment: Assignment) -> Iterator[LeftOut]:
    for path, keeper in assignment.dropped.items():
        detail = f"{path}: a copy of it is in the {keeper} split."
        yield LeftOut(path=path, reason=f"copy_in_{keeper}", detail=detail)
    for path in assignment.unused:
        detail = f"{path}: beyond the sizes that data_ingestion.split asks for."
        yield LeftOut(path=path, reason="unused", detail=detail)


def _describe_all(
    images: Sequence[DecodedImage], items: Sequence[Item], boxes: Sequence[Boxes | None], assignment: Assignment
) -> list[ManifestRow]:
    """A row for every image that is used."""
    return [
        ManifestRow(
            path=item.path,
            label=item.label,
            split=assignment.splits[item.path],
            sha256=image.print.file_sha256,
            group=item.group,
            width=image.width,
            height=image.height,
            boxes=found.boxes if found else (),
        )
        for image, item, found in zip(images, items, boxes, strict=True)
        if item.path in assignment.splits
    ]


def _describe_source(source: Source, image_set: ImageSet) -> SourceCard:
    return SourceCard(
        kind=source.kind,
        root=str(image_set.root.absolute()),
        layout=image_set.layout,
        classes=image_set.classes,
        notice=source.notice,
        attempts=source.attempts,
    )

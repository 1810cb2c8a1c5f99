"""Stage 01: find the images, open every one of them, and write down what is there and who goes where."""

import csv
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from metal_defects.config import DataSchema, ImageSchema, normalise_name
from metal_defects.data.annotations import Boxes, choose_annotation, read_boxes
from metal_defects.data.duplicates import ImagePrint, find_matches, group_matches, take_print
from metal_defects.data.imaging import ImageError, decode_image
from metal_defects.data.layouts import ImageSet, LabelledFile, RejectedFile, read_image_set
from metal_defects.data.sources import Source, find_source
from metal_defects.data.splits import Assignment, Item, assign_splits
from metal_defects.data.validation import (
    check_boxes,
    check_copies,
    check_labels,
    check_quarantine,
    check_split,
    make_report,
)
from metal_defects.files import sha256_file, write_json, write_text
from metal_defects.log import logger, track
from metal_defects.pipeline.runner import StageContext

MANIFEST_COLUMNS = ("path", "label", "split", "sha256", "group", "width", "height", "boxes")
QUARANTINE_COLUMNS = ("path", "reason", "detail")


@dataclass(frozen=True)
class DecodedImage:
    """What remains of an image after it was decoded; width and height in pixels."""

    file: LabelledFile
    width: int
    height: int
    print: ImagePrint


def run(ctx: StageContext) -> None:
    """Write manifest.csv, quarantine.csv, source.json and validation_report.json.

    Every file of the set is in the manifest or in the quarantine, with the reason.

    Raises:
        DataError: no usable image set was found, or it fails a check.
    """
    schema, params = ctx.settings.data_schema, ctx.settings.params.data_ingestion
    source = find_source(ctx.settings)
    image_set = read_image_set(source.folder, schema)
    logger.info("Reading %d files of layout '%s' in %s", len(image_set.files), image_set.layout, image_set.root)
    images, unreadable = _decode_all(image_set, schema.image)
    rejected = sorted((*image_set.rejected, *unreadable), key=lambda item: item.path)
    checks = [check_quarantine(rejected, len(images), params.max_quarantined_share)]
    make_report(checks)  # the other checks would only blame what is left

    matches = find_matches([image.print for image in images], params.duplicates)
    leaders = group_matches(len(images), matches)
    items = [
        Item(image.file.path, image.file.label, images[leader].file.path, image.file.split)
        for image, leader in zip(images, leaders, strict=True)
    ]
    boxes = _read_all_boxes(image_set, images, schema)
    label_of = {file.path: file.label for file in image_set.files}
    lost = Counter(label_of[item.path] for item in unreadable)
    assignment = assign_splits(items, params, ctx.settings.params.seed, lost)
    checks += [
        check_copies(items, matches, params.duplicates),
        check_labels(items),
        *check_split(label_of, image_set.classes, assignment, schema.split),
        check_boxes((item.path, item.label, found) for item, found in zip(items, boxes, strict=True)),
    ]
    report = make_report(checks)
    for check in checks:
        logger.log(logging.WARNING if check.status == "warn" else logging.INFO, "%s: %s", check.name, check.message)

    rows = [
        (*_describe(image, item, assignment), _format_boxes(found))
        for image, item, found in zip(images, items, boxes, strict=True)
        if item.path in assignment.splits
    ]
    left_out = sorted((*rejected, *_explain_left_out(assignment)), key=lambda item: item.path)
    _write_csv(ctx.out / "manifest.csv", MANIFEST_COLUMNS, rows)
    _write_csv(ctx.out / "quarantine.csv", QUARANTINE_COLUMNS, [astuple(item) for item in left_out])
    write_json(ctx.out / "source.json", _describe_source(source, image_set))
    write_json(ctx.out / "validation_report.json", report)


def _decode_all(image_set: ImageSet, limits: ImageSchema) -> tuple[list[DecodedImage], list[RejectedFile]]:
    def decode(file: LabelledFile) -> DecodedImage | RejectedFile:
        path = image_set.root / file.path
        try:
            pixels = decode_image(path, limits)
        except ImageError as error:
            return RejectedFile(file.path, error.reason, str(error))
        height, width = pixels.shape[:2]
        return DecodedImage(file, width, height, take_print(pixels, sha256_file(path)))

    count = len(image_set.files)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = list(track(pool.map(decode, image_set.files), "Decoding images", total=count))
    images = [result for result in results if isinstance(result, DecodedImage)]
    return images, [result for result in results if isinstance(result, RejectedFile)]


def _read_all_boxes(image_set: ImageSet, images: Sequence[DecodedImage], schema: DataSchema) -> list[Boxes | None]:
    """For each image what its annotation holds, None where it has none."""
    spellings = {normalise_name(name): name for name in image_set.classes}
    if schema.classes != "auto":
        spellings |= {normalise_name(alias): name for name, aliases in schema.classes.items() for alias in aliases}
    boxes: list[Boxes | None] = []
    for image in images:
        chosen = choose_annotation(image.file.path, image_set.annotations.get(Path(image.file.path).stem, ()))
        found = read_boxes(image_set.root / chosen, image.width, image.height, spellings) if chosen else None
        boxes.append(found)
    return boxes


def _explain_left_out(assignment: Assignment) -> Iterable[RejectedFile]:
    for path, keeper in assignment.dropped.items():
        yield RejectedFile(path, f"copy_in_{keeper}", f"{path}: a copy of it is in the {keeper} split.")
    for path in assignment.unused:
        yield RejectedFile(path, "unused", f"{path}: beyond the sizes that data_ingestion.split asks for.")


def _describe(image: DecodedImage, item: Item, assignment: Assignment) -> tuple[str | int, ...]:
    split = assignment.splits[item.path]
    return item.path, item.label, split, image.print.file_sha256, item.group, image.width, image.height


def _format_boxes(found: Boxes | None) -> str:
    return json.dumps([list(astuple(box)) for box in found.boxes] if found else [], ensure_ascii=False)


def _describe_source(source: Source, image_set: ImageSet) -> dict[str, object]:
    return {
        "kind": source.kind,
        "root": str(image_set.root.absolute()),
        "layout": image_set.layout,
        "classes": list(image_set.classes),
        "notice": source.notice,
        "attempts": [attempt.model_dump() for attempt in source.attempts],
    }


def _write_csv(target: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(target, text.getvalue())

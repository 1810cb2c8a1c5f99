"""Pascal VOC boxes, read from files that nobody vouches for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from metal_defects.config import normalise_name
from metal_defects.data.manifest import NamedBox

_MAX_BYTES = 2_000_000
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Boxes:
    """The usable boxes of an image, and one sentence for each that is not."""

    boxes: tuple[NamedBox, ...] = ()
    problems: tuple[str, ...] = ()


def choose_annotation(image: str, candidates: Iterable[str]) -> str | None:
    """Of several annotation files of one stem the one whose path shares most folders with the image's."""

    def shared(candidate: str) -> int:
        pairs = zip(PurePosixPath(image).parts, PurePosixPath(candidate).parts, strict=False)
        return next((depth for depth, (one, other) in enumerate(pairs) if one != other), 0)

    return max(sorted(candidates), key=shared, default=None)


def read_boxes(path: Path, width: int, height: int, spellings: Mapping[str, str]) -> Boxes:
    """The boxes in a Pascal VOC file, clipped to the image.

    Pascal VOC counts pixels from 1 and includes both ends: the left edge of pixel 1 is at 0.

    Args:
        path: XML file.
        width: of the image in pixels.
        height: of the image in pixels.
        spellings: class name by normalised spelling.

    Returns:
        The boxes in the order of the file; whatever cannot be used is told as a problem, never raised.
    """
    try:
        root = _parse(path)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown text encoding
        return Boxes(problems=(f"{path.name}: {error}",))
    declared = (root.findtext("size/width", ""), root.findtext("size/height", ""))
    if all(text.strip().isdecimal() and int(text) for text in declared):
        claimed = tuple(int(text) for text in declared)
        if claimed != (width, height):
            problem = f"{path.name}: made for {claimed[0]}x{claimed[1]} pixels, the image has {width}x{height}"
            return Boxes(problems=(problem,))
    boxes, problems = [], []
    for item in root.iter("object"):
        try:
            boxes.append(_read_box(item, width, height, spellings))
        except ValueError as error:
            problems.append(f"{path.name}: {error}")
    return Boxes(tuple(boxes), tuple(problems))


def _parse(path: Path) -> ElementTree.Element:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    parser = ElementTree.XMLParser(target=_NoDoctype())
    return ElementTree.fromstring(path.read_bytes(), parser=parser)


class _NoDoctype(ElementTree.TreeBuilder):
    """Stops at a document type: it is where entities, and attacks through them, are declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("has a document type declaration")


def _read_box(item: ElementTree.Element, width: int, height: int, spellings: Mapping[str, str]) -> NamedBox:
    name = item.findtext("name", "").strip()
    label = spellings.get(normalise_name(name))
    if label is None:
        raise ValueError(f"a box of an unknown class '{name}'")
    texts = [item.findtext(f"bndbox/{corner}", "") for corner in _CORNERS]
    try:
        left, top, right, bottom = (round(float(text)) for text in texts)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"a box whose corners are not numbers ({', '.join(texts)})") from error
    xmin, xmax = (min(max(edge, 0), width) for edge in (left - 1, right))
    ymin, ymax = (min(max(edge, 0), height) for edge in (top - 1, bottom))
    if xmin >= xmax or ymin >= ymax:
        raise ValueError(f"a box without area inside the image ({', '.join(texts)})")
    return NamedBox(left=xmin, top=ymin, right=xmax, bottom=ymax, label=label)

"""What stages 01 and 02 write about the images: one row for each, and where all of them come from."""

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from metal_defects.config import SplitName
from metal_defects.records import Record

if TYPE_CHECKING:
    import numpy as np

SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")


def _read_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


class NamedBox(Record):
    """A rectangle that a person drew, and the class it shows.

    Attributes:
        left, top, right, bottom: edges in pixels of the source image; 0 <= left < right <= width, and likewise down.
    """

    left: int
    top: int
    right: int
    bottom: int
    label: str


class ManifestRow(Record):
    """An image that is used: a row of manifest.csv.

    Attributes:
        path: below the root of the source, with forward slashes.
        group: images of one group show one piece of surface: copies, overlaps, or names of one part.
        width, height: pixels, of the source image.
    """

    path: str
    label: str
    split: SplitName
    sha256: str
    group: str
    width: int
    height: int
    boxes: Annotated[tuple[NamedBox, ...], BeforeValidator(_read_json)]

    @property
    def box_shares(self) -> "np.ndarray":
        """Left, top, right, bottom of the boxes as shares of the image's sides, (n, 4)."""
        import numpy as np

        edges = np.array([(box.left, box.top, box.right, box.bottom) for box in self.boxes], float).reshape(-1, 4)
        shares: np.ndarray = edges / np.array([self.width, self.height] * 2, float)
        return shares

    @property
    def other_labels(self) -> tuple[str, ...]:
        """Classes of the boxes besides the image's own, sorted."""
        return tuple(sorted({box.label for box in self.boxes} - {self.label}))


class LeftOut(Record):
    """A file that is not used, and why: a row of quarantine.csv."""

    path: str
    reason: str
    detail: str


class OverlapRow(Record):
    """Two images that show one piece of surface: a row of overlaps.csv.

    Attributes:
        turn: quarter turns of the second image, counter-clockwise, as it lies on the first; from 4 it is mirrored left
            to right beforehand, and the turns are `turn` - 4.
        down, across: from the corner of the first image to that of the turned second, in pixels of the files.
        correlation: of the structure, in the direction in which it agrees least.
        shared: common area, as a share of the smaller image.
    """

    first: str
    second: str
    turn: int
    down: float
    across: float
    correlation: float
    shared: float


class ImageRow(Record):
    """A preprocessed image: a row of images.csv.

    Attributes:
        path: below the folder of stage 02.
        sha256: of its pixels.
        source: path in the manifest.
        group: its piece of surface, as in the manifest.
    """

    path: str
    label: str
    split: SplitName
    sha256: str
    source: str
    group: str


class DataCard(Record):
    """What every result says about its data: how it was found, and the sentence that must not be lost."""

    kind: str
    notice: str | None


class Attempt(Record):
    """A source that was tried, and what came of it."""

    source: str
    outcome: str


class SourceCard(Record):
    """source.json: where the images of a run come from."""

    kind: str
    root: str
    layout: str
    classes: tuple[str, ...]
    notice: str | None
    attempts: tuple[Attempt, ...]

    @property
    def card(self) -> DataCard:
        """What later results repeat of it."""
        return DataCard(kind=self.kind, notice=self.notice)

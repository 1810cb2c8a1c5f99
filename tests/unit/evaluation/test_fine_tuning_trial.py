"""What the cells of the fine-tuned network learn from boxes."""

import numpy as np

from metal_defects.data.manifest import ManifestRow, NamedBox
from metal_defects.data.snapshots import ClassLabels
from metal_defects.evaluation.fine_tuning_trial import cover_classes


def test_cells_are_covered_where_the_square_shows_what_the_boxes_hold() -> None:
    known = {"split": "train", "sha256": "", "group": "a", "width": 64, "height": 32}
    box = NamedBox(left=0, top=8, right=32, bottom=16, label="Dent")
    rows = [
        ManifestRow(path="a", label="Dent", boxes=(box,), **known),
        ManifestRow(path="b", label="Dent", boxes=(), **known),
        ManifestRow(path="c", label="Good", boxes=(), **known),
    ]
    boxed = cover_classes(rows, ClassLabels(classes=("Dent", "Good"), image_size=64, fit="letterbox"), 8)
    expected = np.zeros((8, 8))
    expected[3, :4] = expected[0, :4] = 1  # the box, and its mirror image beyond the upper edge
    assert np.array_equal(boxed[0, :, :, 0], expected) and not boxed[0, :, :, 1].any()
    assert np.isnan(boxed[1]).all() and not boxed[2].any()
    stretched = cover_classes(rows, ClassLabels(classes=("Dent", "Good"), image_size=64, fit="stretch"), 8)
    assert np.argwhere(stretched[0, :, 0, 0]).ravel().tolist() == [2, 3]

"""What a locator is worth on held-out images, beside what a guess would score there."""

from collections.abc import Sequence

import numpy as np

from metal_defects.trust.locator import Locator
from metal_defects.trust.locator_scores import Baselines, LocatorFindings, draw_centre, score_maps, share_of_area
from metal_defects.trust.locator_thresholds import choose_threshold


def judge_locator(
    locator: Locator,
    heat_maps: np.ndarray,
    grad_cam: np.ndarray,
    train: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
) -> LocatorFindings | None:
    """Scores on held-out images beside baselines; None where no held-out image has a box.

    Args:
        locator: that drew the heat maps.
        heat_maps: of the held-out images.
        grad_cam: of the training images, then of the held-out ones; the baselines' thresholds, like the locator's own,
            are chosen on training images.
        train, held_out: their boxes, left, top, right, bottom as shares of the sides, (n, 4) each.
    """
    rows = np.flatnonzero([len(boxes) > 0 for boxes in held_out])
    known = np.flatnonzero([len(boxes) > 0 for boxes in train])
    if not len(rows) or not len(known):
        return None
    boxes, known_boxes = [held_out[row] for row in rows.tolist()], [train[row] for row in known.tolist()]
    cells = heat_maps.shape[1]
    centre_threshold = choose_threshold(draw_centre(len(known), cells), known_boxes)
    cam_threshold = choose_threshold(grad_cam[known], known_boxes)
    return LocatorFindings(
        kind=locator.kind,
        trained_on=locator.images,
        scores=score_maps(heat_maps[rows], boxes, locator.threshold, locator.box_threshold),
        baselines=Baselines(
            centre=score_maps(draw_centre(len(rows), cells), boxes, centre_threshold),
            grad_cam=score_maps(grad_cam[len(train) + rows], boxes, cam_threshold),
            share_of_area=share_of_area(boxes),
        ),
    )

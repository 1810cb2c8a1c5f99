"""Parts of evaluation.json that say in plain values what was found of the folds, the guard and the locator."""

from typing import Any

import numpy as np

from metal_defects.evaluation.cross_validation import OutOfFold, find_label_suspects, summarise
from metal_defects.evaluation.tuned_run import Split, Subject
from metal_defects.trust.guard import Guard
from metal_defects.trust.locator import Locator, choose_threshold
from metal_defects.trust.locator_scores import draw_centre, score_maps, share_of_area


def describe_folds(subject: Subject, judged: Split, found: OutOfFold) -> dict[str, Any]:
    """Accuracy, every image ever misjudged with its picture and other boxes, and labels that may be wrong.

    Args:
        subject: the tuned model.
        judged: the images.
        found: answers to them out of fold.
    """
    summary = summarise(found, judged.sources, subject.classes)
    places = {source: index for index, source in enumerate(judged.sources)}
    for row in summary["misjudged"]:
        index = places[row["source"]]
        row["picture"] = judged.pictures[index]
        row["other_boxes"] = sorted(set(judged.box_classes[index]) - {row["true"]})
    mean = found.mean_probabilities
    summary["suspects"] = [
        {
            "source": judged.sources[index],
            "picture": judged.pictures[index],
            "label": subject.classes[found.labels[index]],
            "suggested": subject.classes[int(mean[index].argmax())],
            "confidence": float(mean[index].max()),
        }
        for index in find_label_suspects(found.labels, mean)
    ]
    return summary


def describe_guard(guard: Guard, held_out: np.ndarray) -> dict[str, Any]:
    """How many known surfaces pass, and the distances below which 5, 50, 95 and 100 % of them lie.

    Args:
        guard: that was fitted.
        held_out: distances of images that it was not fitted to, (images,).
    """
    seen = guard.out_of_fold[np.isfinite(guard.out_of_fold)]
    return {
        "taps": list(guard.taps),
        "acceptance": guard.acceptance,
        "accepted_out_of_fold": float((seen <= 1).mean()) if len(seen) else None,
        "accepted_held_out": float((held_out <= 1).mean()),
        "distances": {
            "out_of_fold": np.quantile(seen, [0.05, 0.5, 0.95, 1.0]).tolist() if len(seen) else None,
            "held_out": np.quantile(held_out, [0.05, 0.5, 0.95, 1.0]).tolist(),
        },
    }


def score_locator(
    heat_maps: np.ndarray,
    grad_cam: np.ndarray,
    train: list[np.ndarray],
    held_out: list[np.ndarray],
    locator: Locator,
) -> dict[str, Any] | None:
    """Scores on held-out images beside baselines; None where no held-out image has a box.

    Args:
        heat_maps: of the held-out images.
        grad_cam: of the training images, then of the held-out ones; the baselines' thresholds, like the locator's own,
            are chosen on training images.
        train, held_out: their boxes, left, top, right, bottom as shares of the sides, (n, 4) each.
        locator: that drew the heat maps.
    """
    rows = np.flatnonzero([len(boxes) > 0 for boxes in held_out])
    known = np.flatnonzero([len(boxes) > 0 for boxes in train])
    if not len(rows) or not len(known):
        return None
    boxes, known_boxes = [held_out[row] for row in rows], [train[row] for row in known]
    centre = draw_centre(len(known), heat_maps.shape[1])
    centre_threshold = choose_threshold(centre, known_boxes)
    cam_threshold = choose_threshold(grad_cam[known], known_boxes)
    return {
        "kind": locator.kind,
        "trained_on": locator.images,
        "scores": score_maps(heat_maps[rows], boxes, locator.threshold, locator.box_threshold),
        "baselines": {
            "centre": score_maps(draw_centre(len(rows), heat_maps.shape[1]), boxes, *[centre_threshold] * 2),
            "grad_cam": score_maps(grad_cam[len(train) + rows], boxes, *[cam_threshold] * 2),
            "share_of_area": share_of_area(boxes),
        },
    }

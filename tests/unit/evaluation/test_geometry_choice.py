"""The choice of fit and side: what is tried, what wins, and what is said of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from metal_defects.config import DataPreprocessingParams
from metal_defects.data.geometry import Candidate
from metal_defects.data.manifest import ManifestRow
from metal_defects.evaluation import geometry_choice
from metal_defects.evaluation.geometry_choice import (
    MOST_IMAGES,
    Answers,
    UnmeasurableError,
    choose_geometry,
    compare,
    draw_sample,
    list_candidates,
    measure_candidates,
)

SQUARE, WIDE = np.array([[200, 200]] * 20), np.array([[200, 200]] * 18 + [[250, 200]] * 2)
LARGE = np.array([[400, 400]] * 20)
STRETCH, LETTERBOX = Candidate(fit="stretch", image_size=224), Candidate(fit="letterbox", image_size=224)
LARGER = Candidate(fit="stretch", image_size=320)


def make_params(fit: str = "auto", image_size: int | str = "auto") -> DataPreprocessingParams:
    return DataPreprocessingParams(fit=fit, image_size=image_size, resize="bilinear")


def make_answers(*confidences: Sequence[float], groups: Sequence[int] | None = None) -> Answers:
    """Answers to images of two classes: the probability of the true one under every candidate."""
    count = len(confidences[0])
    labels = np.arange(count) % 2
    true = np.eye(2)[labels]
    shares = [np.where(true == 1, np.array(one)[:, None], 1 - np.array(one)[:, None]) for one in confidences]
    return Answers(labels, np.arange(count) if groups is None else np.array(groups), np.stack(shares), "a backbone")


def refuse(_candidates: Sequence[Candidate]) -> Answers:
    pytest.fail("nothing was to be measured")


@pytest.mark.parametrize(
    ("sizes", "params", "titles"),
    [
        (SQUARE, make_params(), ["stretch at 224 px"]),
        (np.array([[224, 200]] * 9), make_params(), ["stretch at 224 px"]),
        (np.concatenate([SQUARE, [[300, 200]]]), make_params(), ["stretch at 224 px"]),
        (WIDE, make_params(), ["stretch at 224 px", "letterbox at 224 px"]),
        (WIDE[:, ::-1], make_params(), ["stretch at 224 px", "letterbox at 224 px"]),
        (LARGE, make_params(), ["stretch at 224 px", "stretch at 320 px"]),
        (
            np.array([[400, 300]] * 5),
            make_params(),
            ["stretch at 224 px", "letterbox at 224 px", "stretch at 320 px", "letterbox at 320 px"],
        ),
        (WIDE, make_params(fit="letterbox"), ["letterbox at 224 px"]),
        (SQUARE, make_params(fit="letterbox", image_size=448), ["letterbox at 448 px"]),
        (WIDE, make_params(image_size=64), ["stretch at 64 px", "letterbox at 64 px"]),
        (LARGE, make_params(image_size=64), ["stretch at 64 px"]),
    ],
)
def test_only_what_can_matter_is_tried(sizes: np.ndarray, params: DataPreprocessingParams, titles: list[str]) -> None:
    assert [one.title for one in list_candidates(sizes, params)] == titles


@pytest.mark.parametrize(
    ("sizes", "params", "reason"),
    [
        (SQUARE, make_params(), "0 % of the training images are far from square (beyond 1.15 : 1), and the median"),
        (SQUARE, make_params(image_size=96), "image_size is set to 96 px: there was nothing to choose."),
        (WIDE, make_params(fit="letterbox"), "Fit is set to letterbox, and the median of their longer sides, 200 px"),
    ],
)
def test_where_there_is_no_choice_nothing_is_measured(
    sizes: np.ndarray, params: DataPreprocessingParams, reason: str
) -> None:
    chosen = choose_geometry(sizes, params, refuse)
    assert reason in chosen.reason
    assert (chosen.images, chosen.backbone, chosen.candidates) == (0, None, ())


def test_without_a_measurement_the_simplest_is_taken_and_the_reason_is_told() -> None:
    def fail(_candidates: Sequence[Candidate]) -> Answers:
        raise UnmeasurableError("no pretrained weights are at hand")

    chosen = choose_geometry(WIDE, make_params(), fail)
    assert (chosen.fit, chosen.image_size, chosen.images) == ("stretch", 224, 0)
    assert "without a measurement, because no pretrained weights are at hand" in chosen.reason
    assert "letterbox at 224 px" in chosen.reason


def test_a_clear_gain_wins_and_its_figures_are_right() -> None:
    worse, better = [0.5, 0.6] * 20, [0.9, 0.8] * 20
    chosen = compare([STRETCH, LETTERBOX], make_answers(worse, better))
    assert (chosen.fit, chosen.images, chosen.backbone) == ("letterbox", 40, "a backbone")
    first, second = chosen.candidates
    losses = -np.log([worse, better])
    gaps = losses[0] - losses[1]
    assert first.log_loss == pytest.approx(losses[0].mean(), abs=1e-4) and second.difference == 0
    assert first.difference == pytest.approx(gaps.mean(), abs=1e-4)
    assert first.standard_error == pytest.approx(gaps.std(ddof=1) / np.sqrt(40), abs=1e-4)
    assert first.accuracy == 1.0 and "has the lowest log loss" in chosen.reason and "more" in chosen.reason


def test_a_gain_within_one_standard_error_does_not_pay_for_the_larger_square() -> None:
    usual, larger = [0.8] * 40, [0.68, 0.68, 0.97, 0.97] * 10
    chosen = compare([STRETCH, LARGER], make_answers(usual, larger))
    assert chosen.candidates[1].difference == 0 < chosen.candidates[0].difference
    assert chosen.title == STRETCH.title and "within one standard error" in chosen.reason
    assert chosen.candidates[1].relative_cost == pytest.approx(2.04)


def test_copies_count_once_in_the_standard_error() -> None:
    worse, better = np.tile([0.60, 0.70, 0.64, 0.75], 10), np.tile([0.66, 0.66, 0.70, 0.73], 10)
    alone = compare([STRETCH, LETTERBOX], make_answers(worse, better))
    copies = compare([STRETCH, LETTERBOX], make_answers(worse, better, groups=np.tile(range(4), 10)))
    assert alone.fit == "letterbox" and copies.fit == "stretch"
    assert copies.candidates[0].standard_error > 3 * alone.candidates[0].standard_error


def make_rows(counts: dict[str, int], groups: int = 0) -> list[ManifestRow]:
    known = {"split": "train", "sha256": "", "width": 1, "height": 1, "boxes": ()}
    return [
        ManifestRow(path=f"{label}/{n}", label=label, group=f"{label}/{n % groups if groups else n}", **known)
        for label, count in counts.items()
        for n in range(count)
    ]


def test_the_sample_keeps_the_shares_and_some_of_every_class() -> None:
    rows = make_rows({"good": 3000, "dent": 1000, "rare": 10})
    sample = draw_sample(rows, 0)
    counts = {label: sum(row.label == label for row in sample) for label in ("good", "dent", "rare")}
    assert len(sample) == len({row.path for row in sample}) == MOST_IMAGES
    assert counts["rare"] >= 8 and 2.5 < counts["good"] / counts["dent"] < 3.2
    assert sample == draw_sample(rows, 0) != draw_sample(rows, 1)


def test_the_sample_leaves_out_classes_that_nothing_can_be_judged_by() -> None:
    rows = make_rows({"good": 20, "dent": 5}) + make_rows({"copies": 9}, groups=1)
    assert {row.label for row in draw_sample(rows, 0)} == {"good", "dent"}
    assert len(draw_sample(make_rows({f"class {n}": 9 for n in range(100)}), 0)) == MOST_IMAGES


def test_without_weights_or_classes_nothing_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(rows: list[ManifestRow]) -> Answers:
        return measure_candidates([STRETCH], rows, lambda *_: pytest.fail("read"), tmp_path, tmp_path, 0)

    with (
        monkeypatch.context() as patch,
        pytest.raises(UnmeasurableError, match="EfficientNet-Lite0 are not at hand"),
    ):
        patch.setattr(geometry_choice, "locate_weights", lambda *_: None)
        measure(make_rows({"good": 9, "dent": 9}))
    monkeypatch.setattr(geometry_choice, "locate_weights", lambda *_: tmp_path)
    monkeypatch.setattr(geometry_choice, "find_weights", lambda *_, **__: tmp_path)
    with pytest.raises(UnmeasurableError, match="fewer than two classes"):
        measure(make_rows({"good": 9, "dent": 1}))

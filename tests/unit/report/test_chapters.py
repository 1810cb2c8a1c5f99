"""What chapters list and count."""

from pathlib import Path

from support.evaluations import CLASSES, COUNT, EVIL, SOURCES, WRONG, make_metrics
from support.findings import make_findings

from metal_defects.report.chapters import count_images, group_mixed, list_confusions, list_misjudged


def test_images_and_boxes_are_counted_by_class(tmp_path: Path) -> None:
    assert count_images(make_findings(tmp_path)) == [
        ("Crazing", 20, 0, 0, 0),
        (EVIL, 20, 0, 0, COUNT),
        ("all", COUNT, 0, 0, COUNT),
    ]


def test_images_with_boxes_of_another_class_are_grouped(tmp_path: Path) -> None:
    ((label, others, count, names),) = group_mixed(make_findings(tmp_path))
    assert (label, others, count) == ("Crazing", EVIL, COUNT // 2)
    assert Path(SOURCES[0]).name in names and Path(SOURCES[1]).name not in names


def test_confusions_start_with_the_commonest() -> None:
    matrix = ((5, 1, 2), (0, 5, 0), (3, 0, 5))
    metrics = make_metrics().model_copy(update={"class_names": ("a", "b", "c"), "confusion_matrix": matrix})
    assert list_confusions(metrics) == [("c", "a", 3), ("a", "c", 2), ("a", "b", 1)]


def test_misjudged_images_come_with_the_answers_that_were_given(tmp_path: Path) -> None:
    cases = list_misjudged(make_findings(tmp_path))
    assert [case.where for case in cases] == ["cross-validation, 2 times", "test", "validation"]
    for case in cases:
        assert (case.source, case.true, case.predicted) == (SOURCES[WRONG], EVIL, "Crazing")
        assert case.picture == tmp_path / "02_data_preprocessing" / f"{WRONG}.png"
        assert [name for name, _ in case.shares] == list(CLASSES)
        assert [round(share, 6) for _, share in case.shares] == [0.9, 0.1]

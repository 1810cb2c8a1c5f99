"""The advice of the first page: every rule fires on what it is for, none on a healthy set, and the words are right."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evaluations import make_evaluation
from support.findings import make_findings, make_validation

from metal_defects.data.manifest import ManifestRow, NamedBox
from metal_defects.data.validation import CopiesCheck, LabelsCheck
from metal_defects.evaluation.fold_errors import Misjudged, Suspect
from metal_defects.evaluation.learning_curve import CurvePoint
from metal_defects.metrics import Metrics, classification_metrics, share
from metal_defects.report.advice import MOST, RULES, list_advice
from metal_defects.report.advice_parts import Advice, join_names
from metal_defects.report.document import write_report
from metal_defects.report.findings import Findings

NAMES = ("Crack", "Dent", "Stain")
PER_CLASS, SIDE = 100, 200
BIG = (20, 20, 120, 120)


def judge(wrong: dict[tuple[int, int], int], counts: Sequence[int] = (PER_CLASS,) * 3) -> Metrics:
    """Metrics of as many images of each class; `wrong` counts those of (true, answered)."""
    labels = np.repeat(np.arange(3), counts)
    answers = labels.copy()
    for (true, answered), count in wrong.items():
        answers[np.flatnonzero(labels == true)[:count]] = answered
    return classification_metrics(labels, np.eye(3)[answers] * 0.7 + 0.1, NAMES)


def list_rows(
    counts: Sequence[int] = (PER_CLASS,) * 3,
    box: tuple[int, int, int, int] | None = BIG,
    size: Callable[[int, int], tuple[int, int]] = lambda _label, _number: (SIDE, SIDE),
) -> tuple[ManifestRow, ...]:
    """Training images of each class; `size` gives width and height by class and number."""
    edges = dict(zip(("left", "top", "right", "bottom"), box or (), strict=False))
    shared: dict[str, Any] = {"split": "train", "sha256": "0"}
    return tuple(
        ManifestRow(
            path=(path := f"{name}/{number}.png"),
            label=name,
            group=path,
            width=size(label, number)[0],
            height=size(label, number)[1],
            boxes=(NamedBox(**edges, label=name),) if box else (),
            **shared,
        )
        for label, (name, count) in enumerate(zip(NAMES, counts, strict=True))
        for number in range(count)
    )


def make_curve(before: float, after: float) -> tuple[CurvePoint, ...]:
    def point(size: int | None, images: int, right: float) -> CurvePoint:
        score = share(round(1000 * right), 1000)
        return CurvePoint(per_class=size, images=images, draws=3, accuracy=score, lowest=right, highest=right)

    return point(20, 60, before), point(None, 240, after)


def suspect(number: int, confidence: float) -> Suspect:
    return Suspect(source=f"Crack/{number}.png", picture="", label="Crack", suggested="Dent", confidence=confidence)


def misjudge(number: int, *others: str) -> Misjudged:
    return Misjudged(
        source=f"Crack/{number}.png", true="Crack", predicted="Dent", confidence=0.9, probabilities={"Dent": 0.9},
        times=1, picture="", other_boxes=others,
    )  # fmt: skip


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """300 images of three classes with large boxes, 299 of them named rightly, and nothing else to complain of."""
    found = make_findings(tmp_path_factory.mktemp("healthy"))
    bundle = found.bundle.model_copy(update={"input": found.bundle.input.model_copy(update={"image_size": 224})})
    gap = found.evaluation.calibration
    evaluation = make_evaluation(
        classes=NAMES,
        calibration=gap.model_copy(update={"images": 300}),
        robustness=found.evaluation.robustness.model_copy(
            update={"accuracy": {"blur": (share(39, 40),), "gaussian_noise": (share(38, 40),)}}
        ),
        learning_curve=make_curve(0.99, 0.995),
    )
    validation = make_validation(copies=CopiesCheck(status="ok", message="None."))
    found = replace(found, bundle=bundle, evaluation=evaluation, validation=validation, manifest=list_rows())
    return with_metrics(found, judge({(0, 1): 1}))


def with_evaluation(found: Findings, **parts: Any) -> Findings:
    return replace(found, evaluation=found.evaluation.model_copy(update=parts))


def with_cross_validation(found: Findings, **parts: Any) -> Findings:
    judged = found.evaluation.cross_validation
    return with_evaluation(found, cross_validation=judged.model_copy(update=parts))


def with_metrics(found: Findings, metrics: Metrics) -> Findings:
    return with_cross_validation(found, metrics=metrics, suspects=(suspect(0, 0.95),), misjudged=(misjudge(0),))


def with_validation(found: Findings, **parts: Any) -> Findings:
    return replace(found, validation=found.validation.model_copy(update=parts))


def with_guard(found: Findings, passed: int) -> Findings:
    return with_evaluation(
        found, guard=found.evaluation.guard.model_copy(update={"accepted_held_out": share(passed, 200)})
    )


def with_gap(found: Findings, low: float) -> Findings:
    calibration = found.evaluation.calibration
    ece = calibration.after.ece.model_copy(update={"value": low + 0.01, "low": low, "high": low + 0.02})
    after = calibration.after.model_copy(update={"ece": ece})
    return with_evaluation(found, calibration=calibration.model_copy(update={"after": after}))


def with_verdicts(found: Findings, wrong: int) -> Findings:
    verdicts = found.evaluation.verdicts
    promised = verdicts.test.model_copy(update={"accept": 300, "wrong_accept": 0})
    test = verdicts.test.model_copy(update={"accept": 200, "wrong_accept": wrong})
    return with_evaluation(found, verdicts=verdicts.model_copy(update={"out_of_fold": promised, "test": test}))


def with_noise(found: Findings, right: int) -> Findings:
    accuracy = {"blur": (share(39, 40),), "gaussian_noise": (share(right, 40),)}
    return with_evaluation(found, robustness=found.evaluation.robustness.model_copy(update={"accuracy": accuracy}))


def with_copies(found: Findings, surplus: int) -> Findings:
    groups = (tuple(row.path for row in found.manifest[: surplus + 1]),)
    return with_validation(found, copies=CopiesCheck(status="warn", message="Copies.", groups=groups))


def with_dropped(found: Findings, dropped: int) -> Findings:
    return with_validation(found, split=found.validation.split.model_copy(update={"dropped_copies": dropped}))


ERRORS = judge({(0, 1): 4, (1, 2): 4, (2, 0): 4})
RARE = judge({(2, 0): 2}, (200, 100, 8))
DISPUTED = LabelsCheck(status="warn", message="One.", disputed=({"a.png": "Crack", "b.png": "Dent"},))

# What limits, findings for which it does, figures that must be told, and findings for which it just does not.
CASES: dict[str, tuple[Callable[[Findings], Findings], tuple[str, ...], Callable[[Findings], Findings]]] = {
    "Too few images of Stain.": (
        lambda found: with_metrics(replace(found, manifest=list_rows((200, 100, 8))), RARE),
        ("Stain 8 (found in 75 of 100)", "the largest class has 200"),
        lambda found: replace(found, manifest=list_rows((200, 100, 30))),
    ),
    "More labelled images would still help.": (
        lambda found: with_evaluation(found, learning_curve=make_curve(0.93, 0.96)),
        ("93 of 100 right with 60 images, 96 with 240: 1.5 points", "first of Crack: found in 99 of 100, 100 training"),
        lambda found: with_evaluation(found, learning_curve=make_curve(0.953, 0.962)),
    ),
    "Labels contradict one another.": (
        lambda found: with_cross_validation(found, suspects=tuple(suspect(n, 0.92) for n in range(6))),
        ("6 of 300, most often Crack that looks like Dent (6)",),
        lambda found: with_cross_validation(found, suspects=tuple(suspect(n, 0.8) for n in range(60))),
    ),
    "The same picture stands under two labels.": (
        lambda found: with_validation(found, labels=DISPUTED),
        ("under more than one label: 1. First: a.png (Crack) and b.png (Dent)",),
        lambda found: found,
    ),
    "Crack and Dent are mixed up.": (
        lambda found: with_metrics(found, judge({(0, 1): 6, (1, 0): 3, (2, 0): 1})),
        ("Crack called Dent: 6; Dent called Crack: 3; together 9 of 10 errors", "99.7 of 100 would then be right"),
        lambda found: with_metrics(found, judge({(0, 1): 4})),
    ),
    "Images that show two defects have one label.": (
        lambda found: with_cross_validation(found, misjudged=tuple(misjudge(n, "Dent") for n in range(4))),
        ("another class than their label: 4 of 4",),
        lambda found: with_cross_validation(found, misjudged=tuple(misjudge(n) for n in range(20))),
    ),
    "The defects are small for the input size.": (
        lambda found: with_metrics(replace(found, manifest=list_rows(box=(0, 0, 10, 10))), ERRORS),
        ("covers 0.25 % of it in the median of 300 images: 11 × 11 of the model's 224 × 224 pixels",),
        lambda found: with_metrics(replace(found, manifest=list_rows(box=(0, 0, 44, 44))), ERRORS),
    ),
    "Fine detail is lost where the images are shrunk.": (
        lambda found: with_metrics(replace(found, manifest=list_rows(size=lambda *_: (900, 900))), ERRORS),
        ("in the median: 900 px; the model sees 224 × 224",),
        lambda found: with_metrics(replace(found, manifest=list_rows(size=lambda *_: (440, 440))), ERRORS),
    ),
    "The images hold less detail than the model could use.": (
        lambda found: with_metrics(replace(found, manifest=list_rows(box=None, size=lambda *_: (64, 64))), ERRORS),
        ("in the median: 64 px; the model sees 224 × 224",),
        lambda found: with_metrics(replace(found, manifest=list_rows(box=None, size=lambda *_: (128, 128))), ERRORS),
    ),
    "The size of an image tells its class.": (
        lambda found: replace(found, manifest=list_rows(size=lambda label, _: (200 + 100 * label, 200))),
        ("By width and height alone 100 of 100", "would give 33.3"),
        lambda found: replace(found, manifest=list_rows(size=lambda _, number: (200 + 100 * (number % 3), 200))),
    ),
    "Held-out images look unlike the training images.": (
        lambda found: with_guard(found, 170),
        ("lets 85 of 100 held-out images pass, 99 of 100 were promised",),
        lambda found: with_guard(found, 193),
    ),
    "Slight gaussian noise misleads it.": (
        lambda found: with_noise(found, 20),
        ("97.5 of 100 held-out images right as they are, 50 with gaussian noise of 50 dB SNR",),
        lambda found: with_noise(found, 36),
    ),
    "Many images are copies of others.": (
        lambda found: with_copies(found, 60),
        ("Of 300 images 240 are different ones",),
        lambda found: with_copies(found, 20),
    ),
    "The split of the folders leaks.": (
        lambda found: with_dropped(found, 1),
        ("on the other side of the split: 1; they were left out",),
        lambda found: found,
    ),
    "The same picture may be on both sides of the split.": (
        lambda found: with_validation(found, copies=CopiesCheck(status="warn", message="Copies were not looked for.")),
        ("Copies were not looked for.",),
        lambda found: found,
    ),
    "The test contradicts the cross-validation.": (
        lambda found: with_verdicts(found, 9),
        ("cross-validation 0 of 300, test 9 of 200",),
        lambda found: with_verdicts(found, 4),
    ),
    "The confidence is no probability.": (
        lambda found: with_gap(found, 0.03),
        ("4.0 points, at least 3.0, on 300 images",),
        lambda found: with_gap(found, 0.015),
    ),
}


def test_healthy_set_gets_no_advice(healthy: Findings) -> None:
    assert list_advice(healthy) == ()


@pytest.mark.parametrize("limit", CASES)
def test_rule_fires_with_its_figures(healthy: Findings, limit: str) -> None:
    advice = {one.limit: one for one in list_advice(CASES[limit][0](healthy))}
    assert limit in advice, list(advice)
    for figure in CASES[limit][1]:
        assert figure in f"{advice[limit].figures} {advice[limit].action}", advice[limit]
    assert 0 < advice[limit].stake <= 1


@pytest.mark.parametrize("limit", CASES)
def test_rule_keeps_quiet_below_its_threshold(healthy: Findings, limit: str) -> None:
    assert limit not in {one.limit for one in list_advice(CASES[limit][2](healthy))}


def test_every_rule_has_a_case(healthy: Findings) -> None:
    fired = {
        rule
        for change, _, _ in CASES.values()
        for rule in RULES
        if rule(changed := change(healthy), changed.out_of_fold)
    }
    assert fired == set(RULES)


def test_errors_are_needed_before_pictures_are_blamed(healthy: Findings) -> None:
    assert list_advice(replace(healthy, manifest=list_rows(box=(0, 0, 10, 10), size=lambda *_: (900, 900)))) == ()


def test_rare_class_that_is_missed_is_named_though_it_has_images(healthy: Findings) -> None:
    counts = (900, 450, 60)
    found = with_metrics(replace(healthy, manifest=list_rows(counts)), judge({(2, 0): 20}, counts))
    assert "Stain 60 (found in 66.7 of 100)" in list_advice(found)[0].figures
    assert list_advice(with_metrics(found, judge({(2, 0): 1}, counts))) == ()


def test_two_classes_are_never_called_a_mixed_up_pair(healthy: Findings) -> None:
    labels = np.arange(200) % 2
    metrics = classification_metrics(labels, np.full((200, 2), 0.5), NAMES[:2])
    assert all("mixed up" not in one.limit for one in list_advice(with_metrics(healthy, metrics)))


@settings(max_examples=20, deadline=None)
@given(widths=st.lists(st.integers(32, 4000), min_size=PER_CLASS, max_size=PER_CLASS))
def test_sizes_that_have_nothing_to_do_with_the_class_are_no_shortcut(healthy: Findings, widths: list[int]) -> None:
    # Sizes by number alone, which runs through every class alike.
    found = replace(healthy, manifest=list_rows(size=lambda _, number: (widths[number], 200)))
    assert all("tells its class" not in one.limit for one in list_advice(found))


def test_most_helpful_comes_first_and_the_list_is_short(healthy: Findings) -> None:
    found = with_guard(with_gap(with_dropped(healthy, 3), 0.03), 100)
    found = with_evaluation(found, learning_curve=make_curve(0.6, 0.8))
    found = replace(found, manifest=list_rows(size=lambda label, _: (200 + 100 * label, 200)))
    found = with_cross_validation(found, suspects=tuple(suspect(n, 0.95) for n in range(30)))
    advice = list_advice(found)
    assert len(advice) == MOST
    assert advice[0].limit == "The size of an image tells its class."
    stakes = [one.stake for one in advice]
    assert stakes == sorted(stakes, reverse=True)


def test_words_are_right_for_one_and_for_many(healthy: Findings) -> None:
    said = [one for change, _, _ in CASES.values() for one in list_advice(change(healthy))]
    for one in said:
        text = f"{one.limit} {one.figures} {one.action}"
        assert not re.search(r"(?<![\d,.:/] )\b1 (?!of\b)[a-z]+s\b|\b1 (are|were|have)\b", text), text
        assert "  " not in text and "None" not in text and "nan" not in text, text
        assert one.limit.endswith(".") and one.figures[-1] in ".”" and one.action[-1] in ".”)", text


def test_names_are_joined_as_people_do() -> None:
    assert [join_names(list("ABCDEFG")[:count]) for count in (1, 2, 4, 5, 7)] == [
        "A", "A and B", "A, B, C and D", "A, B, C and 2 more", "A, B, C and 4 more",
    ]  # fmt: skip


def test_report_and_card_tell_it_before_the_limits_of_use(healthy: Findings, tmp_path: Path) -> None:
    found = make_findings(tmp_path)
    write_report(found, tmp_path)
    page, card = ((tmp_path / name).read_text("utf-8") for name in ("report.html", "model_card.md"))
    advice: tuple[Advice, ...] = list_advice(found)
    assert advice
    places = [page.index(part) for part in ('id="advice"', advice[0].limit.split("<")[0], 'id="limits"', "<nav>")]
    assert places == sorted(places)
    assert card.index("1. **") < card.index("Limits of use:")
    assert "<script" not in card


def test_one_sentence_where_nothing_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metal_defects.report.first_page.list_advice", lambda _found: ())
    write_report(make_findings(tmp_path), tmp_path)
    for name in ("report.html", "model_card.md"):
        assert (tmp_path / name).read_text("utf-8").count("Nothing that was measured limits this data set.") == 1

"""Scoring on another mill's images: the mapping of classes, and what counts as a silent error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metal_defects.errors import UserError
from metal_defects.evaluation.external import judge, read_mapping, summarise
from metal_defects.inference.answer import Failure, Prediction

OURS = ("Inclusion", "Rolled", "Scratches")
THEIRS = ("slag inclusion", "red iron", "Scratches")
MAPPING = {"slag inclusion": "Inclusion", "red iron": None, "Scratches": "Scratches"}


def answer(label: str, verdict: str | None = "accept") -> Prediction:
    return Prediction(
        name="a.png",
        label=label,
        confidence=0.9,
        probabilities=dict.fromkeys(OURS, 0.3),
        milliseconds=1.0,
        verdict=verdict,
    )


def test_mapping_heeds_equal_names_and_spellings() -> None:
    assert read_mapping(["Slag_Inclusion=inclusion"], THEIRS, OURS) == MAPPING


@pytest.mark.parametrize("text", ["slag inclusion", "slag inclusion=Rust", "rust=Inclusion", "=", ""])
def test_mapping_to_nothing_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--map must be"):
        read_mapping([text], THEIRS, OURS)


def test_wrong_or_unknown_and_accepted_is_a_silent_error() -> None:
    answers = [
        ("slag inclusion", answer("Inclusion")), ("slag inclusion", answer("Rolled")),
        ("slag inclusion", answer("Rolled", "review")), ("red iron", answer("Rolled")),
        ("red iron", answer("Rolled", "unknown")), ("Scratches", answer("Scratches", "review")),
        ("Scratches", Failure.of("b.png", "empty", "Nothing.")),
    ]  # fmt: skip
    judged, failures = judge(answers, MAPPING)
    summary = summarise(judged)
    assert [failure.name for failure in failures] == ["b.png"]
    assert summary.accuracy.value == 2 / 4
    assert summary.accuracy_of_accepted.value == 1 / 2
    assert summary.known_flagged.value == 2 / 4
    assert summary.unknown_flagged.value == 1 / 2
    assert summary.silent_errors.value == 2 / 6
    assert summary.verdicts == {"accept": 3, "review": 2, "unknown": 1}
    assert [row.silent_errors for row in summary.classes] == [0, 1, 1]


def test_without_verdicts_every_answer_is_taken_at_its_word() -> None:
    judged, _ = judge([("red iron", answer("Rolled", None))], MAPPING)
    assert summarise(judged).silent_errors.value == 1


def test_nothing_readable_is_an_error() -> None:
    with pytest.raises(UserError, match="None of the images"):
        summarise([])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(THEIRS), st.sampled_from(OURS), st.sampled_from([None, "accept", "review", "unknown"])
        ),
        min_size=1,
    )
)
def test_shares_agree_with_the_classes(rows: list[tuple[str, str, str | None]]) -> None:
    judged, _ = judge([(theirs, answer(label, verdict)) for theirs, label, verdict in rows], MAPPING)
    summary = summarise(judged)
    silent = sum(row.silent_errors for row in summary.classes)
    assert summary.silent_errors.value == pytest.approx(silent / len(rows))
    assert sum(row.images for row in summary.classes) == summary.images == len(rows)
    assert summary.silent_errors.low <= summary.silent_errors.value <= summary.silent_errors.high

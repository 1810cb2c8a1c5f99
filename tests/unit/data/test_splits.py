"""Splits: copies stay together, counts are exact, nothing gets lost, seeds repeat."""

from collections import Counter, defaultdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import PROJECT

from metal_defects.config import DataIngestionParams, SplitSizes, load_settings
from metal_defects.data.splits import SPLITS, Assignment, Item, assign_splits
from metal_defects.errors import DataError

PARAMS = load_settings(PROJECT, environment={}).params.data_ingestion


def params(split: SplitSizes | str = "auto", valid_share: float = 0.1) -> DataIngestionParams:
    return PARAMS.model_copy(update={"split": split, "valid_share_of_train": valid_share})


def make_items(counts: dict[str, int], split: str | None = None) -> list[Item]:
    return [
        Item(path := f"{split or ''}{label}/{number:04}.png", label, path, split)
        for label, count in counts.items()
        for number in range(count)
    ]


def count_images(items: list[Item], assignment: Assignment) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        if item.path in assignment.splits:
            counts[item.label][assignment.splits[item.path]] += 1
    return {label: dict(count) for label, count in counts.items()}


def sides_of_groups(items: list[Item], assignment: Assignment) -> dict[str, set[str]]:
    sides = defaultdict(set)
    for item in items:
        if item.path in assignment.splits:
            sides[item.group].add(assignment.splits[item.path])
    return sides


@st.composite
def grouped_items(draw: st.DrawFn) -> list[Item]:
    """Two to five classes, most images alone, some in pairs or threes, some of those across classes."""
    items = make_items(draw(st.dictionaries(st.sampled_from("ABCDE"), st.integers(20, 60), min_size=2)))
    rng = Random(draw(st.integers(0, 999)))
    rng.shuffle(items)
    grouped, start = [], 0
    for size in draw(st.lists(st.integers(2, 3), max_size=6)):
        grouped += [Item(item.path, item.label, items[start].path) for item in items[start : start + size]]
        start += size
    return grouped + items[start:]


@given(grouped_items(), st.integers(0, 99), st.floats(0.2, 0.7), st.floats(0, 0.15), st.floats(0.1, 0.15))
def test_every_drawn_split(items: list[Item], seed: int, train: float, valid: float, test: float) -> None:
    chosen = params(SplitSizes(train=train, valid=valid, test=test))
    assignment = assign_splits(items, chosen, seed)
    assert all(len(sides) == 1 for sides in sides_of_groups(items, assignment).values())
    assert sorted([*assignment.splits, *assignment.unused]) == sorted(item.path for item in items)
    assert not assignment.dropped
    totals = Counter(item.label for item in items)
    for label, counts in count_images(items, assignment).items():
        assert set(counts) == set(SPLITS)
        missed = 0 if not any("copies" in note for note in assignment.notes) else 6
        assert abs(counts["test"] - max(1, totals[label] * test)) <= 0.5 + 1e-6 + missed


@given(grouped_items(), st.integers(0, 99))
def test_shares_that_add_up_use_every_image_and_do_not_depend_on_order(items: list[Item], seed: int) -> None:
    first = assign_splits(items, params(), seed)
    assert first.unused == ()
    assert len(first.splits) == len(items)
    assert first == assign_splits(items[::-1], params(), seed)


@given(st.integers(3, 40), st.integers(2, 6))
def test_small_classes_are_in_every_split(count: int, classes: int) -> None:
    items = make_items({f"class {index}": count for index in range(classes)})
    for split in ("auto", SplitSizes(train=0.8, test=0.2)):
        for counts in count_images(items, assign_splits(items, params(split), 0)).values():
            assert set(counts) == set(SPLITS)


def test_neu_protocol() -> None:
    items = make_items(dict.fromkeys("ABCDEF", 300))
    items[5] = Item(items[5].path, "A", items[0].path)
    items[700] = Item(items[700].path, "C", items[701].path)
    assignment = assign_splits(items, params(), 42)
    counts = count_images(items, assignment)
    assert counts == {label: {"train": 276, "valid": 12, "test": 12} for label in "ABCDEF"}
    assert "276/12/12" in assignment.origin


def test_neu_protocol_survives_a_broken_file() -> None:
    items = make_items({"A": 300, "B": 298})
    counts = count_images(items, assign_splits(items, params(), 42, unreadable={"B": 2}))
    assert counts == {"A": {"train": 276, "valid": 12, "test": 12}, "B": {"train": 274, "valid": 12, "test": 12}}
    assert "80/5/15" in assign_splits(items, params(), 42).origin


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"train": 240, "test": 60}, {"train": 216, "valid": 24, "test": 60}),
        ({"train": 150, "test": 150}, {"train": 135, "valid": 15, "test": 150}),
        ({"train": 200, "valid": 50, "test": 50}, {"train": 200, "valid": 50, "test": 50}),
        ({"train": 0.8, "test": 0.2}, {"train": 216, "valid": 24, "test": 60}),
        ({"train": 0.7, "valid": 0.1, "test": 0.2}, {"train": 210, "valid": 30, "test": 60}),
        ({"train": 0.7, "test": 0.3}, {"train": 189, "valid": 21, "test": 90}),
    ],
)
def test_sizes(sizes: dict[str, float], expected: dict[str, int]) -> None:
    items = make_items({"A": 300, "B": 300})
    assignment = assign_splits(items, params(SplitSizes(**sizes)), 1)
    assert count_images(items, assignment) == {"A": expected, "B": expected}
    assert assignment.unused == ()


def test_counts_leave_the_rest_unused() -> None:
    items = make_items({"A": 30, "B": 50})
    assignment = assign_splits(items, params(SplitSizes(train=20, test=5), valid_share=0.25), 1)
    assert count_images(items, assignment)["B"] == {"train": 15, "valid": 5, "test": 5}
    assert len(assignment.unused) == 5 + 25


def test_counts_beyond_a_class_name_it() -> None:
    items = make_items({"A": 300, "B": 299})
    sizes = params(SplitSizes(train=240, test=60))
    with pytest.raises(DataError, match=r"asks for 300 images of each class\. Got 299 of 'B'"):
        assign_splits(items, sizes, 1)
    assignment = assign_splits(items, sizes, 1, unreadable={"B": 1})
    assert count_images(items, assignment)["B"] == {"train": 215, "valid": 24, "test": 60}


def test_another_seed_draws_another_split() -> None:
    items = make_items({"A": 50, "B": 50})
    assert assign_splits(items, params(), 1).splits != assign_splits(items, params(), 2).splits


def test_given_split_is_kept() -> None:
    items = [item for split in SPLITS for item in make_items({"A": 5, "B": 5}, split)]
    assignment = assign_splits(items, params(), 1)
    assert assignment.splits == {item.path: item.split for item in items}
    assert assignment.notes == ()


def test_given_validation_becomes_test_and_train_lends_a_validation_part() -> None:
    items = make_items({"A": 20, "B": 20}, "train") + make_items({"A": 4, "B": 4}, "valid")
    assignment = assign_splits(items, params(), 1)
    assert count_images(items, assignment)["A"] == {"train": 18, "valid": 2, "test": 4}
    assert all(assignment.splits[item.path] == "test" for item in items if item.split == "valid")
    assert any("became the TEST split" in note for note in assignment.notes)
    assert any("10 % of the given train" in note for note in assignment.notes)


def test_given_train_and_test_lend_a_validation_part() -> None:
    items = make_items({"A": 20, "B": 20}, "train") + make_items({"A": 4, "B": 4}, "test")
    assert count_images(items, assign_splits(items, params(), 1))["B"] == {"train": 18, "valid": 2, "test": 4}


def test_copies_across_a_given_split_stay_where_they_are_judged() -> None:
    items = [item for split in SPLITS for item in make_items({"A": 5, "B": 5}, split)]
    group = "testA/0000.png"
    copies = {"trainA/0001.png", "trainB/0002.png", "validA/0003.png"}
    items = [Item(item.path, item.label, group, item.split) if item.path in copies else item for item in items]
    items = [
        Item(item.path, item.label, "validB/0000.png", item.split) if item.path == "trainB/0004.png" else item
        for item in items
    ]
    assignment = assign_splits(items, params(), 1)
    assert assignment.dropped == dict.fromkeys(copies, "test") | {"trainB/0004.png": "valid"}
    assert assignment.splits[group] == "test"
    assert sorted([*assignment.splits, *assignment.dropped]) == sorted(item.path for item in items)
    assert any("3 of test and 1 of valid" in note for note in assignment.notes)


def test_sizes_override_a_given_split_and_say_so() -> None:
    items = [item for split in SPLITS for item in make_items({"A": 10, "B": 10}, split)]
    assignment = assign_splits(items, params(SplitSizes(train=0.5, test=0.5)), 1)
    assert count_images(items, assignment)["A"]["test"] == 15
    assert any("was not used" in note for note in assignment.notes)


def test_train_folder_alone_is_divided() -> None:
    items = make_items({"A": 20, "B": 20}, "train")
    assert count_images(items, assign_splits(items, params(), 1))["A"] == {"train": 16, "valid": 1, "test": 3}


def test_given_split_without_train() -> None:
    with pytest.raises(DataError, match=r"without a train folder. Got test, valid"):
        assign_splits(make_items({"A": 5}, "test") + make_items({"A": 5}, "valid"), params(), 1)


def test_large_group_that_fits_nowhere_is_told() -> None:
    items = [Item(f"A/{number}.png", "A", "A/0.png") for number in range(9)] + make_items({"B": 10})
    assignment = assign_splits(items, params(), 1)
    assert len({assignment.splits[item.path] for item in items if item.label == "A"}) == 1
    assert any("pieces stay whole" in note for note in assignment.notes)


@given(st.lists(st.integers(1, 40), min_size=4, max_size=12), st.integers(0, 9))
def test_every_side_gets_a_piece_where_there_are_enough(sizes: list[int], seed: int) -> None:
    items = [
        Item(f"A/{piece}_{number}", "A", f"A/{piece}_0") for piece, size in enumerate(sizes) for number in range(size)
    ] + make_items({"B": 20})
    assignment = assign_splits(items, params(), seed)
    assert set(count_images(items, assignment)["A"]) == set(SPLITS)
    assert all(len(sides) == 1 for sides in sides_of_groups(items, assignment).values())


def test_given_split_keeps_overlapping_images_and_tells_how_many() -> None:
    train, test = make_items({"A": 9, "B": 9}, "train"), make_items({"A": 3, "B": 3}, "test")
    piece = [Item(item.path, "A", train[0].path, item.split, item.path) for item in (*train[:5], *test[:2])]
    assignment = assign_splits([*piece, *train[5:], *test[2:]], params(), 1)
    assert assignment.dropped == {}
    assert {assignment.splits[item.path] for item in test} == {"test"}
    assert any(note.startswith("2 of 6 test images show pieces of surface") for note in assignment.notes)


def test_given_split_still_leaves_copies_out() -> None:
    train, test = make_items({"A": 6, "B": 6}, "train"), make_items({"A": 3, "B": 3}, "test")
    copy = Item(test[2].path, "A", train[0].path, "test", train[0].path)
    assignment = assign_splits([*train, *test[:2], copy, *test[3:]], params(), 1)
    assert assignment.dropped == {train[0].path: "test"}
    assert not any("show pieces" in note for note in assignment.notes)

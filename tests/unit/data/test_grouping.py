"""Groups: by names, by copies and overlaps together, and what happens to classes of too few pieces."""

import pytest

from metal_defects.data.grouping import loosen_classes, pair_names, regroup
from metal_defects.data.splits import Item
from metal_defects.errors import DataError

PATHS = ["a/open_12_0.png", "b/good_12_1.png", "b/good_77_0.png", "b/odd.png"]


def make_items(paths: list[str], copies: dict[str, str] | None = None) -> list[Item]:
    return [Item(path, path[0], path, None, (copies or {}).get(path, path)) for path in paths]


def test_names_pair_images_across_folders() -> None:
    assert pair_names(PATHS, r"_(\d+)_") == ([(0, 1)], 1)
    assert pair_names(PATHS, r"good|open") == ([(1, 2)], 1)
    assert pair_names(PATHS, r"^[ab]/") == ([(1, 2), (1, 3)], 0)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(DataError, match=r"matches none of the 4 images.*Got 'plate' and a/open_12_0.png"):
        pair_names(PATHS, "plate")


def test_names_copies_and_overlaps_are_united() -> None:
    items = make_items(PATHS, {"b/odd.png": "b/good_77_0.png"})
    assert [item.group for item in regroup(items, [(0, 1)])] == [PATHS[0], PATHS[0], PATHS[2], PATHS[2]]
    assert {item.group for item in regroup(items, [(0, 1), (1, 3)])} == {PATHS[0]}


def test_a_class_of_one_piece_is_divided_by_images_with_copies_together() -> None:
    items = make_items([f"a/{number}" for number in range(6)], {"a/5": "a/4"}) + make_items(
        [f"b/{number}" for number in range(6)]
    )
    whole = regroup(items, [(0, index) for index in range(1, 6)])
    loosened, few = loosen_classes(whole)
    assert few == ("a",)
    assert [item.group for item in loosened[:6]] == ["a/0", "a/1", "a/2", "a/3", "a/4", "a/4"]
    assert loosened[6:] == whole[6:]


def test_a_class_of_few_different_images_is_left_alone() -> None:
    items = regroup(make_items(["a/0", "a/1", "b/0"]), [])
    assert loosen_classes(items) == (items, ())

"""Which images belong together: those that overlap, and those whose names tell of one part, plate or board."""

import re
from collections.abc import Sequence
from dataclasses import replace

from metal_defects.data.duplicates import group_pairs
from metal_defects.data.splits import Item
from metal_defects.errors import DataError

# A piece for each of the three parts, and a second one to train on: cross-validation needs two.
FEWEST_PIECES = 4
_SHOWN = 3

Pair = tuple[int, int]


def pair_names(paths: Sequence[str], pattern: str) -> tuple[list[Pair], int]:
    """Pairs of images whose paths name one part, and how many images name none.

    Args:
        paths: below the root of the data, with forward slashes.
        pattern: a regular expression; its first group, or all that it matches, is the name.

    Raises:
        DataError: no path holds it.
    """
    compiled = re.compile(pattern)
    first: dict[str, int] = {}
    pairs, unmatched = [], 0
    for index, path in enumerate(paths):
        found = compiled.search(path)
        name = (found[1] if compiled.groups else found[0]) if found else None
        if not name:
            unmatched += 1
        elif first.setdefault(name, index) != index:
            pairs.append((first[name], index))
    if unmatched == len(paths):
        shown = ", ".join(paths[:_SHOWN])
        raise DataError(
            f"data_ingestion.group_by matches none of the {len(paths)} images; it is searched in their paths below the "
            f"root of the data. Got '{pattern}' and {shown}."
        )
    return pairs, unmatched


def regroup(items: Sequence[Item], pairs: Sequence[Pair]) -> list[Item]:
    """The items with the groups that copies and `pairs` of positions make of them; the first path names a group."""
    leader: dict[str, int] = {}
    copies = [(leader.setdefault(item.copies or item.path, index), index) for index, item in enumerate(items)]
    groups = group_pairs(len(items), [*copies, *pairs])
    return [replace(item, group=items[first].path) for item, first in zip(items, groups, strict=True)]


def loosen_classes(items: Sequence[Item], fewest: int = FEWEST_PIECES) -> tuple[list[Item], tuple[str, ...]]:
    """Classes of too few pieces are divided by images, copies together; and which classes these are.

    Only images of these classes leave their group.

    Args:
        items: with their groups.
        fewest: pieces that a class needs.
    """
    pieces: dict[str, set[str]] = {}
    copies: dict[str, set[str | None]] = {}
    for item in items:
        pieces.setdefault(item.label, set()).add(item.group)
        copies.setdefault(item.label, set()).add(item.copies)
    few = {label for label, found in pieces.items() if len(found) < min(fewest, len(copies[label]))}
    loosened = [replace(item, group=item.copies or item.path) if item.label in few else item for item in items]
    return loosened, tuple(sorted(few))

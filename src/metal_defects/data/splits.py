"""Divides images into train, valid and test: copies stay on one side, classes keep their shares, seeds repeat."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from metal_defects.config import DataIngestionParams, SplitName, SplitSizes
from metal_defects.data.manifest import SPLITS
from metal_defects.errors import DataError

NEU_IMAGES_PER_CLASS = 300
NEU_SIZES = SplitSizes(train=276, valid=12, test=12)
# A validation part chooses between base models and ends the training of a network; what is tuned is cross-validated on
# train. Images do more good there.
USUAL_SIZES = SplitSizes(train=0.8, valid=0.05, test=0.15)

Side = Literal["train", "valid", "test", "unused"]
# How many more images of a class each side takes.
Room = dict[Side, int]


@dataclass(frozen=True)
class Item:
    """An image to be placed.

    Attributes:
        path: its identity.
        label: class name.
        group: images of one group show one piece of surface, and stay on one side of a split that is drawn.
        split: where its folder says it belongs, if it does.
        copies: images of one value are copies of one another; those of one group where None.
    """

    path: str
    label: str
    group: str
    split: SplitName | None = None
    copies: str | None = None


@dataclass(frozen=True)
class Assignment:
    """Who goes where.

    Attributes:
        splits: split of each path that is used.
        dropped: for each path left out because of its copies, the split that keeps them.
        unused: paths beyond the sizes that were asked for.
        origin: one phrase that says where the split comes from.
        notes: what a reader must know about it, one sentence each.
    """

    splits: dict[str, SplitName]
    dropped: dict[str, SplitName]
    unused: tuple[str, ...]
    origin: str
    notes: tuple[str, ...]


def assign_splits(
    items: Sequence[Item], params: DataIngestionParams, seed: int, unreadable: Mapping[str, int] | None = None
) -> Assignment:
    """Keep the split that the folders give, or draw one, stratified by class.

    Args:
        items: images in any order; the result does not depend on it.
        params: `split` "auto" keeps a given split, sizes draw a new one.
        seed: of the draw.
        unreadable: quarantined files of each class. They count as present when the classes' sizes are compared with
            what is asked for, so that one broken file does not change a protocol; train is then so much smaller.

    Raises:
        DataError: a class has fewer images than were asked for, or the given split has no train or no held-out part.
    """
    items = sorted(items, key=lambda item: item.path)
    unreadable = unreadable or {}
    given = {item.split for item in items if item.split}
    if params.split == "auto" and given - {"train"}:
        return _keep_given(items, given, params.valid_share_of_train, seed)
    found = Counter(item.label for item in items) + Counter(unreadable)
    notes: tuple[str, ...] = ("The split that the folders give was not used.",) if given else ()
    if params.split != "auto":
        sizes, origin = params.split, "params.yaml, data_ingestion.split"
    elif set(found.values()) == {NEU_IMAGES_PER_CLASS}:
        sizes, origin = NEU_SIZES, "auto: 276/12/12, because every class has 300 images"
    else:
        sizes, origin = USUAL_SIZES, "auto: 80/5/15 % of each class"
    if sizes.valid == 0:
        notes += (f"valid is {100 * params.valid_share_of_train:.0f} % of train, because the split names none.",)
    rooms = {}
    for label, count in sorted(Counter(item.label for item in items).items()):
        rooms[label] = _plan(label, count, unreadable.get(label, 0), sizes, params.valid_share_of_train)
    sides, missed = _fill(items, rooms, seed)
    if missed:
        notes += (f"{missed} images are on another side than their class's size asks, because pieces stay whole.",)
    unused = tuple(path for path, side in sides.items() if side == "unused")
    splits = {path: side for path, side in sides.items() if side != "unused"}
    return Assignment(splits, {}, unused, origin, notes)


def _keep_given(items: list[Item], given: set[SplitName], valid_share: float, seed: int) -> Assignment:
    if "train" not in given:
        raise DataError(f"The data has a split without a train folder. Got {', '.join(sorted(given))} instead.")
    notes: tuple[str, ...] = ()
    if "test" not in given:
        items = [replace(item, split="test") if item.split == "valid" else item for item in items]
        notes += ("The data has no test part: its validation part became the TEST split.",)
    kept, dropped = _drop_copies(items)
    if dropped:
        counts = Counter(dropped.values())
        told = " and ".join(f"{counts[split]} of {split}" for split in ("test", "valid") if counts[split])
        notes += (f"Copies across the given split were left out, keeping the held-out side: copies of images {told}.",)
    splits: dict[str, SplitName] = {item.path: item.split for item in kept if item.split}
    if "valid" not in splits.values():
        train = [item for item in kept if item.split == "train"]
        rooms = {label: _carve(count, valid_share) for label, count in Counter(item.label for item in train).items()}
        sides, _ = _fill(train, rooms, seed)
        splits |= {path: side for path, side in sides.items() if side != "unused"}
        notes += (f"valid is {100 * valid_share:.0f} % of the given train part, drawn from it.",)
    notes += _tell_shared(kept, splits)
    return Assignment(splits, dropped, (), "the data's own folders", notes)


def _drop_copies(items: list[Item]) -> tuple[list[Item], dict[str, SplitName]]:
    """Leave every group on one side: test before valid before train, so that no evaluation sees what was trained on."""
    sides: dict[str, set[SplitName | None]] = {}
    for item in items:
        sides.setdefault(item.copies or item.group, set()).add(item.split)
    keeper = {copies: next(split for split in reversed(SPLITS) if split in found) for copies, found in sides.items()}
    where = {item.path: keeper[item.copies or item.group] for item in items}
    kept = [item for item in items if item.split == where[item.path]]
    return kept, {item.path: where[item.path] for item in items if item.split != where[item.path]}


def _tell_shared(items: Iterable[Item], splits: Mapping[str, SplitName]) -> tuple[str, ...]:
    """A given split is somebody's choice and is kept, also where it tears pieces apart; but nobody shall miss it."""
    items = list(items)
    trained = {item.group for item in items if splits[item.path] == "train"}
    test = [item for item in items if splits[item.path] == "test"]
    shared = sum(item.group in trained for item in test)
    if not shared:
        return ()
    return (
        f"{shared} of {len(test)} test images show pieces of surface that training images show as well: on new pieces "
        "expect worse than the test says. The given split was kept; sizes in data_ingestion.split draw one that "
        "keeps pieces together.",
    )


def _plan(label: str, count: int, unreadable: int, sizes: SplitSizes, valid_share: float) -> Room:
    """Images of a class with `count` usable ones that each side takes; they add up to `count`."""
    if sizes.are_shares:
        test = _round_share(count, sizes.test)
        valid = _round_share(count, sizes.valid) if sizes.valid else 0
        uses_all = sizes.train + sizes.valid + sizes.test > 1 - 1e-9
        train = count - test - valid if uses_all else min(_round_share(count, sizes.train), count - test - valid)
    else:
        test, valid, train = int(sizes.test), int(sizes.valid), int(sizes.train)
        if test + valid + train > count + unreadable:
            raise DataError(
                f"data_ingestion.split asks for {test + valid + train} images of each class. "
                f"Got {count} of '{label}' instead."
            )
        train = min(train, count - test - valid)
    train = max(train, 0)
    if not sizes.valid:
        carved = _carve(train, valid_share)
        train, valid = carved["train"], carved["valid"]
    return {"train": train, "valid": valid, "test": test, "unused": count - train - valid - test}


def _carve(count: int, valid_share: float) -> Room:
    valid = min(_round_share(count, valid_share), max(count - 1, 0))
    return {"train": count - valid, "valid": valid}


def _round_share(count: int, share: float) -> int:
    """Nearest whole number, halves up, at least 1."""
    return max(int(count * share + 0.5 + 1e-9), 1)


def _fill(items: Iterable[Item], rooms: Mapping[str, Room], seed: int) -> tuple[dict[str, Side], int]:
    """Place groups at random where all their images fit, the largest first, so that single images fill what is left.

    Returns:
        The side of each path, and how many images had to go where there was no room for them.
    """
    asked, rooms = rooms, {label: dict(room) for label, room in rooms.items()}
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    rng = np.random.default_rng(seed)
    names = sorted(groups)
    shuffled = [groups[names[index]] for index in rng.permutation(len(names))]
    placed: dict[str, Side] = {}
    missed = 0
    for group in sorted(shuffled, key=len, reverse=True):
        needs = Counter(item.label for item in group)
        side, short = _choose_side(needs, rooms, rng)
        missed += short
        for label, count in needs.items():
            rooms[label][side] -= count
        placed |= {item.path: side for item in group}
    missed += _fill_empty(shuffled, placed, asked)
    return dict(sorted(placed.items())), missed


def _fill_empty(groups: Sequence[Sequence[Item]], placed: dict[str, Side], asked: Mapping[str, Room]) -> int:
    """Give every class an image on each side that asks for some, of its smallest groups; how many images moved.

    No side is left without a class for it: where a class has too few groups for all sides, one stays empty.
    """
    moved = 0
    for label, room in asked.items():
        own = sorted((group for group in groups if any(item.label == label for item in group)), key=len)
        for side in (side for side in ("test", "valid", "train") if room.get(side)):
            held = Counter(placed[group[0].path] for group in own)
            spare = (group for group in own if held[placed[group[0].path]] > 1 and _can_leave(group, groups, placed))
            group = None if held[side] else next(spare, None)
            if group:
                placed.update({item.path: side for item in group})
                moved += len(group)
    return moved


def _can_leave(group: Sequence[Item], groups: Sequence[Sequence[Item]], placed: Mapping[str, Side]) -> bool:
    """Whether every class of the group has another group beside it."""
    beside = {
        item.label for one in groups if one is not group for item in one if placed[item.path] == placed[group[0].path]
    }
    return {item.label for item in group} <= beside


def _choose_side(needs: Mapping[str, int], rooms: Mapping[str, Room], rng: np.random.Generator) -> tuple[Side, int]:
    """A side with room for all images of a group, else the one that lacks least; and how much it lacks."""
    sides = list(next(iter(rooms.values())))
    lacks = {side: sum(max(count - rooms[label][side], 0) for label, count in needs.items()) for side in sides}
    fitting = [side for side in sides if lacks[side] == 0]
    if not fitting:
        best = min((side for side in sides if side != "unused"), key=lambda side: lacks[side])
        return best, lacks[best]
    room = np.array([sum(rooms[label][side] for label in needs) for side in fitting], float)
    return fitting[rng.choice(len(fitting), p=room / room.sum())], 0

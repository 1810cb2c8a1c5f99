"""What chapters of the report list and count beyond what the stages measured."""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metal_defects.data.manifest import SPLITS
from metal_defects.evaluation.fold_errors import Misjudged
from metal_defects.metrics import Metrics, Misnamed, Score
from metal_defects.models.results import Trial, Value
from metal_defects.records import Record
from metal_defects.report.findings import Findings
from metal_defects.report.parts import percent, say, show

MOST_PROBABILITIES = 4
NEU_CLASSES = ("Crazing", "Inclusion", "Patches", "Pitted", "Rolled", "Scratches")
NEU_IMAGES_PER_CLASS = 300
# Signal-to-noise ratios in dB for which there is a published accuracy.
NOISES = (30, 20)
# What a linear head has no use for, because it is solved.
OF_TRAINING = ("dropout", "learning_rate", "batch_size", "epochs")
CURVES = {"learning_curves.png": "learning curves", "l2_path.png": "log loss by penalty"}


@dataclass(frozen=True)
class Case:
    """A misjudged image: where it was judged, its highest probabilities, and what else its boxes show."""

    source: str
    true: str
    predicted: str
    where: str
    picture: Path
    shares: tuple[tuple[str, float], ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Titles of its columns, and rows with a cell for each."""

    title: str
    columns: list[str]
    rows: list[tuple[str | Value, ...]]


def count_images(found: Findings) -> list[tuple[str | int, ...]]:
    """Images by split, and boxes, of every class and of all: rows of a table."""
    counts = Counter((row.label, row.split) for row in found.manifest)
    boxes = Counter(box.label for row in found.manifest for box in row.boxes)
    names = dict.fromkeys([*found.evaluation.classes, *sorted(boxes)])
    rows = [(name, *(counts[name, split] for split in SPLITS), boxes[name]) for name in names]
    totals = [sum(column) for column in list(zip(*rows, strict=True))[1:]]
    return [*rows, ("all", *totals)]


def list_sizes(found: Findings) -> str:
    """How many sizes the images have, and the commonest ones."""
    sizes = Counter(f"{row.width} × {row.height} px" for row in found.manifest)
    common = ", ".join(f"{name} ({count:,})" for name, count in sizes.most_common(3))
    return f"{'one size' if len(sizes) == 1 else f'{len(sizes)} sizes'}: {common}"


def group_mixed(found: Findings) -> list[tuple[str, str, int, str]]:
    """Images whose boxes carry another class: label, other classes, number, file names."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in found.manifest:
        if row.other_labels:
            groups.setdefault((row.label, ", ".join(row.other_labels)), []).append(Path(row.path).name)
    return [(*labels, len(names), ", ".join(names)) for labels, names in groups.items()]


def list_fields(records: Sequence[Record]) -> list[tuple[Any, ...]]:
    """The values of records of one kind: rows of a table."""
    return [tuple(value for _, value in record) for record in records]


def list_curves(folder: Path) -> list[tuple[Path, str]]:
    """Plots of how a model was fitted, with what they show; none of a head that was solved for one given penalty."""
    return [(folder / file, what) for file, what in CURVES.items() if (folder / file).exists()]


def list_hyperparameters(found: Findings) -> list[tuple[str, Value]]:
    """Those that the tuned model was fitted with."""
    values = found.tuned.hyperparameters
    is_solved = found.tuned.kind == "frozen" and not values["hidden_units"]
    return [(name, value) for name, value in values.items() if not (is_solved and name in OF_TRAINING)]


def list_trials(found: Findings) -> list[Table]:
    """The trials that were compared, and those of the first look, where there was one."""
    winner, trials = found.tuned.winner, found.tuned.trials
    parts = {"Compared on": [one for one in trials if not one.first_look]}
    parts["First look at"] = [one for one in trials if one.first_look]
    return [_tabulate(title, some, winner) for title, some in parts.items() if some]


def _tabulate(title: str, trials: Sequence[Trial], winner: Trial | None) -> Table:
    """What none of the trials has gets no column, nor does a hyperparameter that they share."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    varied = [name for name in names if len(trials) == 1 or len({trial.params.get(name) for trial in trials}) > 1]
    cells: dict[str, Sequence[str | Value]] = {
        "trial": [f"{one.number}, chosen" if one is winner else one.number for one in trials],
        **{"penalty (l2)" if name == "l2" else say(name): [one.params.get(name) for one in trials] for name in varied},
        "log loss": ["failed" if one.score is None else f"{one.score:.4f}" for one in trials],
        "above the lowest": [_name_distance(one) for one in trials],
        "accuracy": _write([one.accuracy for one in trials], percent),
        "on damaged views": _write([one.damaged_accuracy for one in trials], percent),
        "10⁹ multiply-adds": _write([one.gmacs for one in trials], "{:.2f}".format),
        "seconds": _write([one.seconds for one in trials], "{:.1f}".format),
        "epochs": [one.epochs for one in trials],
    }
    told = {name: column for name, column in cells.items() if any(value is not None for value in column)}
    images = max(one.images or 0 for one in trials)
    return Table(f"{title} {images:,} images", list(told), list(zip(*told.values(), strict=True)))


def describe_recipe(found: Findings) -> str:
    """What makes the tuned model, in one line."""
    values, tuned = found.tuned.hyperparameters, found.tuned
    if tuned.kind == "from scratch":
        return "trained from scratch; " + ", ".join(f"{say(name)} {show(value)}" for name, value in values.items())
    if tuned.is_fine_tuned:
        return "middle blocks of the backbone fine-tuned, with a head that looks at every cell of their feature maps"
    head = f"a hidden layer of {values['hidden_units']} units" if values["hidden_units"] else "a linear head"
    return (
        f"{head} on the frozen backbone; taps: {values['taps']}; pooling: {values['pooling']}; augmented views: "
        f"{values['views']}; penalty (l2): {show(values['l2'])}"
    )


def _write(values: Sequence[float | None], how: Callable[[float], str]) -> list[str | None]:
    return [None if value is None else how(value) for value in values]


def _name_distance(trial: Trial) -> str | None:
    """How far its loss is above the lowest one of the comparison."""
    if trial.gap is None:
        return None
    return "lowest" if trial.gap.loss == 0 else f"{trial.gap.loss:.4f} ± {trial.gap.loss_error:.4f}"


def list_confusions(metrics: Metrics) -> list[tuple[str, str, int]]:
    """True class, answered class and number of images of every confusion, the commonest first."""
    confused = [
        (metrics.class_names[true], metrics.class_names[answer], count)
        for true, row in enumerate(metrics.confusion_matrix)
        for answer, count in enumerate(row)
        if count and true != answer
    ]
    return sorted(confused, key=lambda row: -row[2])


def list_misjudged(found: Findings) -> list[Case]:
    """Every image that was ever called something else.

    Where one fold alone stands for the cross-validation, its images are those of the validation, which come anyway.
    """
    pictures = {row.source: found.preprocessed / row.path for row in found.images}
    others = {row.path: row.other_labels for row in found.manifest}
    judged: list[tuple[Misjudged | Misnamed, str, dict[str, float]]] = []
    for case in found.evaluation.cross_validation.misjudged if found.out_of_fold else ():
        where = "cross-validation" + (f", {case.times} times" if case.times > 1 else "")
        judged.append((case, where, case.probabilities))
    for split, where, metrics in (("test", "test", found.tuned.test), ("valid", "validation", found.tuned.valid)):
        answers = _read_answers(found.predictions / f"predictions_{split}.csv", found.evaluation.classes)
        judged += [(error, where, answers[error.source]) for error in metrics.errors]
    return [
        Case(
            source=case.source,
            true=case.true,
            predicted=case.predicted,
            where=where,
            picture=pictures[case.source],
            shares=tuple(sorted(shares.items(), key=lambda item: -item[1])[:MOST_PROBABILITIES]),
            others=others[case.source],
        )
        for case, where, shares in judged
    ]


def _read_answers(table: Path, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Probabilities of the classes, by image."""
    with table.open(newline="", encoding="utf-8") as stream:
        return {row["source"]: {name: float(row[name]) for name in classes} for row in csv.DictReader(stream)}


def compare_with_published(found: Findings) -> list[tuple[str, str, Score]]:
    """Our method, protocol and accuracy; nothing where the data are not NEU: its six classes, 300 images each."""
    counts = found.validation.balance.counts
    is_neu = set(counts) == set(NEU_CLASSES) and set(counts.values()) == {NEU_IMAGES_PER_CLASS}
    if not is_neu or found.evaluation.data.kind == "synthetic":
        return []
    test, damaged = found.tuned.test, found.evaluation.robustness
    rows = [("this model", f"{test.n:,} test images", test.accuracy)]
    if metrics := found.out_of_fold:
        protocol = f"{found.evaluation.protocol.folds}-fold, {metrics.n:,} images"
        rows.insert(0, ("this model", protocol, metrics.accuracy))
    noisy = dict(zip(damaged.levels["gaussian_noise"], damaged.accuracy["gaussian_noise"], strict=True))
    protocol = f"{damaged.images:,} held-out images"
    return rows + [(f"this model, Gaussian noise of {noise} dB", protocol, noisy[noise]) for noise in NOISES]

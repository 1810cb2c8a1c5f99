"""Rules of the advice: what the labels and their number leave open."""

from collections import Counter
from math import log2

from metal_defects.metrics import Metrics
from metal_defects.report.advice_parts import ROOM, Advice, join_names
from metal_defects.report.findings import Findings
from metal_defects.report.parts import of_hundred

# What a doubling of the labels must have brought to be worth the work: one image of 200.
RISING = 0.005
# With 30 of 30 right the true share may still be as low as 89 of 100.
FEW = 30
# A class that is so much smaller than the largest, and found so much less often than the average.
RARE, NEGLECTED = 10, 0.05
# An answer this sure that contradicts a label; even well-kept sets have some: 1 of 100 is no reason to search them all.
SURE, SUSPECTS = 0.9, 0.01
# The pair of classes that so large a part of all errors is about, and so many images.
PAIR, PAIR_IMAGES = 0.25, 5
# Images that show two defects are of interest where so many of the errors are among them.
MIXED, MIXED_IMAGES = 0.2, 3


def find_small_classes(found: Findings, metrics: Metrics) -> Advice | None:
    """Classes with too few training images, and rare ones that are found less often than the others."""
    counts = _count_labels(found)
    large, scores = max(counts.values()), {one.name: one for one in metrics.per_class if one.support}

    def is_neglected(name: str) -> bool:
        lags = name in scores and scores[name].recall.value < metrics.accuracy.value - NEGLECTED
        return lags and RARE * counts[name] <= large

    small = sorted((name for name in counts if counts[name] < FEW or is_neglected(name)), key=lambda name: counts[name])
    if not small:
        return None
    told = [
        f"{name} {counts[name]:,}"
        + (f" (found in {of_hundred(scores[name].recall.value)} of 100)" if name in scores else "")
        for name in small
    ]
    open_images = sum(scores[name].support * (1 - scores[name].recall.low) for name in small if name in scores)
    return Advice(
        f"Too few images of {join_names(small)}.",
        f"Training images: {join_names(told)}; the largest class has {large:,}.",
        f"Collect more of them, at least {FEW} of each: with fewer, neither the model nor its thresholds can be relied "
        "on for them.",
        open_images / metrics.n,
    )


def find_rising_curve(found: Findings, metrics: Metrics) -> Advice | None:
    """Does the accuracy still rise with the labels?"""
    curve = found.evaluation.learning_curve or ()
    if len(curve) < 2 or curve[-1].images <= curve[-2].images:
        return None
    before, after = curve[-2], curve[-1]
    gain = (after.accuracy.value - before.accuracy.value) / log2(after.images / before.images)
    if gain < RISING:
        return None
    weakest = min((one for one in metrics.per_class if one.support), key=lambda one: one.recall.value)
    return Advice(
        "More labelled images would still help.",
        f"{of_hundred(before.accuracy.value)} of 100 right with {before.images:,} images, "
        f"{of_hundred(after.accuracy.value)} with {after.images:,}: {100 * gain:.1f} points for each doubling.",
        f"Label more, first of {weakest.name}: found in {of_hundred(weakest.recall.value)} of 100, "
        f"{_count_labels(found)[weakest.name]:,} training images. The curve is in “What would more labels buy?”.",
        min(gain, 1 - after.accuracy.value),
    )


def find_contradictions(found: Findings, metrics: Metrics) -> Advice | None:
    """Are there many labels that confident learning suspects?"""
    sure = [one for one in found.evaluation.cross_validation.suspects if one.confidence >= SURE]
    if not found.out_of_fold or len(sure) < SUSPECTS * metrics.n:
        return None
    (label, suggested), count = Counter((one.label, one.suggested) for one in sure).most_common(1)[0]
    return Advice(
        "Labels contradict one another.",
        f"Labels that models trained on the other images contradict with a confidence of {of_hundred(SURE)} of 100 "
        f"or more: {len(sure):,} of {metrics.n:,}, most often {label} that looks like {suggested} ({count:,}).",
        "Look at the images in “Labels that may be wrong”, correct them, and run again: wrong labels cost accuracy "
        "and make every figure look worse than the model is.",
        len(sure) / metrics.n,
    )


def find_disputed_copies(found: Findings, _metrics: Metrics) -> Advice | None:
    """Are there copies with different labels?"""
    disputed = found.validation.labels.disputed
    if not disputed:
        return None
    first = join_names([f"{path} ({label})" for path, label in disputed[0].items()])
    return Advice(
        "The same picture stands under two labels.",
        f"Pictures under more than one label: {len(disputed):,}. First: {first}.",
        "One of the labels is wrong, or the picture shows two defects: keep it once.",
        sum(map(len, disputed)) / len(found.manifest),
    )


def find_confused_pair(_found: Findings, metrics: Metrics) -> Advice | None:
    """Is a large part of the errors about two classes?"""
    matrix, names = metrics.confusion_matrix, metrics.class_names
    places = range(len(names))
    pairs = {(a, b): matrix[a][b] + matrix[b][a] for a in places for b in places if a < b}
    (first, second), count = max(pairs.items(), key=lambda item: item[1])
    # Of two classes every error is about the one pair.
    if len(names) < 3 or count < max(PAIR_IMAGES, PAIR * (metrics.n - metrics.correct), ROOM * metrics.n / 2):
        return None
    one, other, merged = names[first], names[second], (metrics.correct + count) / metrics.n
    return Advice(
        f"{one} and {other} are mixed up.",
        f"{one} called {other}: {matrix[first][second]:,}; {other} called {one}: {matrix[second][first]:,}; "
        f"together {count:,} of {metrics.n - metrics.correct:,} errors.",
        "Lay such images side by side and write down what tells them apart, then label by that. Where the difference "
        f"does not matter, make them one class: {of_hundred(merged)} of 100 would then be right.",
        count / metrics.n,
    )


def find_two_defects(found: Findings, _metrics: Metrics) -> Advice | None:
    """Are many of the misjudged images of two defects?"""
    judged = found.evaluation.cross_validation.misjudged
    images = found.evaluation.cross_validation.metrics.n
    mixed = sum(bool(one.other_boxes) for one in judged)
    if mixed < max(MIXED_IMAGES, MIXED * len(judged)):
        return None
    return Advice(
        "Images that show two defects have one label.",
        f"Misjudged images with boxes of another class than their label: {mixed:,} of {len(judged):,}.",
        "Cut such images so that each shows one defect, or label them by a written rule, such as the graver one.",
        mixed / images,
    )


def _count_labels(found: Findings) -> Counter[str]:
    """Training images of each class."""
    return Counter(row.label for row in found.manifest if row.split == "train")

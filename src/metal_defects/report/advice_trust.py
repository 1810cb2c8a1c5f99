"""Rules of the advice: figures that look better than they are, and where a new picture differs."""

from metal_defects.metrics import Metrics, share
from metal_defects.report.advice_parts import Advice, errors_of
from metal_defects.report.findings import Findings
from metal_defects.report.parts import of_hundred, say

# So far below its promise the guard must stay on held-out images, beyond chance.
GUARD_GAP = 0.03
# Images that are copies of others; fewer hardly change how many different ones there are.
COPIES = 0.1
# A gap that is surely larger makes a confidence useless as a probability.
CALIBRATION_GAP = 0.02
# What the mildest damage of a kind may cost.
FRAGILE = 0.1


def find_other_camera(found: Findings, _metrics: Metrics) -> Advice | None:
    """Does the guard keep its promise on held-out images?"""
    guard = found.evaluation.guard
    passed, promised = guard.accepted_held_out, guard.acceptance
    if passed.value > promised - GUARD_GAP or passed.high >= promised:
        return None
    return Advice(
        "Held-out images look unlike the training images.",
        f"The guard lets {of_hundred(passed.value)} of 100 held-out images pass, {of_hundred(promised)} of 100 were "
        "promised.",
        "Find out what differs (camera, light, magnification, day), and bring images of every kind into the training "
        "part.",
        promised - passed.value,
    )


def find_fragility(found: Findings, _metrics: Metrics) -> Advice | None:
    """Is the mildest damage of some kind enough to mislead the model?"""
    damaged = found.evaluation.robustness
    kind, score = min(((name, row[0]) for name, row in damaged.accuracy.items()), key=lambda item: item[1].value)
    lost = damaged.clean.accuracy.value - score.value
    if lost < FRAGILE or score.high >= damaged.clean.accuracy.value:
        return None
    return Advice(
        f"Slight {say(kind)} misleads it.",
        f"{of_hundred(damaged.clean.accuracy.value)} of 100 held-out images right as they are, "
        f"{of_hundred(score.value)} with {say(kind)} of {damaged.levels[kind][0]:g} {damaged.units[kind]}.",
        "Keep this steady where the pictures are taken, or add training images that have it.",
        # One kind of many, and nobody knows which of them a line has.
        lost / len(damaged.accuracy),
    )


def find_copies(found: Findings, metrics: Metrics) -> Advice | None:
    """Are many of the images copies?"""
    surplus, total = sum(len(group) - 1 for group in found.validation.copies.groups), len(found.manifest)
    if surplus < COPIES * total:
        return None
    return Advice(
        "Many images are copies of others.",
        f"Of {total:,} images {total - surplus:,} are different ones.",
        "Photograph other parts instead of the same again: a copy teaches next to nothing.",
        errors_of(metrics) * surplus / total,
    )


def find_leaks(found: Findings, _metrics: Metrics) -> Advice | None:
    """Does the split of the folders have copies on both sides, or were they not looked for?"""
    dropped, copies = found.validation.split.dropped_copies, found.validation.copies
    if copies.status == "warn" and not copies.groups:  # they were not looked for
        return Advice(
            "The same picture may be on both sides of the split.",
            copies.message,
            "Leave data_ingestion.duplicates at its default and run again before believing any figure.",
            1.0,
        )
    if not dropped:
        return None
    return Advice(
        "The split of the folders leaks.",
        f"Images with a copy on the other side of the split: {dropped:,}; they were left out here.",
        "Figures from this split elsewhere are too good. Split by part, plate or day instead of by picture.",
        dropped / len(found.manifest),
    )


def find_broken_promise(found: Findings, _metrics: Metrics) -> Advice | None:
    """Are more of the accepted test answers wrong than the cross-validation leaves possible?"""
    promised, test = found.evaluation.verdicts.out_of_fold, found.evaluation.verdicts.test
    if promised is None or not promised.accept or not test.accept:
        return None
    before, after = (share(counts.wrong_accept, counts.accept) for counts in (promised, test))
    if after.low <= before.high:
        return None
    return Advice(
        "The test contradicts the cross-validation.",
        f"Wrong among the accepted: cross-validation {promised.wrong_accept:,} of {promised.accept:,}, test "
        f"{test.wrong_accept:,} of {test.accept:,}, more than chance explains.",
        "Believe the test. Pictures of one part or day in several folds, or test images from elsewhere, are the usual "
        "causes: keep together in the split what was taken together.",
        (after.value - before.value) * test.accept / test.images,
    )


def find_overconfidence(found: Findings, metrics: Metrics) -> Advice | None:
    """Is the confidence far from the share that is right?"""
    gap = found.evaluation.calibration.after.ece
    if gap.low < CALIBRATION_GAP:
        return None
    return Advice(
        "The confidence is no probability.",
        f"The gap between confidence and truth is {100 * gap.value:.1f} points, at least {100 * gap.low:.1f}, "
        f"on {found.evaluation.calibration.images:,} images.",
        "Go by the verdicts, not by the confidence; more labelled images close the gap.",
        gap.value,
    )

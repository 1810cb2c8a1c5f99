"""What limits a data set, and what would help most: rules on what the stages measured, each with its threshold."""

from collections.abc import Callable

from metal_defects.metrics import Metrics
from metal_defects.report.advice_labels import (
    find_confused_pair,
    find_contradictions,
    find_disputed_copies,
    find_rising_curve,
    find_small_classes,
    find_two_defects,
)
from metal_defects.report.advice_parts import Advice
from metal_defects.report.advice_pictures import find_misfit, find_shortcut, find_small_defects
from metal_defects.report.advice_trust import (
    find_broken_promise,
    find_copies,
    find_fragility,
    find_leaks,
    find_other_camera,
    find_overconfidence,
)
from metal_defects.report.findings import Findings

MOST = 5
# What stands for the model, cross-validation or test, comes beside the findings.
RULES: tuple[Callable[[Findings, Metrics], Advice | None], ...] = (
    find_leaks,
    find_shortcut,
    find_small_classes,
    find_contradictions,
    find_disputed_copies,
    find_confused_pair,
    find_rising_curve,
    find_small_defects,
    find_misfit,
    find_other_camera,
    find_broken_promise,
    find_two_defects,
    find_overconfidence,
    find_copies,
    find_fragility,
)


def list_advice(found: Findings) -> tuple[Advice, ...]:
    """What limits this data set, at most MOST things; what concerns most images comes first, equals as in RULES."""
    metrics = found.out_of_fold or found.tuned.test
    advice = [one for rule in RULES if (one := rule(found, metrics))]
    return tuple(sorted(advice, key=lambda one: -one.stake)[:MOST])

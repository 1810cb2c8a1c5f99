"""What the rules of the advice share."""

from dataclasses import dataclass

from metal_defects.metrics import Metrics

# Errors below this share leave little to win by other pictures.
ROOM = 0.01
MOST_NAMES = 4


@dataclass(frozen=True)
class Advice:
    """One thing that limits the result.

    Attributes:
        limit: what limits it, a sentence.
        figures: what was measured, a sentence.
        action: what to do, one or two sentences.
        stake: share of the images whose answers, or the figures about them, may be wrong because of it; in [0, 1].
    """

    limit: str
    figures: str
    action: str
    stake: float


def errors_of(metrics: Metrics) -> float:
    """Share of the images that are named wrongly."""
    return 1 - metrics.accuracy.value


def join_names(names: list[str]) -> str:
    """ "A", "A and B", "A, B, C and D", "A, B, C and 4 more"."""
    shown = names if len(names) <= MOST_NAMES else [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} more"]
    return " and ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)

"""Runs the table of stages."""

from dataclasses import dataclass
from pathlib import Path

from metal_defects.config import Settings


@dataclass(frozen=True)
class StageContext:
    """What a stage is given.

    Attributes:
        settings: validated settings of this run.
        out: folder to write to; becomes `artifacts/<stage>` when the stage succeeds.
        artifacts: folder of the finished stages.
        resume: folder that survives a crash of this stage and is removed when it succeeds.
    """

    settings: Settings
    out: Path
    artifacts: Path
    resume: Path

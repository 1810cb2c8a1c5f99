"""How long the parts of an evaluation take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from metal_defects.log import logger


@dataclass(frozen=True)
class Clock:
    """How long the parts took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Note and log the time of what happens inside."""
        start = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - start, 1)
        logger.info("   %s: %.0f s", part.replace("_", " "), self.seconds[part])

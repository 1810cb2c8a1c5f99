"""What one visitor's session remembers between clicks, within bounds."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import streamlit as st

from metal_defects.app.scoring import Row
from metal_defects.inference.answer import Failure

MAX_ROWS = 2_000  # about 30 kB each
MAX_FAILURES = 1_000
_KEY = "visit"


@dataclass
class Visit:
    """The result list of one session.

    Attributes:
        bundle_hash: of the model that answered; answers of two models are never mixed.
        generation: part of the keys of the input widgets; a new one empties them and frees the uploaded files.
        known: rows by digest: the cache that spares a second inference.
        latest: the row to open when only one image came in.
        occlusions: heat maps by digest, where the bundle has no locator.
        repeated: how many files of the last upload were in the list already.
    """

    bundle_hash: str
    generation: int = 0
    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    latest: Row | None = None
    occlusions: dict[str, np.ndarray] = field(default_factory=dict)
    repeated: int = 0
    known: dict[str, Row] = field(default_factory=dict)
    _names: set[tuple[str, str]] = field(default_factory=set)

    @property
    def room(self) -> int:
        """How many images the list still takes."""
        return MAX_ROWS - len(self.rows)

    def add(self, results: Iterator[Row | Failure]) -> Iterator[int]:
        """Take results in as they come; yields how many were taken so far."""
        added: list[Row] = []
        self.repeated = 0
        for count, result in enumerate(results, start=1):
            if isinstance(result, Failure):
                self.add_failure(result)
            elif (result.name, result.digest) in self._names:
                self.repeated += 1
            else:
                self._add_row(result)
                added.append(result)
            self.latest = added[0] if len(added) == 1 else None
            yield count

    def add_failure(self, failure: Failure) -> None:
        if failure not in self.failures and len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)

    def _add_row(self, row: Row) -> None:
        self.rows.append(row)
        self._names.add((row.name, row.digest))
        self.known.setdefault(row.digest, row)


def current_visit(bundle_hash: str) -> Visit:
    """This session's list; an empty one at first and whenever another model is served."""
    visit = st.session_state.get(_KEY)
    if visit is None or visit.bundle_hash != bundle_hash:
        visit = st.session_state[_KEY] = Visit(bundle_hash)
    return visit


def clear_visit() -> None:
    """Forget all results; the input widgets are emptied too."""
    old: Visit = st.session_state[_KEY]
    st.session_state[_KEY] = Visit(old.bundle_hash, generation=old.generation + 1)

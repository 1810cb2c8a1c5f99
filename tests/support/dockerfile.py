"""Reads a Dockerfile and a .dockerignore, as far as the project's own use them."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """What one FROM begins.

    Attributes:
        base: image that it starts from.
        steps: instructions in their order, such as ("RUN", "python -m venv /opt/venv").
    """

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Arguments of every such instruction."""
        return [text for name, text in self.steps if name == instruction]

    def last(self, instruction: str) -> str:
        """Arguments of the one that holds."""
        return self.all(instruction)[-1]

    def words(self, instruction: str) -> list[str]:
        """Of an instruction in JSON form, such as CMD, behind its options."""
        return json.loads(re.search(r"\[.*\]", self.last(instruction))[0])

    def pairs(self, instruction: str) -> dict[str, str]:
        """Of ENV or LABEL."""
        found = re.findall(r'(\S+?)=(?:"([^"]*)"|(\S+))', " ".join(self.all(instruction)))
        return {name: quoted or plain for name, quoted, plain in found}


def read_stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile without comments and line continuations."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, text = line.strip().partition(" ")
        if name == "FROM":
            stages.append(Stage(text.split()[0]))
        elif name:
            stages[-1].steps.append((name, text))
    return stages


class Context:
    """The files that a build sees.

    Args:
        root: folder with a .dockerignore.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
        rules = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        self._kept_roots = [rule[1:] for rule in rules if rule.startswith("!")]
        self._rules = [(not rule.startswith("!"), _compile(rule.removeprefix("!"))) for rule in rules]

    def holds(self, path: str) -> bool:
        """Whether a file is part of it: the last rule that matches the path or a folder above it decides."""
        parts = path.split("/")
        above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        matching = [ignores for ignores, pattern in self._rules if any(map(pattern.fullmatch, above))]
        return not (matching and matching[-1])

    def files(self) -> Iterator[str]:
        """Paths of all of them, relative to the root."""
        for folder, folders, names in os.walk(self._root):
            here = Path(folder).relative_to(self._root)
            folders[:] = sorted(name for name in folders if self._may_hold((here / name).as_posix()))
            yield from (path for name in sorted(names) if self.holds(path := (here / name).as_posix()))

    def _may_hold(self, folder: str) -> bool:
        return self.holds(folder) or any(kept.startswith(f"{folder}/") for kept in self._kept_roots)


def _compile(rule: str) -> re.Pattern[str]:
    text = re.escape(rule).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    return re.compile(text)

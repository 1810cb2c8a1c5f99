"""The command line that repeats a run."""

import json
import os
import shlex
from collections.abc import Iterator
from typing import Any

from metal_defects.config import Settings, load_settings

# Where things lie on this machine, not what comes out.
LEFT_OUT = ("paths.", "logging.", "serving.", "data.timeout_seconds")


def repeat_command(settings: Settings) -> str:
    """What differs from the settings files, as options of `python main.py run`."""
    files = load_settings(settings.root, (), {})
    options: list[tuple[str, Any]] = []
    for part in ("config", "params", "data_schema"):
        old, new = (getattr(one, part).model_dump(mode="json") for one in (files, settings))
        options += _differences(old, new, "")
    words = ["python", "main.py", "run"]
    for name, value in options:
        if name == "data.path" and value is not None:
            absolute = str(settings.root / value)
            words += ["--data", min(os.path.relpath(absolute, settings.root), absolute, key=len)]
        elif not name.startswith(LEFT_OUT):
            words += ["--set", f"{name}={json.dumps(value, ensure_ascii=False)}"]
    return shlex.join(words)


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in new:
            yield from _differences(old[key], new[key], f"{path}.{key}".removeprefix("."))
    elif old != new:
        yield path, new

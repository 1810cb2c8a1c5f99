"""What a stage's result depends on, as JSON, and the first thing that differs between two of them."""

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from metal_defects.config import Settings

PACKAGE = "metal_defects"
LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "numpy")


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that numbers depend on, without importing them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def source_digest(module: str) -> str:
    """SHA-256 over the source of `module` and of every module of this package that it imports, however deep."""
    digest = hashlib.sha256()
    for name in sorted(_imports_of(module)):
        digest.update(f"{name}\n".encode())
        digest.update(_source_file(name).read_bytes())
    return digest.hexdigest()


def settings_subset(settings: Settings, dotted_names: tuple[str, ...]) -> dict[str, Any]:
    """The named parts of the settings as JSON values.

    Args:
        settings: all settings.
        dotted_names: such as "params.training", "data_schema.classes" or "params.seed".
    """
    tree = settings.model_dump(mode="json", include={"config", "params", "data_schema"})
    return {name: _descend(tree, name) for name in dotted_names}


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first key whose value differs, such as "params.training.epochs 30 → 5"; None where all is equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            found = first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return None
    return None if old == new else f"{path} {_shorten(old)} → {_shorten(new)}"


def _descend(tree: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree[part]
    return tree


def _shorten(value: Any) -> str:
    text = "none" if value is None else str(value)
    is_digest = len(text) == 64 and all(character in "0123456789abcdef" for character in text)
    return text[:8] if is_digest else text if len(text) <= 40 else text[:39] + "…"


def _imports_of(module: str) -> frozenset[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_direct_imports(_source_file(name)))
    return frozenset(found)


def _direct_imports(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield node.module
            for alias in node.names:
                if _exists(f"{node.module}.{alias.name}"):
                    yield f"{node.module}.{alias.name}"


@lru_cache
def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _source_file(module: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"There is no module {module}.")
    return Path(spec.origin)

"""What a stage's result depends on, as JSON, and the first thing that differs between two of them."""

import ast
import hashlib
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


def template_digests(_settings: Settings) -> dict[str, str]:
    """SHA-256 of every template of the report: code that no import leads to."""
    templates = sorted((Path(__file__).parents[1] / "report" / "templates").glob("*.j2"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in templates}


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


def _imports_of(module: str) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            source = _source_file(name)
            waiting.extend(_direct_imports(source, source.stat().st_mtime_ns))
    return found


@lru_cache
def _direct_imports(source: Path, _mtime_ns: int) -> tuple[str, ...]:
    """Modules of this package that a file imports anywhere; the time is part of the cache's key."""
    found = []
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found += [name for name in names if name.split(".")[0] == PACKAGE and _package_file(name)]
    return tuple(found)


def _source_file(module: str) -> Path:
    path = _package_file(module)
    if path is None:
        spec = find_spec(module)
        path = Path(spec.origin) if spec and spec.origin else None
    if path is None:
        raise ModuleNotFoundError(f"There is no module {module}.")
    return path


def _package_file(module: str) -> Path | None:
    """The file of a module of this package, found by its name: looking it up would import its parents."""
    first, *parts = module.split(".")
    base = Path(__file__).parents[1].joinpath(*parts)
    if first != PACKAGE:
        return None
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)

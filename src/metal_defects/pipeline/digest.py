"""What a stage's result depends on, as JSON, and the first thing that differs between two of them."""

import ast
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from metal_defects.config import Settings
from metal_defects.files import write_json

PACKAGE = "metal_defects"
ROOT = Path(__file__).parents[1]
LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "numpy")
# Modules that decide when and how something is told or read, never what a stage computes.
WITHOUT_EFFECT = ("artifacts", "config", "errors", "log", "system", "pipeline")
CACHE = ".code.json"


@cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that numbers depend on, without importing them."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class CodeDigests:
    """Digests of this package's modules: equal as long as the same is computed, whatever comments and docstrings say.

    Args:
        cache: file that remembers the digests of files that have not changed since; None for none.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._known: dict[str, list[Any]] = {}
        self._is_changed = False
        if cache is not None:
            with suppress(OSError, ValueError):
                self._known = json.loads(cache.read_text(encoding="utf-8"))

    def of(self, module: str) -> dict[str, str]:
        """SHA-256 of `module` and of every module of this package that it imports, however deep, by name."""
        found: dict[str, str] = {}
        waiting = [module]
        while waiting:
            name = waiting.pop()
            if name not in found and not _has_no_effect(name):
                found[name], imported = self._look_at(name)
                waiting.extend(imported)
        return dict(sorted(found.items()))

    def save(self) -> None:
        """Remember what was found; where nothing can be written, the next look takes longer."""
        if self._cache is not None and self._is_changed and self._cache.parent.is_dir():
            with suppress(OSError):
                write_json(self._cache, self._known)
            self._is_changed = False

    def _look_at(self, module: str) -> tuple[str, list[str]]:
        source = _source_file(module)
        stat = source.stat()
        stamp = f"{source} {stat.st_size} {stat.st_mtime_ns}"
        known = self._known.get(module)
        if not known or known[0] != stamp:
            known = [stamp, *_parse(source)]
            self._known[module] = known
            self._is_changed = True
        return known[1], known[2]


def digest_files(folder: Path, pattern: str) -> dict[str, str]:
    """SHA-256 of the files in a folder that match a pattern, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}


def look_up(settings: Settings, key: str) -> Any:
    """A setting, or a section of them, by the key that `--set` takes, such as "training.epochs".

    Raises:
        KeyError: there is none.
    """
    first, *rest = key.split(".")
    parts = (settings.config, settings.params, settings.data_schema)
    node: Any = next((part for part in parts if first in type(part).model_fields), None)
    for name in (first, *rest):
        if not isinstance(node, BaseModel) or name not in type(node).model_fields:
            raise KeyError(f"There is no setting '{key}'.")
        node = getattr(node, name)
    return node


def flatten_settings(settings: Settings, keys: Iterable[str]) -> dict[str, Any]:
    """Values of settings by their full keys, as JSON; sections are taken apart, lists and free mappings are not."""
    return {name: value for key in keys for name, value in _flatten(key, look_up(settings, key))}


def explain_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first thing that differs between two sets of inputs; None where nothing does.

    A setting is told in the form that `--set` takes, with what it was as a YAML comment behind it.
    """
    for key, value in new["settings"].items():
        if key not in old["settings"] or old["settings"][key] != value:
            before = _to_yaml(old["settings"][key]) if key in old["settings"] else "not asked for"
            return f"{key}={_to_yaml(value)}  # was {before}"
    if gone := next((key for key in old["settings"] if key not in new["settings"]), None):
        return f"{gone} is no longer used"
    for part, words in (("reads", "{} changed"), ("outside", "{} changed"), ("code", "code of {} changed")):
        if name := _first_difference(old.get(part), new[part]):
            return words.format(name)
    name = _first_difference(old.get("versions"), new["versions"])
    return f"{name}: version {new['versions'].get(name, 'gone')}" if name else None


def _first_difference(old: Any, new: Mapping[str, Any]) -> str | None:
    """The first key whose value differs, with the keys below it that do."""
    before = old if isinstance(old, Mapping) else {}
    for key in [*new, *(key for key in before if key not in new)]:
        one, other = before.get(key), new.get(key)
        if one == other:
            continue
        deeper = _first_difference(one, other) if isinstance(one, Mapping) and isinstance(other, Mapping) else None
        return f"{key} ({deeper})" if deeper else str(key)
    return None


def _flatten(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, BaseModel):
        yield key, _to_json(value)
        return
    for name, field in type(value).model_fields.items():
        part = getattr(value, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _flatten(f"{key}.{name}", part)
        else:  # one of several types, such as a word or sizes, is set as a whole
            yield f"{key}.{name}", _to_json(part)


def _to_json(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else json.loads(json.dumps(value, default=str))


def _to_yaml(value: Any) -> str:
    """On one line, as YAML reads it back."""
    # What cannot be seen, line ends of all scripts among it, is written as escapes.
    is_printable = json.dumps(value, ensure_ascii=False).isprintable()
    return yaml.dump([value], Dumper=_OneLine, default_flow_style=True, width=math.inf, allow_unicode=is_printable)[
        1:-2
    ]


class _OneLine(yaml.SafeDumper):
    """Writes texts with line ends as escapes, where YAML would break the line."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_OneLine.add_representer(str, _OneLine.represent_str)


def _has_no_effect(module: str) -> bool:
    package, _, rest = module.partition(".")
    return package == PACKAGE and (not rest or rest.split(".")[0] in WITHOUT_EFFECT)


def _parse(source: Path) -> tuple[str, list[str]]:
    """SHA-256 of a file's syntax without comments and docstrings, and the modules of this package that it imports."""
    tree = ast.parse(source.read_bytes())
    imported = sorted(set(_imports(tree)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.Module) -> Iterator[str]:
    """Modules of this package that are imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == PACKAGE and _package_file(name))


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
    base = ROOT.joinpath(*parts)
    if first != PACKAGE:
        return None
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)

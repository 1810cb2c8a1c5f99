"""Which settings a run reads, and in which stage: found by watching, not by searching the source."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from metal_defects.files import write_json
from support import PROJECT

FILES = ("config/config.yaml", "params.yaml", "schema.yaml")


def list_keys() -> list[str]:
    """Every key of the three settings files, dotted, in their order."""
    from metal_defects.config import Config, DataSchema, Params

    contents = [yaml.safe_load((PROJECT / file).read_text(encoding="utf-8")) for file in FILES]
    pairs = zip((Config, Params, DataSchema), contents, strict=True)
    return [".".join(path) for model, content in pairs for path in _walk(model, content)]


def watch_settings(target: Path) -> Callable[[], None]:
    """Watch which settings are read in this process, from now on.

    Checking settings, and comparing them with those of an earlier run, counts as no reading.

    Returns:
        A function that writes to `target` what was read: {number of the stage, or "" outside of all: [key, …]}.
    """
    from metal_defects import config
    from metal_defects.pipeline import context, digest, runner

    roots = (config.Config, config.Params, config.DataSchema)
    names = dict(pair for root in roots for pair in _name(root))
    found: dict[str, set[str]] = {}
    now = [""]
    look, start, run = BaseModel.__getattribute__, context.StageContext.__init__, runner._run_stage

    def watch(self: BaseModel, name: str) -> Any:
        model = type(self)
        by = sys._getframe(1).f_globals["__name__"]
        if by not in (config.__name__, digest.__name__) and model in names and name in model.model_fields:
            found.setdefault(now[0], set()).add(".".join((*names[model], name)))
        return look(self, name)

    def begin(self: context.StageContext, stage: context.Stage, *rest: Any) -> None:
        now[0] = stage.number
        start(self, stage, *rest)

    def end(*arguments: Any) -> float:
        try:
            return run(*arguments)
        finally:
            now[0] = ""

    def ask(self: context.StageContext, key: str, get: Any = context.StageContext.setting) -> Any:
        found.setdefault(now[0], set()).add(key)
        return get(self, key)

    config._Frozen.__getattribute__ = watch
    context.StageContext.__init__, context.StageContext.setting, runner._run_stage = begin, ask, end
    return lambda: write_json(target, {stage: sorted(keys) for stage, keys in sorted(found.items())})


def _walk(model: type[BaseModel], content: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, value in content.items():
        deeper = _section(model, name)
        if deeper is not None and isinstance(value, Mapping):
            yield from ((name, *rest) for rest in _walk(deeper, value))
        else:
            yield (name,)


def _name(model: type[BaseModel], *path: str) -> Iterator[tuple[type[BaseModel], tuple[str, ...]]]:
    yield model, path
    for name in model.model_fields:
        if (deeper := _section(model, name)) is not None:
            yield from _name(deeper, *path, name)


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a section; None for a value, or for one of several kinds of value."""
    annotation = model.model_fields[name].annotation
    is_section = isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel)
    return annotation if is_section else None

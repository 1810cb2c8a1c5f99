"""Generated reference: the parts of the documentation that are made from the program, as hooks of MkDocs.

A page that holds `<!-- generated: settings -->` gets that table in its place; so for every name in `GENERATORS`.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "src"))

from metal_defects import config

MODELS = {"config": config.Config, "params": config.Params, "schema": config.DataSchema}
_BOUNDS = {
    "minimum": "≥ ",
    "exclusiveMinimum": "> ",
    "maximum": "≤ ",
    "exclusiveMaximum": "< ",
    "multipleOf": "multiple of ",
}
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "null": "`null`"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what a page asks for; MkDocs calls this for every page.

    Raises:
        KeyError: a page asks for something that is not generated.
    """
    return re.sub(r"<!-- generated: (\w+) -->", lambda match: GENERATORS[match[1]](), markdown)


# --- settings --------------------------------------------------------------------------------


def show_settings() -> str:
    """A chapter per file, a table per section: key, default, what is allowed, meaning."""
    return "\n\n".join(_show_file(part, file) for part, file in config.FILES.items())


def _show_file(part: str, file: str) -> str:
    text = (PROJECT / file).read_text(encoding="utf-8")
    values, notes, schema = yaml.safe_load(text), read_comments(text), MODELS[part].model_json_schema()
    sections: dict[str, list[str]] = {}
    for key, rule in list_keys(schema, schema):
        section = key.partition(".")[0]
        default = _look_up(values, key, rule.get("default"))
        allowed = describe_rule(rule, schema)
        note = _leave_out_choices(notes.get(key) or rule.get("description", ""), allowed)
        row = (f"`{key}`", f"`{_show_value(default)}`", allowed, note)
        sections.setdefault(section, []).append(_row(row))
    chapters = []
    for section, rows in sections.items():
        about = notes.get(section, "")
        title = [f"### {section}", ""] + ([about[0].upper() + about[1:] + ".", ""] if about and len(rows) > 1 else [])
        chapters.append("\n".join([*title, *_head("key", "default", "allowed", "meaning"), *rows]))
    return f"## {file}\n\n" + "\n\n".join(chapters)


def list_keys(
    schema: Mapping[str, Any], whole: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted keys that hold a value, as `--set` takes them, each with its rule in the JSON schema of a model."""
    for name, rule in schema["properties"].items():
        inner = _resolve(rule, whole)
        if "properties" in inner:
            yield from list_keys(inner, whole, f"{above}{name}.")
        else:
            yield f"{above}{name}", rule


def describe_rule(rule: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    rule = _resolve(rule, whole)
    if "anyOf" in rule:
        return " or ".join(dict.fromkeys(describe_rule(option, whole) for option in rule["anyOf"]))
    if "enum" in rule or "const" in rule:
        return ", ".join(f"`{_show_value(value)}`" for value in rule.get("enum", [rule.get("const")]))
    if "properties" in rule:
        return "`{" + ", ".join(f"{name}: …" for name in rule["properties"]) + "}`"
    if "prefixItems" in rule:
        return "`[low, high]`"
    kind = rule.get("type")
    if kind == "array":
        least = f", at least {rule['minItems']}" if rule.get("minItems") else ""
        return f"list of: {describe_rule(rule['items'], whole)}{least}"
    if kind == "object":
        return f"mapping of names to: {describe_rule(rule['additionalProperties'], whole)}"
    if kind == "boolean":
        return "`true`, `false`"
    if rule.get("format") == "path":
        return "path"
    bounds = [f"{sign}{rule[name]:.10g}" for name, sign in _BOUNDS.items() if name in rule]
    pattern = [f"matches `{rule['pattern']}`"] if "pattern" in rule else []
    return ", ".join([_TYPES[kind], *bounds, *pattern])


def read_comments(text: str) -> dict[str, str]:
    """The comment behind each key of a YAML file, with the comment lines that go on below it, by dotted key."""
    lines, found, taken = text.splitlines(), {}, set()
    for key, line in _list_places(yaml.compose(text)):
        if line in taken:  # an inner key of {…}: the comment is about the whole
            continue
        taken.add(line)
        parts = [lines[line].partition(" #")[2].strip()]
        for below in lines[line + 1 :]:
            if not below.lstrip().startswith("#"):
                break
            parts.append(below.strip(" #"))
        found[key] = " ".join(filter(None, parts))
    return found


def _leave_out_choices(note: str, allowed: str) -> str:
    """A comment without the list of choices that it begins with, when that says no more than what is allowed."""
    begin = re.match(r"(\w+(?: \| \w+)+)[,:]?\s*", note)
    if begin and set(begin[1].split(" | ")) == set(re.findall("`'?(.+?)'?`", allowed)):
        return note[begin.end() :]
    return note


def _list_places(node: yaml.Node, above: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield f"{above}{name.value}", name.start_mark.line
            yield from _list_places(value, f"{above}{name.value}.")


def _resolve(rule: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in rule:
        rule = whole["$defs"][rule["$ref"].rpartition("/")[2]]
    return rule


def _look_up(values: Any, key: str, default: Any) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return default if values is None else values


def _show_value(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


# --- stages ----------------------------------------------------------------------------------


def show_stages() -> str:
    """The table of the pipeline: what each stage does, and which settings and things from outside it reads."""
    from metal_defects.pipeline.table import STAGES

    rows = []
    for stage in STAGES:
        outside = ", ".join(one.name for one in stage.outside) or "–"
        rows.append(_row((f"`{stage.name}`", stage.summary, _list_code(stage.settings), outside)))
    return "\n".join([*_head("stage", "what it does", "settings it reads", "reads from outside"), *rows])


def show_artifacts() -> str:
    """The catalogue: what each file holds, who writes it and who reads it."""
    from metal_defects.artifacts import ARTIFACTS
    from metal_defects.pipeline.table import readers

    rows = []
    for artifact in ARTIFACTS:
        file = f"`{artifact.writer}/`" if artifact.file == "." else f"`{artifact.name}`"
        rows.append(_row((file, artifact.what, ", ".join(stage.number for stage in readers(artifact)) or "people")))
    return "\n".join([*_head("file under artifacts/", "holds", "read by"), *rows])


# --- commands --------------------------------------------------------------------------------


def show_commands() -> str:
    """A chapter per command: its help, its examples, and a table of its options."""
    from typer.main import get_command

    from metal_defects.cli.main import app

    return "\n\n".join(_show_command(name, command) for name, command in get_command(app).commands.items())


def _show_command(name: str, command: Any) -> str:
    rows = [_row(_describe_option(option)) for option in command.params if option.name != "help"]
    head = _head("option", "default", "meaning")
    return "\n\n".join([f"## {name}", _show_help(command.help or ""), "\n".join([*head, *rows])])


def _describe_option(option: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{text}`" for text in option.opts) if option.opts[0].startswith("-") else f"`{option.metavar}`"
    default = "" if option.default in (None, False, ()) or callable(option.default) else f"`{option.default}`"
    variable = f" Environment: `{option.envvar}`." if getattr(option, "envvar", None) else ""
    return names, default, _plain(getattr(option, "help", "") or "") + variable


def _show_help(text: str) -> str:
    """Paragraphs; a line that starts with the program's name is an example."""
    paragraphs = [part.strip() for part in _plain(text).split("\n\n")]
    return "\n\n".join(f"```sh\n{part}\n```" if part.startswith("python main.py") else part for part in paragraphs)


def _plain(text: str) -> str:
    """Without the markup of Rich and the marks of typer."""
    return re.sub(r"\[/?\w+\]", "", text).replace("\b", "")


# --- tables ----------------------------------------------------------------------------------


def _head(*titles: str) -> tuple[str, str]:
    return _row(titles), "| " + " | ".join("---" for _ in titles) + " |"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(re.sub(r"\s*\|\s*", ", ", " ".join(cell.split())) for cell in cells) + " |"


def _list_code(names: tuple[str, ...]) -> str:
    return "<br>".join(f"`{name}`" for name in names) or "–"


GENERATORS = {
    "settings": show_settings,
    "stages": show_stages,
    "artifacts": show_artifacts,
    "commands": show_commands,
}

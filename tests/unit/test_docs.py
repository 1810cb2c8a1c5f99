"""The documentation: what is generated is complete, and the site is built without a network."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from support import PROJECT
from typer.main import get_command

from metal_defects.artifacts import ARTIFACTS
from metal_defects.cli.main import app
from metal_defects.config import FILES
from metal_defects.pipeline.table import STAGES

PAGES = sorted((PROJECT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", PROJECT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES.values())
def test_every_key_of_the_files_is_a_setting_with_its_default_and_a_meaning(generate: ModuleType, file: str) -> None:
    rows = _read_rows(generate.show_settings())
    values = yaml.safe_load((PROJECT / file).read_text(encoding="utf-8"))
    missing = [key for key in _list_leaves(values) if not any(row == key or key.startswith(f"{row}.") for row in rows)]
    assert not missing
    for key, (default, allowed, meaning) in rows.items():
        value = _look_up(values, key)
        assert allowed
        assert meaning, key
        assert value is None or yaml.safe_load(default.strip("`")) == value


def test_a_setting_shows_its_type_its_range_and_its_comment(generate: ModuleType) -> None:
    rows = _read_rows(generate.show_settings())
    default, allowed, meaning = rows["data_ingestion.max_quarantined_share"]
    assert (default, allowed) == ("`0.05`", "number, ≥ 0, ≤ 1")
    assert meaning == "more unusable files than this and the stage stops"
    assert rows["data_preprocessing.image_size"][1] == "`auto` or whole number, ≥ 64, ≤ 1024, multiple of 32"
    assert rows["data.path"][1] == "path or `null`"


def test_comments_go_on_below_their_key(generate: ModuleType) -> None:
    text = "split: auto  # one\n             # and two\nrate: {low: 1, high: 2}  # both\n"
    assert generate.read_comments(text) == {"split": "one and two", "rate": "both"}


def test_every_stage_and_every_artifact_is_listed(generate: ModuleType) -> None:
    stages, artifacts = generate.show_stages(), generate.show_artifacts()
    assert all(f"`{stage.name}`" in stages for stage in STAGES)
    assert all(artifact.what in artifacts for artifact in ARTIFACTS)


def test_every_command_and_every_option_is_listed(generate: ModuleType) -> None:
    text = generate.show_commands()
    for name, command in get_command(app).commands.items():
        chapter = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        options = [option.opts[0] for option in command.params if option.opts[0].startswith("--")]
        assert [option for option in options if option != "--help" and f"`{option}`" not in chapter] == []


def test_a_page_cannot_ask_for_what_is_not_generated(generate: ModuleType) -> None:
    with pytest.raises(KeyError):
        generate.on_page_markdown("<!-- generated: nothing -->")


def test_every_page_is_in_the_navigation() -> None:
    navigation = re.findall(r": ([\w-]+\.md)$", (PROJECT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(navigation) == [page.name for page in PAGES]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_and_pictures_of_the_pages_at_the_top_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)", (PROJECT / name).read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (PROJECT / target).exists()] == []


def test_files_that_a_recipe_names_exist() -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {path for path in re.findall(r"`((?:src|tests)/[\w./]+\.py)`", text) if "name" not in Path(path).stem}
    assert len(named) > 10
    assert [path for path in sorted(named) if not (PROJECT / path).is_file()] == []


@pytest.mark.slow
def test_site_is_built_without_a_network_and_asks_for_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    offline = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=os.environ | offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        html = (tmp_path / page.with_suffix(".html").name).read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//[^"]+', html), page.name
        assert "generated:" not in html
    assert not list(tmp_path.rglob("*.py"))


def _read_rows(text: str) -> dict[str, tuple[str, ...]]:
    """Cells behind the key, by key."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): tuple(cell.strip() for cell in (*cells[1:], "")[:3]) for cells in lines}


def _list_leaves(values: Any, above: str = "") -> list[str]:
    if not isinstance(values, dict):
        return [above]
    return [leaf for name, value in values.items() for leaf in _list_leaves(value, f"{above}.{name}".lstrip("."))]


def _look_up(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values

"""What is installed: every package that a program imports is declared, pinned, and brought by the right extra."""

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from support import PROJECT

PACKAGE = PROJECT / "src" / "metal_defects"
TRAINING = {"tensorflow", "tensorflow-cpu", "keras", "scikit-learn", "scipy", "matplotlib", "joblib", "torch"}
# Where a package is imported by another name than it is installed by.
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml", "python-box": "box", "scikit-learn": "sklearn"}
# By streamlit, whose elements take them, and by matplotlib.
BROUGHT_ALONG = {"pandas", "altair", "cycler"}
# What each program imports when it starts, and the extra that has to bring it.
PROGRAMS = {"cli.main": (), "api.server": ("serve",), "app.main": ("app",)}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_starts_with_what_its_extra_brings(program: str) -> None:
    brought = _list_import_names("", *PROGRAMS[program])
    assert not _follow_imports(program) - brought - BROUGHT_ALONG


def test_every_imported_package_is_declared() -> None:
    imported = {module.split(".")[0] for path in PACKAGE.rglob("*.py") for module in _list_imports(path)}
    declared = _list_import_names("", "serve", "app", "train-base", "gpu")
    assert imported - {"metal_defects"} - set(sys.stdlib_module_names) - BROUGHT_ALONG <= declared


def test_only_training_brings_what_training_needs() -> None:
    for extra in ("", "serve", "app"):
        assert not TRAINING & {requirement.name for requirement in _read_requirements(extra)}


def test_every_file_that_is_shipped_exists() -> None:
    for patterns in _read_project()["tool"]["setuptools"]["data-files"].values():
        assert all(list(PROJECT.glob(pattern)) for pattern in patterns)


def test_every_requirement_is_pinned_within_its_range() -> None:
    pins = _read_pins()
    for extra in ("", "serve", "app", "train-base", "train", "dev"):
        for requirement in _read_requirements(extra):
            versions = pins[requirement.name.lower()]
            assert all(requirement.specifier.contains(version) for version in versions), requirement


@pytest.mark.parametrize("path", sorted(PROJECT.glob("requirements*.txt")), ids=lambda path: path.name)
def test_requirements_name_extras_and_the_pins(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines[0] == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[(.+)\]", lines[1])
    assert extras is not None
    assert set(extras[1].split(",")) <= set(_read_project()["project"]["optional-dependencies"])
    assert len(lines) == 2


def test_constraints_say_how_they_were_made() -> None:
    command = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1]
    extras = tuple(f"--extra {extra}" for extra in ("train", "serve", "app", "dev"))
    for name in ("pyproject.toml", *extras, "-o constraints.txt"):
        assert f" {name}" in command


def _read_project() -> dict[str, Any]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def _read_requirements(extra: str) -> list[Requirement]:
    """What an extra brings, the base for ""; without the other extras of this project that it names."""
    project = _read_project()["project"]
    texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != project["name"]]


def _list_import_names(*extras: str) -> set[str]:
    names = {requirement.name for extra in extras for requirement in _read_requirements(extra)}
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


def _read_pins() -> dict[str, set[str]]:
    """Versions by package."""
    text = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    pins: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, flags=re.MULTILINE):
        pins.setdefault(package.lower(), set()).add(version)
    return pins


def _follow_imports(program: str) -> set[str]:
    """Packages of others that are imported when a module of ours is, by it or by what it imports of ours."""
    seen: set[str] = set()
    waiting, others = [f"metal_defects.{program}"], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        place = PACKAGE.joinpath(*module.split(".")[1:])
        path = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        for name in _list_imports(path, within_functions=False):
            if name.startswith("metal_defects"):
                waiting.append(name)
            else:
                others.add(name.split(".")[0])
    return others - set(sys.stdlib_module_names)


def _list_imports(path: Path, within_functions: bool = True) -> set[str]:
    """Modules that a file imports, unless only a type checker would."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not within_functions:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` names a module only where there is a file of that name.
            found |= {node.module}
            found |= {f"{node.module}.{alias.name}" for alias in node.names if _is_ours(f"{node.module}.{alias.name}")}
        waiting += ast.iter_child_nodes(node)
    return found


def _is_ours(module: str) -> bool:
    return PROJECT.joinpath("src", *module.split(".")).with_suffix(".py").is_file()

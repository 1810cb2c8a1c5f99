"""Tests of what builds, ships and runs the image: linters, and rules that no linter knows."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import PROJECT
from support.dockerfile import Context, Stage, read_stages

WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return read_stages(PROJECT / "Dockerfile")


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(PROJECT)


def test_hadolint_finds_nothing() -> None:
    assert _lint("hadolint", "Dockerfile") == ""


def test_actionlint_finds_nothing() -> None:
    shellcheck = _find_tool("shellcheck")
    assert _lint("actionlint", "-no-color", "-shellcheck", shellcheck, *map(str, WORKFLOWS)) == ""


def test_shellcheck_finds_nothing() -> None:
    assert _lint("shellcheck", "docker/entrypoint.sh") == ""


def test_every_stage_starts_from_the_same_exact_version(stages: list[Stage]) -> None:
    assert len(stages) == 2
    assert len({stage.base for stage in stages}) == 1
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+", stages[0].base)


def test_image_runs_as_a_numeric_user_without_rights(stages: list[Stage]) -> None:
    user, group = stages[-1].last("USER").split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    assert stages[-1].steps.index(("USER", f"{user}:{group}")) > max(
        index for index, (name, _) in enumerate(stages[-1].steps) if name in ("COPY", "RUN")
    )


def test_image_needs_no_place_to_write_but_tmp(stages: list[Stage]) -> None:
    variables = stages[-1].pairs("ENV")
    assert variables["HOME"] == "/tmp"
    assert variables["METAL_DEFECTS__PATHS__LOGS"].startswith("/tmp/")
    assert variables["PYTHONDONTWRITEBYTECODE"] == "1"
    assert not stages[-1].all("RUN")
    assert not stages[-1].all("VOLUME")


def test_image_runs_the_app_by_default_and_listens_where_it_says(stages: list[Stage]) -> None:
    assert stages[-1].words("CMD") == ["app"]
    assert stages[-1].last("EXPOSE") == stages[-1].pairs("ENV")["PORT"]
    script = (PROJECT / "docker" / "entrypoint.sh").read_text(encoding="utf-8")
    assert script.count('"$PORT"') == 2


def test_entrypoint_is_executable() -> None:
    assert (PROJECT / "docker" / "entrypoint.sh").stat().st_mode & 0o111 == 0o111


def test_everything_that_is_copied_is_in_the_context(stages: list[Stage], context: Context) -> None:
    files = set(context.files())
    sources = _list_copied(stages)
    missing = [source for source in sources if not any(f"{file}/".startswith(f"{source}/") for file in files)]
    assert not missing


def test_everything_in_the_context_is_copied(stages: list[Stage], context: Context) -> None:
    sources = _list_copied(stages)
    unused = [file for file in context.files() if not any(f"{file}/".startswith(f"{source}/") for source in sources)]
    assert not unused


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".venv/bin/python",
        ".venv-serve/bin/python",
        ".streamlit/secrets.toml",
        "artifacts/07_hyperparameter_tuning/tuned_model.h5",
        "logs/metal_defects.log",
        "weights/resnet50.h5",
        "downloads/neu.zip",
        "tests/conftest.py",
        "research/notebook.ipynb",
        "requirements.txt",
        "main.py",
        "docs/index.md",
        "id_rsa",
        "config/.DS_Store",
        "src/metal_defects/__pycache__/cli.cpython-312.pyc",
        "src/metal_defects/api/__pycache__/routes.cpython-312.pyc",
        "src/metal_defects.egg-info/PKG-INFO",
    ],
)
def test_context_leaves_out(context: Context, path: str) -> None:
    assert not context.holds(path)


def test_image_holds_what_the_extras_of_serving_bring(stages: list[Stage]) -> None:
    install = next(text for text in stages[0].all("RUN") if " install " in text)
    assert '-c constraints.txt ".[serve,app]"' in install


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: *(.+)", path.read_text(encoding="utf-8"))
    assert used
    loose = [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)]
    assert not loose


def test_an_action_has_one_version_in_all_workflows() -> None:
    used = {line for path in WORKFLOWS for line in re.findall(r"uses: *(.+)", path.read_text(encoding="utf-8"))}
    names = [line.partition("@")[0] for line in used]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_have_few_rights_and_end(path: Path) -> None:
    workflow = _read_yaml(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        rights = [name for name, right in job.get("permissions", {}).items() if right == "write"]
        assert set(rights) <= {"packages"}


def test_ci_runs_on_every_supported_version_of_python() -> None:
    matrix = _read_yaml(PROJECT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12"]


def test_image_is_pushed_with_its_record_and_deployed_by_digest() -> None:
    jobs = _read_yaml(PROJECT / ".github" / "workflows" / "docker-build-push.yml")["jobs"]
    builds = [step for step in jobs["image"]["steps"] if "build-push-action" in step.get("uses", "")]
    assert [step["with"].get("push", False) for step in builds] == [False, True]
    assert builds[1]["with"]["sbom"] is True
    assert builds[1]["with"]["provenance"] == "mode=max"
    assert "pull_request" in builds[1]["if"]
    call = jobs["deploy"]["steps"][0]["run"]
    assert '--data-urlencode "imgURL=ghcr.io/${GITHUB_REPOSITORY,,}@$DIGEST"' in call


def test_render_runs_app_and_api_on_the_free_plan() -> None:
    app, api = _read_yaml(PROJECT / "render.yaml")["services"]
    for service in (app, api):
        assert (service["type"], service["runtime"], service["plan"]) == ("web", "image", "free")
        assert service["image"]["url"].startswith("ghcr.io/")
    assert app["image"] == api["image"]
    assert "dockerCommand" not in app
    assert api["dockerCommand"].split() == [*read_stages(PROJECT / "Dockerfile")[-1].words("ENTRYPOINT"), "api"]
    assert {"key": "METAL_DEFECTS_API_KEY", "generateValue": True} in api["envVars"]


def _lint(tool: str, *arguments: str) -> str:
    """What a linter says; nothing when all is well."""
    done = subprocess.run([_find_tool(tool), *arguments], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def _find_tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install -r requirements-test.txt brings it on Linux x86-64")
    return found


def _read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _list_copied(stages: list[Stage]) -> list[str]:
    """What COPY takes out of the context, in all stages."""
    copied = [text for stage in stages for text in stage.all("COPY") if not text.startswith("--from=")]
    return [source for text in copied for source in text.split()[:-1]]

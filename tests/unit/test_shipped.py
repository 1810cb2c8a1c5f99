"""The settings and the model that come with the program are found wherever it is."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support import PROJECT

from metal_defects import shipped
from metal_defects.errors import ConfigError

NAMES = ("params.yaml", "schema.yaml", "config/config.yaml", "bundles/neu", "bundles/neu/bundle.json")
FIND = "import sys; from metal_defects.shipped import find_shipped; print(*map(find_shipped, sys.argv[1:]), sep='\\n')"
PREDICT = "import sys; sys.argv[0] = 'metal-defects'; sys.argv.insert(1, 'predict'); "
PREDICT += "from metal_defects.cli.main import main; main()"


@pytest.mark.parametrize("name", NAMES)
def test_a_checkout_has_them_at_its_top(name: str) -> None:
    assert shipped.find_shipped(name) == PROJECT / name


def test_what_is_not_shipped_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'no/such\.yaml'"):
        shipped.find_shipped("no/such.yaml")


def test_files_above_an_installed_package_are_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text("somebody: else")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "lib" / "metal_defects")
    monkeypatch.setattr(shipped, "DISTRIBUTION", "no-such-distribution")
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        shipped.find_shipped("params.yaml")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install .` installs, built from a copy, so that nothing is left behind in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    project = folder / "project"
    for name in ("src", "config", "bundles"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "params.yaml", "schema.yaml"):
        shutil.copy(PROJECT / name, project)
    _pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(project))
    return next(folder.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--target", "--prefix"])
def test_an_installed_package_has_them_wherever_it_was_put(wheel: Path, tmp_path: Path, option: str) -> None:
    place = tmp_path / "place"
    _pip("install", option, str(place), str(wheel))
    paths = {"base": str(place), "platbase": str(place)}
    packages = place if option == "--target" else Path(sysconfig.get_path("purelib", vars=paths))
    found = _run(sys.executable, "-c", FIND, *NAMES, cwd=tmp_path, PYTHONPATH=str(packages)).splitlines()
    assert found == [str(place / shipped.SHARE / name) for name in NAMES]
    assert (place / shipped.SHARE / "bundles" / "neu" / "model.onnx").is_file()
    package = packages / "metal_defects"
    assert all(list(package.glob(pattern)) for pattern in ("report/templates/report.html*", "app/samples/*.png"))
    sample = str(next(package.glob("app/samples/scratches_*.png")))
    answer = _run(sys.executable, "-c", PREDICT, sample, "--json", cwd=tmp_path, PYTHONPATH=str(packages))
    assert json.loads(answer)["label"] == "Scratches"


def _pip(command: str, *options: str) -> None:
    _run(sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *options, cwd=PROJECT.parent)


def _run(*command: str, cwd: Path, **variables: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

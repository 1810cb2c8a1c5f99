"""`priors` on the command line: shares that a setting takes, and what it refuses."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support import PROJECT
from support.toy_bundles import COLOURS, paint, save, write_bundle
from typer.testing import CliRunner, Result

from metal_defects.cli.main import app
from metal_defects.errors import BundleError
from metal_defects.log import logger


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Result]]:
    environment = {
        "METAL_DEFECTS_ROOT": str(PROJECT),
        "METAL_DEFECTS__PATHS__LOGS": str(tmp_path / "logs"),
        "COLUMNS": "160",
    }
    before = logger.propagate, list(logger.handlers)
    yield lambda *arguments: CliRunner().invoke(app, ["priors", *map(str, arguments)], env=environment)
    logger.propagate, logger.handlers[:] = before


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """Twenty images of the first colour and five of the second."""
    (tmp_path / "line").mkdir()
    for number in range(25):
        colour = list(COLOURS)[0 if number < 20 else 1]
        save(tmp_path / "line" / f"{number}.png", paint(colour, seed=number))
    return tmp_path / "line"


def test_shares_can_be_pasted_into_the_settings(run: Callable[..., Result], line: Path, tmp_path: Path) -> None:
    count = len(COLOURS)
    bundle = write_bundle(tmp_path / "bundle", priors=[1 / count] * count)
    result = run(line, "--bundle", bundle)
    assert result.exit_code == 0, result.output
    assert "by 25 of 25 images" in result.output
    block = result.output.partition("--from 08`:\n")[2]
    shares = yaml.safe_load(block)["model_evaluation"]["priors"]
    first, second, *others = shares.values()
    assert list(shares) == list(COLOURS)
    assert first == pytest.approx(0.8, abs=0.05) and second == pytest.approx(0.2, abs=0.05)
    assert all(0 < share < 0.05 for share in others)


def test_a_bundle_without_shares_is_refused(run: Callable[..., Result], line: Path, tmp_path: Path) -> None:
    result = run(line, "--bundle", write_bundle(tmp_path / "bundle"))
    assert isinstance(result.exception, BundleError)
    assert "run --from 08" in str(result.exception)

"""Takes the two pictures of the README: `--help` tells the rest."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "src"), str(PROJECT / "tests")]

import typer
from PIL import Image
from support.browser import Browser, run_app

from metal_defects.artifacts import BUNDLE, REPORT_PAGE
from metal_defects.config import load_settings
from metal_defects.errors import UserError
from metal_defects.files import atomic_path

IMAGES = PROJECT / "docs" / "images"
SAMPLES = PROJECT / "src" / "metal_defects" / "app" / "samples"
WIDTH, HEIGHT = 1100, 760
QUALITY = 72


def main(
    artifacts: Annotated[
        Path | None, typer.Option("--artifacts", metavar="DIR", help="Of a finished run; else those of config.yaml.")
    ] = None,
    drawn: Annotated[
        Path | None, typer.Option("--drawn", metavar="DIR", help="Of a run on the synthetic set; else the same.")
    ] = None,
) -> None:
    """Write docs/images/app.webp and docs/images/report.webp.

    The app shows its built-in drawings, answered by the model of a run on such drawings; the report is that of a
    finished run. Needs chromium and chromedriver.
    """
    artifacts = (artifacts or load_settings(PROJECT).config.paths.artifacts).absolute()
    report = artifacts / REPORT_PAGE.name
    if not report.exists():
        raise UserError(f"The picture of the report needs a finished run: `python main.py run`. Got {report}.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with (
            run_app((drawn or artifacts).absolute() / BUNDLE.name, folder) as address,
            Browser(folder / "browser", WIDTH, HEIGHT) as browser,
        ):
            browser.open(address)
            browser.wait_for("Which defect is it?")
            browser.upload(*sorted(SAMPLES.glob("*.png"))[::2])
            browser.wait_for("CSV ·")
            browser.screenshot(folder / "app.png")
            browser.open(report.as_uri())
            browser.capture(folder / "report.png")
        for name, height in (("app", 1000), ("report", HEIGHT)):
            _shrink(folder / f"{name}.png", IMAGES / f"{name}.webp", height)


def _shrink(source: Path, target: Path, height: int) -> None:
    """The upper part of a screenshot as a small WebP file."""
    with Image.open(source) as image, atomic_path(target) as partial:
        image.convert("RGB").crop((0, 0, image.width, min(height, image.height))).save(partial, quality=QUALITY)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        sys.exit(1)

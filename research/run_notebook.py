"""Executes research.ipynb in place on the artifacts of a finished run: `--help` tells the rest."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import typer

from metal_defects.artifacts import SOURCE
from metal_defects.config import load_settings
from metal_defects.data.manifest import SourceCard
from metal_defects.errors import UserError
from metal_defects.files import write_text
from metal_defects.log import console, library_noise_to
from metal_defects.pipeline.runner import LOCK
from metal_defects.pipeline.table import STAGES
from metal_defects.records import read_record

if TYPE_CHECKING:
    from nbformat import NotebookNode

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOK = Path(__file__).with_name("research.ipynb")
ARTIFACTS_VARIABLE = "METAL_DEFECTS__PATHS__ARTIFACTS"
# Of one cell; on a slow machine the comparison of taps takes minutes.
TIMEOUT_SECONDS = 3600

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    artifacts: Annotated[
        Path | None,
        typer.Option("--artifacts", metavar="DIR", help="Results of a finished run; without it, those of config.yaml."),
    ] = None,
) -> None:
    """Execute research.ipynb and store the outputs in it.

    The notebook reads what `python main.py run` wrote, and names the data that it was made on. Its pictures of
    surfaces are drawings of the synthetic set; no photograph and no path of this machine gets into the file.
    """
    paths = load_settings(PROJECT).config.paths
    folder = artifacts.expanduser().absolute() if artifacts else paths.artifacts
    check_artifacts(folder)
    os.environ[ARTIFACTS_VARIABLE] = str(folder)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    console.print("Executing research.ipynb; comparing the taps of every network takes a few minutes ...")
    paths.logs.mkdir(parents=True, exist_ok=True)
    with library_noise_to(paths.logs / "libraries.log"):
        notebook = execute(NOTEBOOK)
    strip_volatile(notebook)
    images = Path(read_record(folder / SOURCE.name, SourceCard).root)
    refuse_paths(notebook, [PROJECT, folder, images, Path.home()])
    import nbformat

    write_text(NOTEBOOK, nbformat.writes(notebook) + "\n")
    console.print(f"Written: {NOTEBOOK} ({NOTEBOOK.stat().st_size / 1e6:.2f} MB)", soft_wrap=True, highlight=False)


def check_artifacts(folder: Path) -> None:
    """Refuse a folder without a finished run.

    Raises:
        UserError: naming the first stage that has no result.
    """
    for stage in STAGES:
        if not (folder / stage.name / LOCK).exists():
            raise UserError(
                "The notebook reads a finished run: call `python main.py run` first, or name another folder with "
                f"--artifacts DIR. Stage {stage.name} has no result in {folder}."
            )


def execute(path: Path) -> "NotebookNode":
    """Run all cells in a fresh kernel of this environment.

    Raises:
        UserError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        return client.execute()
    except CellExecutionError as error:
        failed = f"{error.ename}: {error.evalue}"
        raise UserError(f"A cell of {path.name} failed; the file is unchanged. Got {failed}") from error


def strip_volatile(notebook: "NotebookNode") -> None:
    """Drop what changes from run to run although the results do not."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}


def refuse_paths(notebook: "NotebookNode", folders: list[Path]) -> None:
    """Keep the folders of a machine out of a file that is shared.

    Raises:
        UserError: an output names one of `folders`.
    """
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            shown = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
            text = f"{output.get('text', '')}{shown}"
            for folder in folders:
                if str(folder) in text:
                    raise UserError(f"Cell {number} shows a path of this machine; the file is unchanged. Got {folder}.")


if __name__ == "__main__":
    try:
        app()
    except UserError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        sys.exit(1)

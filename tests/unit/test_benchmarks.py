"""The benchmark scripts and the research notebook: help, folds that cannot leak, and no path of any machine."""

import base64
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import PROJECT

from metal_defects.errors import UserError

NOTEBOOK = PROJECT / "research" / "research.ipynb"
SCRIPTS = (
    "benchmarks/acceptance.py",
    "benchmarks/cross_validation.py",
    "benchmarks/leakage.py",
    "benchmarks/overlaps.py",
    "benchmarks/custom_cnn.py",
    "benchmarks/synthetic_to_real.py",
    "benchmarks/localisation.py",
    "benchmarks/pipeline_time.py",
    "benchmarks/protocols.py",
    "benchmarks/robustness.py",
    "benchmarks/serving.py",
    "benchmarks/unknown_surfaces.py",
    "research/run_notebook.py",
)
MOST_BYTES = 1_500_000


@pytest.fixture(scope="module")
def load() -> Callable[[str], ModuleType]:
    """Imports a script by its name."""
    before = list(sys.path)
    sys.path[:0] = [str(PROJECT / "benchmarks"), str(PROJECT / "research")]
    yield importlib.import_module
    sys.path[:] = before


def call(script: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(PROJECT / script), *arguments], capture_output=True, text=True, cwd=folder, timeout=120
    )


def test_every_script_is_listed() -> None:
    found = {path.name for path in (PROJECT / "benchmarks").glob("[!_]*.py")}
    assert found == {Path(script).name for script in SCRIPTS if script.startswith("benchmarks")}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches(script: str, tmp_path: Path) -> None:
    done = call(script, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 40
    assert list(tmp_path.iterdir()) == []


def test_missing_data_is_one_sentence(tmp_path: Path) -> None:
    done = call("benchmarks/cross_validation.py", "--data", str(tmp_path / "nowhere"), folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].endswith("which does not exist.")


# --- folds -----------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(2, 5), valid_share=st.sampled_from([0.05, 0.1, 0.5]))
def test_folds_test_everything_once_and_never_part_copies(
    load: Callable[[str], ModuleType], seed: int, count: int, valid_share: float
) -> None:
    labels = np.repeat(np.arange(3), 60)
    groups = np.arange(180) // np.where(np.arange(180) < 30, 3, 1)
    tested = []
    for fold in load("cross_validation").make_folds(labels, groups, count, valid_share, seed):
        sides = [fold["train"], fold["valid"], fold["test"]]
        assert sorted(np.concatenate(sides)) == list(range(180))
        owners = [set(groups[side]) for side in sides]
        assert not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])
        assert set(labels[fold["valid"]]) == {0, 1, 2}
        tested += list(fold["test"])
    assert sorted(tested) == list(range(180))


def test_folds_repeat_with_the_seed(load: Callable[[str], ModuleType]) -> None:
    make_folds = load("cross_validation").make_folds
    labels, groups = np.tile(np.arange(2), 50), np.arange(100)
    first, again, other = ([f["test"].tolist() for f in make_folds(labels, groups, 5, 0.1, s)] for s in (1, 1, 2))
    assert first == again != other


def test_known_images_follow_the_order_of_the_splits(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    from metal_defects.artifacts import IMAGES, LABELS, MANIFEST
    from metal_defects.config import load_settings
    from metal_defects.data.manifest import ImageRow, ManifestRow
    from metal_defects.records import write_rows

    place = load("_common").Workspace(load_settings(PROJECT, [f"paths.artifacts={tmp_path}"]), tmp_path)
    for artifact in (MANIFEST, IMAGES, LABELS):
        place.path(artifact).parent.mkdir(exist_ok=True)
    shared = {"label": "x", "sha256": ""}
    sizes = {"width": 8, "height": 8, "boxes": ()}
    splits = {"a.png": "test", "b.png": "train", "c.png": "valid"}
    groups = {"a.png": "a.png", "b.png": "a.png", "c.png": "c.png"}
    rows = [ManifestRow(path=path, split=splits[path], group=groups[path], **shared, **sizes) for path in splits]
    images = [
        ImageRow(path=f"x/{path}", source=path, group=groups[path], split=splits[path], **shared) for path in splits
    ]
    write_rows(place.path(MANIFEST), ManifestRow, rows)
    write_rows(place.path(IMAGES), ImageRow, images)
    place.path(LABELS).write_text('{"classes": ["x", "y"], "image_size": 64}')
    known = place.known
    assert [row.path for row in known.rows] == ["b.png", "c.png", "a.png"]
    assert known.groups.tolist() == ["a.png", "c.png", "a.png"]
    assert known.labels.tolist() == [0, 0, 0]


# --- options ---------------------------------------------------------------------------------


def test_seeds_are_numbers(load: Callable[[str], ModuleType]) -> None:
    parse_seeds = load("_common").parse_seeds
    assert parse_seeds(" 3, 1,2,") == [3, 1, 2]
    for text in ("", "one", "1;2", "-1", "1.5"):
        with pytest.raises(UserError, match="--seeds"):
            parse_seeds(text)


def test_machine_is_described_without_its_name(load: Callable[[str], ModuleType]) -> None:
    import platform

    machine = load("_common").describe_machine()
    assert machine["cores"] >= 1
    assert {"processor", "python", "numpy"} <= set(machine)
    assert platform.node() not in machine.values()


# --- the notebook ----------------------------------------------------------------------------


def test_notebook_wants_a_finished_run(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python main\.py run.*01_data_ingestion"):
        load("run_notebook").check_artifacts(tmp_path)


def test_paths_are_refused_in_texts_and_tables(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    from nbformat import v4

    refuse_paths = load("run_notebook").refuse_paths
    secret = tmp_path / "images"
    for output in (
        v4.new_output("stream", text=f"read {secret}/a.png\n"),
        v4.new_output("display_data", data={"text/html": f"<td>{secret}</td>"}),
    ):
        notebook = v4.new_notebook(cells=[v4.new_code_cell("", outputs=[output])])
        refuse_paths(notebook, [tmp_path / "elsewhere"])
        with pytest.raises(UserError, match="Cell 0"):
            refuse_paths(notebook, [secret])


def test_stored_notebook_is_complete_small_and_anonymous() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    cells = json.loads(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"display_data"}
    told = json.dumps([{k: v for k, v in output["data"].items() if not k.startswith("image/")} for output in outputs])
    for root in ("/home/", "/root/", "/work/", "/tmp/", "/Users/", "C:\\\\"):
        assert root not in told


def test_pictures_of_the_stored_notebook_open() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    data = [output["data"] for cell in cells for output in cell.get("outputs", ())]
    pictures = [bundle[kind] for bundle in data for kind in bundle if kind.startswith("image/")]
    assert len(pictures) >= 8
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).verify()

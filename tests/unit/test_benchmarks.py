"""The benchmark scripts and the research notebook: help, folds that cannot leak, and no path of any machine."""

import base64
import importlib
import io
import json
import runpy
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
from metal_defects.metrics import Metrics, classification_metrics
from metal_defects.models.feature_bank import FeatureBank

NOTEBOOK = PROJECT / "research" / "research.ipynb"
SCRIPTS = (
    "benchmarks/acceptance.py",
    "benchmarks/any_surface.py",
    "benchmarks/plain_command.py",
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
def test_help_teaches(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(PROJECT / script), run_name="__main__")
    assert left.value.code == 0
    assert len(capsys.readouterr().out.split()) > 40
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


# --- drawn sets ------------------------------------------------------------------------------


def test_twenty_sets_are_different_and_small_enough(load: Callable[[str], ModuleType]) -> None:
    sets = load("_drawn_sets").DRAWN_SETS
    assert len({drawn.name for drawn in sets}) == len(sets) == 20
    for drawn in sets:
        # Fewer than 3 training images of a class and the validation part, a tenth of them, could not be had.
        assert min(drawn.counts.values()) >= 3 and sum(drawn.counts.values()) <= 350
        assert 190 <= sum(drawn.test_counts.values()) <= 210 and min(drawn.test_counts.values()) >= 5
    few = [drawn for drawn in sets if set(drawn.counts.values()) == {8}]
    rare = [drawn for drawn in sets if max(drawn.counts.values()) == 100 * min(drawn.counts.values())]
    many = [drawn for drawn in sets if len(drawn.counts) == 20]
    good = [drawn for drawn in sets if drawn.counts.get("good", 0) == 0.7 * sum(drawn.counts.values())]
    assert len(few) >= 2 and len(rare) >= 2 and len(many) >= 2 and len(good) == 1


def test_share_of_wrong_labels_is_that_of_the_set_and_the_test_has_none(load: Callable[[str], ModuleType]) -> None:
    module = load("_drawn_sets")
    for drawn in module.DRAWN_SETS:
        planned = module.plan_set(drawn, seed=3)
        wrong = [one for one in planned if one.shown != one.folder]
        assert {one.part for one in wrong} <= {"train"}
        assert len(wrong) == round(drawn.wrong_labels * sum(drawn.counts.values()))
        assert len({one.path for one in planned}) == len(planned)
        for part, counts in (("train", drawn.counts), ("test", drawn.test_counts)):
            shown = [one.shown for one in planned if one.part == part]
            assert {name: shown.count(name) for name in counts} == dict(counts)
    assert sum(drawn.wrong_labels > 0 for drawn in module.DRAWN_SETS) >= 2


def test_drawings_repeat_with_the_seed_and_no_two_are_equal(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("_drawn_sets")
    monkeypatch.setattr(module, "TEST_IMAGES", 0)
    few = next(drawn for drawn in module.DRAWN_SETS if drawn.name == "mixed_sizes")
    small = module.DrawnSet(few.name, dict.fromkeys(few.counts, 4), few.draw, wrong_labels=0.2)
    written = []
    for number, seed in enumerate((0, 0, 1)):
        root = tmp_path / str(number)
        module.write_set(root, small, seed)
        written.append({path.relative_to(root): path.read_bytes() for path in root.rglob("*.png")})
    assert written[0] == written[1] != written[2]
    assert len(set(written[0].values())) == len(written[0]) == 20 + 25
    sizes = {Image.open(io.BytesIO(data)).size for data in written[0].values()}
    assert sizes == {(width, height) for height, width in module.PARTS}


@pytest.mark.parametrize("kind", ["spot", "ring", "line", "double", "cross", "glint", "dent", "bulge", "wave"])
def test_a_mark_has_the_size_it_was_asked_for(load: Callable[[str], ModuleType], kind: str) -> None:
    module = load("_drawn_sets")
    assert set(module.MARKS) >= {kind}
    scene = module.Scene(size=(8, 8), contrast=(100, 100), grain=0, noise=0)
    levels = scene(np.random.default_rng(4), kind)
    rows, columns = np.nonzero(abs(levels - np.median(levels)) > 15)
    # A smooth one fades out beyond its size.
    most = 8 if kind in ("spot", "ring", "line", "double", "cross", "glint") else 20
    assert 2 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= most + 2
    good = scene(np.random.default_rng(4), "good")
    assert np.ptp(good) == 0


def test_colour_alone_tells_the_stains(load: Callable[[str], ModuleType]) -> None:
    module = load("_drawn_sets")
    drawn = next(drawn for drawn in module.DRAWN_SETS if drawn.name == "colour_alone")
    means = {kind: drawn.draw(np.random.default_rng(1), kind).mean(axis=(0, 1)) for kind in drawn.counts}
    assert means["rust"].argmax() == 0 and means["heat"].argmax() == 2 and means["oil"].argmin() == 2
    assert np.ptp(means["good"]) < np.ptp(means["oil"]) / 5


# --- single recipes --------------------------------------------------------------------------


def test_means_are_the_first_columns_of_each_tap(load: Callable[[str], ModuleType]) -> None:
    """Two channels and one, four statistics of each."""
    bank = FeatureBank({}, {"early": slice(0, 8), "deep": slice(8, 12)}, (), {})
    choose = load("_single_recipes").choose_columns
    assert choose(bank, ("early", "deep"), "mean").tolist() == [0, 1, 8]
    assert choose(bank, ("early", "deep"), "moments").tolist() == [0, 1, 2, 3, 8, 9]
    assert choose(bank, ("deep",), "moments+extremes").tolist() == [8, 9, 10, 11]


def test_regression_in_the_span_of_the_rows_answers_the_same(load: Callable[[str], ModuleType]) -> None:
    module = load("_single_recipes")
    random = np.random.default_rng(0)
    labels = np.arange(30) % 3
    rows = random.standard_normal((30, 50)) + labels[:, None] * np.linspace(0, 1, 50)
    tested = random.standard_normal((10, 50)) + 1
    recipe = module.Recipe("all", "mean", "none", 0.3, True)
    spanned = module.regress(*_with_labels(module.project(rows, tested), labels), recipe, 4)
    deviation = rows.std(axis=0)
    whole = ((part - rows.mean(axis=0)) / deviation for part in (rows, tested))
    plain = module.regress(*_with_labels(tuple(whole), labels), recipe, 4)
    assert spanned.shape == (10, 4) and not spanned[:, 3].any()
    np.testing.assert_allclose(spanned, plain, atol=2e-3)


def _with_labels(pair: tuple[np.ndarray, np.ndarray], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pair[0], labels, pair[1]


def test_summary_names_failures_and_sets_that_stay_below(load: Callable[[str], ModuleType]) -> None:
    module, labels = load("any_surface"), np.arange(200) % 2

    def judge(wrong: int) -> Metrics:
        answers = np.where(np.arange(200) < wrong, 1 - labels, labels)
        return classification_metrics(labels, np.eye(2)[answers] * 0.8 + 0.1, ("a", "b"))

    good, poor = (load("_single_recipes").Recipe("all", pooling, "none", 0.3, False) for pooling in ("mean", "other"))
    recipes = ((good, judge(2)), (poor, judge(9)))
    drawn = load("_drawn_sets").DRAWN_SETS
    outcomes = [
        module.Outcome(drawn[0], 1.0, judge(4), recipes),
        module.Outcome(drawn[1], 1.0, judge(5), recipes),
        module.Failure(drawn[2], 1.0, "exit code 1: No."),
    ]
    assert [one.images_below for one in outcomes[:2]] == [2, 3]
    notes = module.summarise(outcomes)
    assert notes[:2] == ["Failed runs: 1 of 3.", "many_classes: exit code 1: No."]
    # 2 of 200 images are the point that is allowed.
    assert "few_defects 1.5 (3); 1 of 2 sets" in notes[2] and "few_textures" not in notes[2]
    assert good.title in notes[3] and "program 97.75 %" in notes[3] and "99.00 %" in notes[3]
    rows = list(module.list_rows(outcomes))
    assert {len(row) for row in rows} == {len(module.COLUMNS)} and len(rows) == 2 * 3 + 1


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

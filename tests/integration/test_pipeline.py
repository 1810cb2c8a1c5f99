"""One whole run: what it leaves, what a second run does, and whether its models answer as it says."""

import json
import re
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from support.workshop import PROJECT, REPORT_MODULES, Workshop, assert_complete, assert_success, read_rows

from metal_defects.config import load_settings
from metal_defects.pipeline.runner import plan
from metal_defects.pipeline.table import STAGES

LOAD_AND_ANSWER = """
import sys, keras, numpy as np
from PIL import Image
pixels = np.stack([np.asarray(Image.open(path)) for path in sys.argv[3:]])
models = [keras.models.load_model(f"{sys.argv[1]}/tuned_model.{suffix}") for suffix in ("h5", "keras")]
np.save(sys.argv[2], np.stack([np.asarray(model(pixels, training=False)) for model in models]))
assert not [name for name in sys.modules if name.startswith("metal_defects")]
"""


def read_probabilities(path: Path) -> np.ndarray:
    """float64 (images, classes) of a table of predictions."""
    rows = read_rows(path)
    names = list(rows[0])[3:]
    return np.array([[float(row[name]) for name in names] for row in rows])


def cpu_seconds_of(command: list[str]) -> float:
    """Processor time, the shortest of two runs: other work on the machine only ever adds to it."""
    times = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=PROJECT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_first_run_leaves_everything_and_second_finds_it_up_to_date(finished: Workshop) -> None:
    assert_complete(finished)


def test_first_run_reports_in_80_columns(finished: Workshop) -> None:
    out = (finished.folder / "stdout.txt").read_text()
    done = [f"{stage.name}  done in" for stage in STAGES]
    for text in (*done, "EfficientNet-Lite0", "tuned", f"0 of {len(STAGES)} stages up to"):
        assert text in out
    assert len(max((line.rstrip() for line in out.splitlines() if "/" not in line), key=len)) <= 80
    assert "Traceback" not in out


def test_rerun_and_plan_need_no_tensorflow(finished: Workshop) -> None:
    for arguments in (("run",), ("run", "--plan"), ("plan",)):
        answer = finished.run(*arguments, code=REPORT_MODULES)
        assert_success(answer)
        assert answer.stderr.split() == ["LOADED"]


def test_help_plan_and_rerun_come_quickly(finished: Workshop) -> None:
    light = "import typer.rich_utils, rich.markdown, rich.table, pydantic.main, numpy, PIL.Image, yaml"
    unavoidable = cpu_seconds_of([sys.executable, "-c", light])
    assert cpu_seconds_of([sys.executable, "main.py", "--help"]) < 2.5 * unavoidable
    assert cpu_seconds_of(finished.command("plan")) < 2.5 * unavoidable
    assert cpu_seconds_of(finished.command("run")) < 4 * unavoidable


def test_plan_of_a_finished_run_is_all_hit(finished: Workshop) -> None:
    answer = finished.run("plan")
    assert answer.stdout.count("HIT") == len(STAGES)
    assert "RUN" not in answer.stdout
    assert re.search(r"07_hyperparameter_tuning +HIT .* [\d.]+ s", answer.stdout)
    assert len(max(answer.stdout.splitlines(), key=lambda line: len(line.rstrip())).rstrip()) <= 80


@pytest.mark.parametrize(
    ("override", "first", "stale"),
    [
        ("seed=7", "params.seed 42 → 7", "01 02 03 04 06 07 08 09"),
        ("data_ingestion.duplicates=off", "duplicates near → off", "01 02 03 04 06 07 08 09"),
        ("classes={A: [], B: []}", "data_schema.classes", "01 02 03 04 06 07 08 09"),
        ("image.min_side=16", "data_schema.image.min_side 32 → 16", "01 02 03 04 06 07 08 09"),
        ("data_preprocessing.resize=nearest", "resize bilinear → nearest", "02 03 04 06 07 08 09"),
        ("dataset_loader.batch_size=8", "batch_size 32 → 8", "03 04 06 07 08 09"),
        ("model_builder.models=[custom_cnn]", "models", "04 06 07 08 09"),
        ("callbacks.early_stopping.patience=2", "patience 8 → 2", "06 07 08 09"),
        ("training.augmentation.flip=false", "flip True → False", "06 07 08 09"),
        ("hyperparameter_tuning.max_trials=3", "max_trials 2 → 3", "07 08 09"),
        ("model_evaluation.coverage=0.9", "coverage 0.99 → 0.9", "08 09"),
        ("model_export.calibration_images=9", "calibration_images 256 → 9", "09"),
        ("logging.level=DEBUG", "", ""),
    ],
)
def test_plan_runs_what_a_change_reaches_and_names_the_cause(
    override: str, first: str, stale: str, finished: Workshop
) -> None:
    command = finished.command("plan")
    overrides = [text for flag, text in pairwise(command) if flag == "--set"]
    models = "model_builder.models=[efficientnet_lite0]"
    statuses = plan(STAGES, load_settings(PROJECT, [models, *overrides, override], environment={}))
    assert " ".join(status.stage.number for status in statuses if not status.hit) == stale
    if stale:
        assert first in next(status.cause for status in statuses if not status.hit)


def test_saved_models_open_anywhere_and_answer_as_reported(finished: Workshop, tmp_path: Path) -> None:
    rows = [row for row in read_rows(finished.stage("02") / "images.csv") if row["split"] == "test"]
    expected = read_rows(finished.stage("07") / "predictions_test.csv")
    assert [row["source"] for row in rows] == [row["source"] for row in expected]
    files = [str(finished.stage("02") / row["path"]) for row in rows]
    folder, answers = finished.stage("07"), tmp_path / "answers.npy"
    subprocess.run([sys.executable, "-c", LOAD_AND_ANSWER, folder, answers, *files], check=True, cwd=tmp_path)
    reported = read_probabilities(folder / "predictions_test.csv")
    for found in np.load(answers):
        assert np.allclose(found, reported, atol=1e-5)


def test_reported_accuracy_is_that_of_the_reported_predictions(finished: Workshop) -> None:
    metrics = finished.read("07_hyperparameter_tuning/metrics.json")
    for split in ("valid", "test"):
        rows = read_rows(finished.stage("07") / f"predictions_{split}.csv")
        right = sum(row["true"] == row["predicted"] for row in rows)
        assert metrics[split]["accuracy"]["value"] == pytest.approx(right / len(rows), abs=1e-6)
        probabilities = read_probabilities(finished.stage("07") / f"predictions_{split}.csv")
        labels = [list(rows[0])[3:].index(row["true"]) for row in rows]
        losses = -np.log(probabilities[np.arange(len(rows)), labels])
        assert metrics[split]["log_loss"] == pytest.approx(losses.mean(), abs=1e-3)


def test_trials_are_those_asked_for(finished: Workshop) -> None:
    trials = read_rows(finished.stage("07") / "trials.csv")
    assert [(row["trial"], row["status"]) for row in trials] == [("0", "COMPLETED"), ("1", "COMPLETED")]


def test_images_of_one_split_do_not_appear_in_another(finished: Workshop) -> None:
    rows = read_rows(finished.stage("01") / "manifest.csv")
    splits_of: dict[str, set[str]] = {}
    for row in rows:
        splits_of.setdefault(row["group"], set()).add(row["split"])
    assert {row["split"] for row in rows} == {"train", "valid", "test"}
    assert all(len(splits) == 1 for splits in splits_of.values())


def test_predictions_of_files_are_those_of_the_pipeline_though_one_is_bad(
    finished: Workshop, images: Path, tmp_path: Path
) -> None:
    rows = read_rows(finished.stage("07") / "predictions_test.csv")
    good = [str(images / row["source"]) for row in rows]
    bad = tmp_path / "bad [b] name.bmp"
    bad.write_bytes(b"BM")
    answer = finished.run("predict", "--json", good[0], str(bad), *good[1:])
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    error = lines.pop(1)
    assert error.keys() == {"name", "error"}
    assert error["name"] == str(bad)
    assert [line["name"] for line in lines] == good
    temperature = finished.read("08_model_evaluation/decision.json")["temperature"]
    for line, row in zip(lines, rows, strict=True):
        assert line["label"] == row["predicted"]
        assert line["confidence"] == line["probabilities"][line["label"]] == max(line["probabilities"].values())
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        powers = {name: float(row[name]) ** (1 / temperature) for name in line["probabilities"]}
        for name, share in line["probabilities"].items():
            assert share == pytest.approx(powers[name] / sum(powers.values()), abs=1e-3)
        assert line["verdict"] in ("accept", "review", "unknown")
        assert line["label"] in line["prediction_set"]


def test_log_has_one_line_per_event_and_the_libraries_have_their_own(finished: Workshop) -> None:
    line = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) \d+ \w+ .+")
    lines = finished.log.splitlines()
    assert len(lines) > 20
    assert [text for text in lines if not line.fullmatch(text)] == []
    assert (finished.folder / "logs" / "libraries.log").exists()


@pytest.mark.slow
def test_network_from_scratch_goes_all_the_way(empty: Workshop, images: Path) -> None:
    quick = ("training.from_scratch.epochs=1", "hyperparameter_tuning.from_scratch_max_trials=1")
    workshop = empty.with_settings(*quick, "hyperparameter_tuning.from_scratch_epochs=1")
    assert_success(workshop.run("run", "--models", "custom_cnn"))
    assert "validation images" in workshop.read("08_model_evaluation/evaluation.json")["protocol"]["note"]
    assert "validation images" in (workshop.stage("10") / "report.html").read_text()
    answer = workshop.run("predict", "--json", str(next((images / "IMAGES").iterdir())))
    assert_success(answer)
    assert json.loads(answer.stdout)["verdict"] in ("accept", "review", "unknown")

"""One whole run: what it leaves, what a second run does, and whether its models answer as it says."""

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from math import exp
from pathlib import Path

import numpy as np
import pytest
from support import PROJECT
from support.workshop import REPORT_MODULES, WIDER, Workshop, assert_complete, assert_success, read_rows

from metal_defects.config import load_settings
from metal_defects.files import sha256_file
from metal_defects.models.specs import SPECS
from metal_defects.pipeline.runner import Status, plan
from metal_defects.pipeline.table import STAGES

REPORT_SECONDS = 10
MOST_SILENT_SECONDS = 30  # where progress is told every second: start-up and export tell nothing
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
        answer = finished.run_cold(*arguments, code=REPORT_MODULES)
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


def plan_with(workshop: Workshop, *overrides: str) -> list[Status]:
    """The plan of a run of this workshop with more settings."""
    settings = [text for flag, text in pairwise(workshop.arguments("plan")) if flag == "--set"]
    models = "model_builder.models=[efficientnet_lite0]"
    return plan(STAGES, load_settings(PROJECT, [models, *settings, *overrides], environment={}))


@pytest.mark.parametrize(
    ("override", "before", "first"),
    [
        ("seed=7", "42", "01"),
        ("data_ingestion.duplicates='off'", "overlap", "01"),
        ("image.min_side=16", "32", "01"),
        ("data_preprocessing.resize=nearest", "bilinear", "02"),
        ("model_builder.models=[custom_cnn]", "[efficientnet_lite0]", "04"),
        ("callbacks.early_stopping.patience=2", "8", "06"),
        ("training.augmentation.flip=false", "true", "06"),
        ("hyperparameter_tuning.max_trials=3", "2", "07"),
        ("model_evaluation.coverage=0.9", "0.99", "08"),
        ("model_export.calibration_images=9", "256", "09"),
    ],
)
def test_plan_names_the_cause_and_runs_what_the_rows_say(
    override: str, before: str, first: str, finished: Workshop
) -> None:
    key = override.partition("=")[0]
    stale: list[str] = []
    for stage in STAGES:
        names_it = any(key == name or key.startswith(f"{name}.") for name in stage.settings)
        if names_it or any(artifact.writer in stale for artifact in stage.reads):
            stale.append(stage.name)
    statuses = [status for status in plan_with(finished, override) if not status.hit]
    assert [status.stage.name for status in statuses] == stale
    assert (statuses[0].stage.number, statuses[0].cause) == (first, f"{override}  # was {before}")


@pytest.mark.parametrize("override", ["logging.level=DEBUG", "serving.port=9000", "data.timeout_seconds=1"])
def test_what_cannot_change_a_result_repeats_nothing(override: str, finished: Workshop) -> None:
    assert all(status.hit for status in plan_with(finished, override))


def test_a_cause_can_be_set_as_it_stands(finished: Workshop) -> None:
    override = "classes={Crazing: [], Inclusion: [], Patches: [], Pitted: [], Rolled: [], 'Scratches, long': [sc]}"
    cause = plan_with(finished, override)[0].cause
    assert load_settings(PROJECT, [cause]).data_schema == load_settings(PROJECT, [override]).data_schema


@pytest.mark.parametrize("override", [WIDER, "image.max_bytes=60000000", "data_preprocessing.resize=lanczos"])
def test_limits_of_images_are_a_cause_to_export_again(override: str, finished: Workshop) -> None:
    """That of another stage alone would end where its result comes out the same."""
    statuses = {status.stage.number: status for status in plan_with(finished, override)}
    key = override.partition("=")[0]
    tuning = next(stage for stage in STAGES if stage.number == "07")
    assert any(key.startswith(name) for name in tuning.settings)
    assert not statuses["07"].hit and not statuses["09"].hit


@pytest.mark.slow
def test_a_wider_limit_reaches_the_bundle(mended: Workshop, finished: Workshop) -> None:
    card = "09_model_export/bundle/bundle.json"
    limits = [workshop.read(card)["input"]["limits"]["max_side"] for workshop in (finished, mended)]
    assert limits == [8192, int(WIDER.partition("=")[2])]


# --- weights ---------------------------------------------------------------------------------


def test_a_weights_file_that_appears_is_a_cause(copied: Workshop) -> None:
    before = [status.hit for status in plan_with(copied)]
    file = copied.folder / "weights" / SPECS["efficientnet_lite0"].weights.file
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"weights")
    status = next(status for status in plan_with(copied) if status.stage.number == "04")
    assert all(before)
    assert not status.hit and status.cause.startswith("weights")
    file.unlink()
    assert all(status.hit for status in plan_with(copied))


def test_weights_are_used_and_their_change_is_noticed(copied: Workshop) -> None:
    """Of a model without a published digest, any file of the right shape is good."""
    models = ("--models", "mobilenet_v2")
    file = copied.folder / "weights" / SPECS["mobilenet_v2"].weights.file
    file.parent.mkdir(exist_ok=True)
    found = []
    for seed in (1, 2):
        write_random_mobilenet(file, seed)
        answer = copied.run("run", "--only", "04", *models)
        assert_success(answer)
        (entry,) = copied.read("04_model_builder/models.json")["models"]
        assert (entry["weights"], entry["weights_file"]) == ("ImageNet", str(file))
        found.append(entry["weights_sha256"])
    assert found[0] != found[1] == sha256_file(file)
    assert "(weights" in copied.log
    file.unlink()
    assert re.search(r"04_model_builder +RUN +weights", copied.run("plan", *models).stdout)


def write_random_mobilenet(file: Path, seed: int) -> None:
    import keras

    keras.utils.set_random_seed(seed)
    keras.applications.MobileNetV2(weights=None, include_top=False).save(file)


# --- the report ------------------------------------------------------------------------------


def test_report_tells_of_a_new_quarantine_though_nothing_else_changed(copied: Workshop, images: Path) -> None:
    stray = images / "stray_1.png"
    shutil.copy(next((images / "IMAGES").iterdir()), stray)
    try:
        answer = copied.run()
    finally:
        stray.unlink()
    assert_success(answer)
    ran = re.findall(r"(\d\d)_\w+ +running", answer.stdout)
    assert ran == ["01", "10"]
    assert "stray_1.png" in (copied.stage("10") / "report.html").read_text()


def test_a_reworded_report_costs_seconds(copied: Workshop, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("src", "config"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "params.yaml", "schema.yaml", "pyproject.toml"):
        shutil.copy(PROJECT / name, project / name)
    package = project / "src" / "metal_defects"
    template = next(iter(sorted((package / "report" / "templates").glob("*.j2"))))
    template.write_text(template.read_text() + "<!-- reworded -->\n")
    chapters = package / "report" / "chapters.py"
    chapters.write_text(chapters.read_text() + "\nREWORDED = True\n")
    for ground in ("config.py", "log.py", "data/splits.py"):
        (package / ground).write_text((package / ground).read_text() + "\n# a comment\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = copied.run_cold("run", project=project)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert_success(answer)
    assert re.findall(r"(\d\d)_\w+ +running", answer.stdout) == ["10"]
    assert after.ru_utime - before.ru_utime < REPORT_SECONDS


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
    told = [(row["trial"], row["status"], row["first_look"], row["views"]) for row in trials]
    looked, compared = [(("COMPLETED", look, "none")) for look in ("True", "False")]
    assert told == [("0", *looked), ("1", *looked), ("2", *compared), ("3", *compared)]
    assert trials[0]["gmacs"] > trials[1]["gmacs"], "the cheapest recipe comes after that of the base model"


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
    scaling = finished.read("08_model_evaluation/decision.json")["scaling"]
    for line, row in zip(lines, rows, strict=True):
        assert line["confidence"] == line["probabilities"][line["label"]] == max(line["probabilities"].values())
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        biases = dict(zip(line["probabilities"], scaling["bias"], strict=True))
        powers = {name: float(row[name]) ** (1 / scaling["temperature"]) * exp(biases[name]) for name in biases}
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
    assert_success(workshop.run("run", "--models", "custom_cnn", before=hurry_progress, measured=True))
    assert "validation images" in workshop.read("08_model_evaluation/evaluation.json")["protocol"]["note"]
    assert "validation images" in (workshop.stage("10") / "report.html").read_text()
    assert [(row["trial"], row["epochs"]) for row in read_rows(workshop.stage("07") / "trials.csv")] == [("0", "1.0")]
    answer = workshop.run("predict", "--json", str(next((images / "IMAGES").iterdir())))
    assert_success(answer)
    assert json.loads(answer.stdout)["verdict"] in ("accept", "review", "unknown")
    times = [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in workshop.log.splitlines()]
    assert max(after - before for before, after in pairwise(times)) < timedelta(seconds=MOST_SILENT_SECONDS)


def hurry_progress() -> Callable[[], None]:
    """In a process of its own: a line of progress every second in place of every thirty."""
    from metal_defects import log

    log.LINE_SECONDS = 1.0
    return lambda: None

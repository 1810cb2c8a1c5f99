"""`predict` on the command line: what it takes, what it writes, what it returns."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support import PROJECT
from support.toy_bundles import COLOURS, paint, save, write_bundle
from typer.testing import CliRunner, Result

from metal_defects.artifacts import BUNDLE
from metal_defects.cli.main import app
from metal_defects.cli.predict import find_images
from metal_defects.errors import BundleError, UserError
from metal_defects.log import logger

Run = Callable[..., Result]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "METAL_DEFECTS_ROOT": str(PROJECT),
        "METAL_DEFECTS_BUNDLE": str(write_bundle(tmp_path / "bundle")),
        "METAL_DEFECTS__PATHS__LOGS": str(tmp_path / "logs"),
        "COLUMNS": "240",
    }


@pytest.fixture
def run(environment: dict[str, str]) -> Iterator[Run]:
    before = logger.propagate, list(logger.handlers)
    yield lambda *arguments: CliRunner().invoke(app, ["predict", *map(str, arguments)], env=environment)
    logger.propagate, logger.handlers[:] = before


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images, one damaged file, one hidden file and a note, in two folders."""
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    save(folder / "red.png", paint("Red"))
    save(folder / "b" / "green.bmp", paint("Green"))
    save(folder / "b" / "BLUE.PNG", paint("Blue"))
    save(folder / ".hidden.png", paint("Blue"))
    (folder / "bad.jpg").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_table_names_label_and_reason(run: Run, images: Path) -> None:
    result = run(images / "red.png", images / "bad.jpg")
    assert result.exit_code == 1
    assert "Red" in result.stdout and "no known image format" in result.stdout
    assert "2 images: Red 1, 1 failed" in result.stdout


def test_exit_code_is_zero_when_all_is_well(run: Run, images: Path) -> None:
    assert run(images / "red.png").exit_code == 0


def test_folder_gives_its_images_in_order(run: Run, images: Path) -> None:
    result = run(images, "--format", "jsonl")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    names = [str(Path(answer["name"]).relative_to(images)) for answer in answers]
    assert names == ["b/BLUE.PNG", "b/green.bmp", "bad.jpg", "red.png"]
    assert [answer.get("label") for answer in answers] == ["Blue", "Green", None, "Red"]
    assert answers[2]["error"]["code"] == "not_an_image"
    assert result.exit_code == 1


def test_json_is_short_for_jsonl(run: Run, images: Path) -> None:
    result = run(images / "red.png", "--json")
    answer = json.loads(result.stdout)
    assert answer["label"] == "Red" and tuple(answer["probabilities"]) == COLOURS


def test_csv_has_a_column_per_class(run: Run, images: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(images, "--format", "csv").stdout)))
    assert [row["label"] for row in rows] == ["Blue", "Green", "", "Red"]
    assert rows[2]["error"] == "not_an_image" and rows[2]["message"].startswith("bad.jpg")
    assert sum(float(rows[0][colour]) for colour in COLOURS) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["=HYPERLINK(1).png", "+1.png", "-1.png", "@SUM(A1).png"])
def test_csv_runs_no_file_name_in_a_spreadsheet(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save(tmp_path / name, paint("Red"))
    monkeypatch.chdir(tmp_path)
    text = run("--format", "csv", "--", name).stdout
    assert next(csv.DictReader(io.StringIO(text)))["name"] == "'" + name
    assert not text.startswith("\ufeff")


@pytest.mark.parametrize(
    ("name", "start"), [("answers.csv", "name,label"), ("answers.jsonl", '{"name"'), ("answers.txt", "image ")]
)
def test_output_file_has_the_format_of_its_suffix(
    run: Run, images: Path, tmp_path: Path, name: str, start: str
) -> None:
    result = run(images, "--output", tmp_path / "new" / name)
    text = (tmp_path / "new" / name).read_text()
    assert text.startswith(start) and "Green" in text and "bad.jpg" in text
    assert "1 failed" in result.stdout


def test_format_overrides_the_suffix(run: Run, images: Path, tmp_path: Path) -> None:
    run(images / "red.png", "--format", "jsonl", "--output", tmp_path / "a.csv")
    assert json.loads((tmp_path / "a.csv").read_text())["label"] == "Red"


def test_missing_file_is_listed(run: Run, images: Path) -> None:
    result = run(images / "red.png", images / "gone.png", images / "*.tiff", "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer.get("label") for answer in answers] == ["Red", None, None]
    assert {answer["error"]["code"] for answer in answers[1:]} == {"unreadable"}


def test_bundle_option_goes_before_the_variable(run: Run, images: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", classes=["Rot", "Grün", "Blau"])
    assert json.loads(run(images / "red.png", "--json", "--bundle", other).stdout)["label"] == "Rot"


def test_variant_option(run: Run, images: Path) -> None:
    plain, int8 = (json.loads(run(images / "red.png", "--json", *extra).stdout)["confidence"]
                   for extra in ((), ("--variant", "int8")))  # fmt: skip
    assert plain != int8


def test_notice_goes_to_standard_error(run: Run, images: Path, tmp_path: Path) -> None:
    drawn = write_bundle(tmp_path / "drawn", data={"kind": "synthetic", "notice": "Drawn images."})
    result = run(images / "red.png", "--json", "--bundle", drawn)
    assert "Drawn images." in result.stderr and len(result.stdout.splitlines()) == 1


def test_read_only_logs_do_not_matter(run: Run, images: Path, environment: dict[str, str]) -> None:
    environment["METAL_DEFECTS__PATHS__LOGS"] = "/dev/null/logs"
    result = run(images / "red.png", "--json")
    assert json.loads(result.stdout)["label"] == "Red"
    assert "No log file" in result.stderr


def test_markup_and_odd_bytes_in_names(run: Run, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/[red]\xff.png"))
    save(odd, paint("Red"))
    result = run(odd)
    assert "[red]\N{REPLACEMENT CHARACTER}.png" in result.stdout.replace("\n", "")
    assert run(odd, "--format", "csv", "--output", tmp_path / "a.csv").exit_code == 0


def test_name_with_pattern_characters_is_taken_literally(tmp_path: Path) -> None:
    path = save(tmp_path / "a[1].png", paint("Red"))
    save(tmp_path / "a1.png", paint("Red"))
    assert find_images([str(path)]) == [path]


def test_patterns_are_expanded_in_order(images: Path) -> None:
    found = find_images([str(images / "**" / "*.png"), str(images / "b*")])
    assert [path.name for path in found] == ["red.png", "BLUE.PNG", "green.bmp", "bad.jpg"]


def test_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image to classify"):
        find_images([str(tmp_path)])


def test_keras_has_no_int8(run: Run, images: Path) -> None:
    result = run(images / "red.png", "--runtime", "keras", "--variant", "int8")
    assert isinstance(result.exception, BundleError) and "float32 alone" in str(result.exception)


def test_own_run_on_drawn_images_is_no_default(
    run: Run, images: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    del environment["METAL_DEFECTS_BUNDLE"]
    environment["METAL_DEFECTS__PATHS__ARTIFACTS"] = str(tmp_path)
    own = write_bundle(tmp_path / BUNDLE.name, data={"kind": "synthetic", "notice": "Drawn images."})
    result = run(images / "red.png", "--json")
    assert "Scratches" in json.loads(result.stdout)["probabilities"]
    assert "Your own run was trained on the synthetic set" in result.stderr
    named = run(images / "red.png", "--json", "--bundle", own)
    assert tuple(json.loads(named.stdout)["probabilities"]) == COLOURS
    assert "learnt from drawn images" in named.stderr and "Drawn images." in named.stderr


def run_elsewhere(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a folder that has nothing to do with the project."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METAL_DEFECTS")}
    code = "from metal_defects.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    variables = kept | {"PYTHONPATH": str(PROJECT / "src")}
    return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)


def test_any_folder_will_do_and_nothing_is_left_there(tmp_path: Path) -> None:
    save(tmp_path / "part.png", paint("Red"))
    result = run_elsewhere(tmp_path, "predict", "part.png", "--json")
    assert result.returncode == 0, result.stderr
    assert "Scratches" in json.loads(result.stdout)["probabilities"]
    assert [path.name for path in tmp_path.iterdir()] == ["part.png"]


def test_settings_of_the_folder_go_before_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    result = run_elsewhere(tmp_path, "predict", "part.png")
    assert result.returncode == 1 and "params.yaml: 'data_ingestion' is missing" in result.stderr


def run_main(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "main.py"), "predict", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def test_whole_process_answers_and_refuses(environment: dict[str, str], images: Path, tmp_path: Path) -> None:
    good = run_main(environment, images / "red.png", "--json")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["label"] == "Red"
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"torn")
    refused = run_main(environment, images / "red.png", "--json")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "model.onnx is cut short or was altered" in refused.stderr and "Traceback" not in refused.stderr


def test_many_images_keep_their_names(run: Run, tmp_path: Path) -> None:
    for n in range(60):
        save(tmp_path / f"{n:03}.png", paint(COLOURS[n % 3], side=32, seed=n))
    answers = [json.loads(line) for line in run(tmp_path, "--json").stdout.splitlines()]
    assert [Path(answer["name"]).stem for answer in answers] == [f"{n:03}" for n in range(60)]
    assert [answer["label"] for answer in answers] == [COLOURS[n % 3] for n in range(60)]
    assert np.all([answer["milliseconds"] > 0 for answer in answers])

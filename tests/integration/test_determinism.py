"""The same seed gives the same bytes and the same answers; another seed gives another split."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.workshop import Workshop, assert_success, read_rows

TIMES = {"seconds", "milliseconds_per_image", "milliseconds", "created", "finished", "mtime_ns", "sha256", "bytes"}


def strip_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: strip_times(part) for key, part in value.items() if key not in TIMES}
    return [strip_times(part) for part in value] if isinstance(value, list) else value


def files(workshop: Workshop, *suffixes: str) -> dict[str, Path]:
    """Results by name; logs of Keras and of the tuner, which hold times and process numbers, are left out."""
    found = [path for path in workshop.artifacts.glob("[0-9][0-9]_*/**/*") if path.suffix in suffixes]
    named = {path.relative_to(workshop.artifacts).as_posix(): path for path in found}
    return {name: path for name, path in named.items() if path.name != "stage.json" and "/trials/" not in name}


def test_split_follows_the_seed(tmp_path: Path) -> None:
    manifests = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        workshop = Workshop(tmp_path / name, None).with_settings(f"seed={seed}")
        assert_success(workshop.run("run", "--only", "01"))
        manifests.append((workshop.stage("01") / "manifest.csv").read_bytes())
    assert manifests[0] == manifests[1] != manifests[2]


def test_split_of_given_images_follows_the_seed(empty: Workshop, finished: Workshop) -> None:
    assert_success(empty.with_settings("seed=43").run("run", "--only", "01"))
    before, after = (read_rows(workshop.stage("01") / "manifest.csv") for workshop in (finished, empty))
    assert [row["path"] for row in before] == [row["path"] for row in after]
    assert [row["sha256"] for row in before] == [row["sha256"] for row in after]
    assert [row["split"] for row in before] != [row["split"] for row in after]


@pytest.mark.slow
def test_same_seed_same_results_in_another_folder(rebuilt: Workshop, finished: Workshop) -> None:
    """Though the second run was killed in every stage before."""
    for suffixes in ((".csv",), (".png",), (".txt",)):
        first, second = files(finished, *suffixes), files(rebuilt, *suffixes)
        assert first.keys() == second.keys()
        timed = {"trials.csv", "leaderboard.csv", "parity.csv", "variants.png"}
        different = [
            name
            for name, path in first.items()
            if path.name not in timed and path.read_bytes() != second[name].read_bytes()
        ]
        assert not different
    first, second = files(finished, ".json"), files(rebuilt, ".json")
    assert first.keys() == second.keys()
    for name, path in first.items():
        assert strip_times(json.loads(path.read_text())) == strip_times(json.loads(second[name].read_text())), name
    trials = [read_rows(workshop.stage("07") / "trials.csv") for workshop in (finished, rebuilt)]
    assert strip_times(trials[0]) == strip_times(trials[1])

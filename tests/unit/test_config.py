"""Settings: every mistake gets one sentence that names file, key, bound and value."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import PROJECT

from metal_defects.config import is_project, load_settings, normalise_name
from metal_defects.errors import ConfigError


def test_shipped_files_are_valid() -> None:
    settings = load_settings(PROJECT, environment={})
    assert list(settings.data_schema.classes) == ["Crazing", "Inclusion", "Patches", "Pitted", "Rolled", "Scratches"]
    assert settings.config.paths.artifacts == PROJECT / "artifacts"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.epochs=0", ["params.yaml", "'training.epochs'", "greater than or equal to 1", "Got 0"]),
        ("training.epochs=many", ["params.yaml", "'training.epochs'", "integer", "Got 'many'"]),
        ("training.epoch=5", ["params.yaml", "unknown key 'training.epoch'"]),
        ("nothing.at.all=5", ["there is no setting 'nothing.at.all'", "training"]),
        ("data.source=url", ["config/config.yaml", "data.url"]),
        ("data.sha256=abc", ["config/config.yaml", "'data.sha256'", "Got 'abc'"]),
        ("model_builder.models=[vgg16, vgg16]", ["params.yaml", "named once"]),
        ("data_ingestion.split={train: 0.8, test: 0.4}", ["params.yaml", "add up to more than 1", "1.2"]),
        ("data_ingestion.split={train: 0.5, test: 60}", ["params.yaml", "whole numbers"]),
        ("hyperparameter_tuning.dropout=[0.5, 0.1]", ["params.yaml", "low not above high"]),
        ("classes={Only: []}", ["schema.yaml", "at least 2"]),
        ("classes={Rust: [r], Rest: [R]}", ["schema.yaml", "'R'", "'Rust'", "'Rest'"]),
        ("data_preprocessing.image_size=100", ["params.yaml", "'data_preprocessing.image_size'", "multiple of 32"]),
        ("model_evaluation.max_risk=0", ["params.yaml", "'model_evaluation.max_risk'", "greater than 0"]),
        ("model_evaluation.priors={good: 0.9, bad: 0.3}", ["params.yaml", "must add up to 1; got 1.2"]),
        ("model_evaluation.priors={good: 1, bad: 0}", ["params.yaml", "model_evaluation.priors", "greater than 0"]),
        ("training.epochs=[", ["not valid YAML"]),
        ("training.epochs", ["KEY=VALUE"]),
    ],
)
def test_mistake_is_explained(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(PROJECT, [override], environment={})
    for part in parts:
        assert part in str(caught.value)


def test_precedence_files_then_environment_then_command_line() -> None:
    environment = {"METAL_DEFECTS__TRAINING__EPOCHS": "7", "METAL_DEFECTS__SEED": "3", "METAL_DEFECTS_DATA": "/d/1e3"}
    settings = load_settings(PROJECT, ["training.epochs=9"], environment)
    assert settings.params.training.epochs == 9
    assert settings.params.seed == 3
    assert settings.config.data.path == Path("/d/1e3")


def test_hundreds_of_classes_and_auto() -> None:
    many = "{" + ", ".join(f"class{index}: []" for index in range(300)) + "}"
    assert len(load_settings(PROJECT, [f"classes={many}"], environment={}).data_schema.classes) == 300
    assert load_settings(PROJECT, ["classes=auto"], environment={}).data_schema.classes == "auto"


def test_bare_off_is_understood() -> None:
    settings = load_settings(PROJECT, ["data_ingestion.duplicates=off"], environment={})
    assert settings.params.data_ingestion.duplicates == "off"


def test_settings_are_frozen() -> None:
    settings = load_settings(PROJECT, environment={})
    with pytest.raises(ValueError, match="frozen"):
        settings.params.training.epochs = 3


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", ""])
def test_file_that_is_no_mapping(content: str, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    for name in ("config/config.yaml", "params.yaml", "schema.yaml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load_settings(tmp_path, environment={})


def test_files_that_a_folder_lacks_are_the_shipped_ones(tmp_path: Path) -> None:
    assert not is_project(tmp_path)
    (tmp_path / "schema.yaml").write_text((PROJECT / "schema.yaml").read_text().replace("min_side: 32", "min_side: 48"))
    settings = load_settings(tmp_path, environment={})
    assert is_project(tmp_path)
    assert settings.data_schema.image.min_side == 48
    assert settings.params == load_settings(PROJECT, environment={}).params
    assert settings.config.paths.artifacts == tmp_path / "artifacts"


@given(st.text(alphabet="abcXYZ -_", min_size=1))
def test_normalised_names_ignore_case_and_separators(name: str) -> None:
    assert normalise_name(name) == normalise_name(name.upper().replace("-", "_").replace(" ", "-"))
    assert not set(normalise_name(name)) & set(" -_")

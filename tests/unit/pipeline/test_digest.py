"""What a stage depends on: its source and whatever it imports, its settings, its libraries."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from metal_defects.config import Settings
from metal_defects.pipeline import digest
from metal_defects.pipeline.context import Stage
from metal_defects.pipeline.digest import (
    CodeDigests,
    explain_difference,
    flatten_settings,
    library_versions,
    look_up,
)
from metal_defects.pipeline.table import STAGES

FILES = {
    "components/__init__.py": "",
    "components/stage.py": "import numpy\nfrom shop.models.direct import made\n\n\ndef run(ctx):\n    pass\n",
    "models/__init__.py": "",
    "models/direct.py": "def made():\n    from shop.models import lazy\n    return lazy\n",
    "models/lazy.py": "import shop.models.loop as loop\n",
    "models/loop.py": "from shop.models.direct import made\n",
    "models/unrelated.py": "value = 1\n",
}
json_values = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=3), inner, max_size=3),
    max_leaves=8,
)
NOTHING = {"settings": {}, "reads": {}, "outside": {}, "code": {}, "versions": {}}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose component imports a module, which imports another inside a function, which closes a loop."""
    folder = tmp_path / "shop"
    for name, source in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    monkeypatch.setattr(digest, "PACKAGE", "shop")
    monkeypatch.setattr(digest, "ROOT", folder)
    return folder


def code_of(module: str = "shop.components.stage") -> dict[str, str]:
    return CodeDigests().of(module)


@pytest.mark.parametrize("name", ["components/stage.py", "models/direct.py", "models/lazy.py", "models/loop.py"])
def test_change_in_an_imported_module_changes_its_digest(name: str, shop: Path) -> None:
    before = code_of()
    with (shop / name).open("a") as file:
        file.write("value = 2\n")
    changed = f"shop.{name.removesuffix('.py').replace('/', '.')}"
    assert {module for module, value in code_of().items() if before[module] != value} == {changed}


@pytest.mark.parametrize("addition", ["# a comment\n", '"""A text that nobody reads."""\n', "\n\n"])
def test_what_computes_nothing_changes_nothing(addition: str, shop: Path) -> None:
    before = code_of()
    with (shop / "models" / "direct.py").open("a") as file:
        file.write(addition)
    assert code_of() == before


@pytest.mark.parametrize("module", ["config", "log", "errors", "pipeline.runner", "system"])
def test_module_that_computes_no_result_is_left_out(module: str, shop: Path) -> None:
    file = shop / f"{module.replace('.', '/')}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("from shop.models.unrelated import value\n")
    with (shop / "components" / "stage.py").open("a") as component:
        component.write(f"import shop.{module}\n")
    assert not {f"shop.{module}", "shop.models.unrelated"} & code_of().keys()


def test_change_elsewhere_does_not(shop: Path) -> None:
    before = code_of()
    (shop / "models" / "unrelated.py").write_text("value = 2\n")
    assert code_of() == before


def test_what_is_remembered_is_what_would_be_found(shop: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    first = CodeDigests(cache)
    found = first.of("shop.components.stage")
    first.save()
    assert CodeDigests(cache).of("shop.components.stage") == found
    (shop / "models" / "lazy.py").write_text("value = 2\n")
    assert CodeDigests(cache).of("shop.components.stage") == code_of() != found
    cache.write_text("{")
    assert CodeDigests(cache).of("shop.components.stage") == code_of()


def test_missing_module_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        CodeDigests().of("no_such_module")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_depends_on_its_code_and_finds_its_settings(
    stage: Stage, make_settings: Callable[..., Settings]
) -> None:
    modules = CodeDigests().of(stage.component)
    assert stage.component in modules
    assert not {"metal_defects.config", "metal_defects.log", "metal_defects.pipeline.runner"} & modules.keys()
    assert {key.split(".")[0] for key in stage.settings} == {
        key.split(".")[0] for key in flatten_settings(make_settings(), stage.settings)
    }


def test_training_depends_on_the_modules_that_shape_it() -> None:
    modules = CodeDigests().of("metal_defects.components.c06_model_training_evaluation")
    wanted = ("augmentation", "feature_bank", "networks", "training", "trainers", "specs", "custom_cnn", "resnet18")
    assert {f"metal_defects.models.{name}" for name in wanted} <= modules.keys()


def test_versions_are_those_installed() -> None:
    import numpy

    versions = library_versions()
    assert versions["numpy"] == numpy.__version__
    assert "keras" in versions


def test_settings_are_told_by_the_keys_that_set_takes(make_settings: Callable[..., Settings]) -> None:
    flat = flatten_settings(make_settings("training.epochs=9", "data_ingestion.split={train: 8, test: 2}"), KEYS)
    assert flat["training.epochs"] == 9
    assert flat["training.augmentation.flip"] is True
    assert flat["seed"] == 42
    assert flat["data_ingestion.split"] == {"train": 8, "valid": 0, "test": 2}
    assert isinstance(flat["classes"], dict)


KEYS = ("training", "seed", "image", "data_ingestion", "classes")


@pytest.mark.parametrize("key", ["training.epoch", "nothing", "params.seed", "classes.Crazing"])
def test_unknown_setting_is_a_mistake(key: str, make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(KeyError, match="no setting"):
        look_up(make_settings(), key)


@pytest.mark.parametrize(
    "change",
    [
        "seed=7",
        "training.epochs=50",
        "training.learning_rate=1e-06",
        "training.augmentation.flip=false",
        "image.formats=[PNG]",
        "data_ingestion.split={train: 0.8, test: 0.2}",
        "data_ingestion.duplicates=off",
        "classes={One: [a b], Two: ['#2']}",
    ],
)
def test_cause_can_be_pasted_into_set_as_it_stands(change: str, make_settings: Callable[..., Settings]) -> None:
    old, new = (
        {**NOTHING, "settings": flatten_settings(settings, KEYS)}
        for settings in (make_settings(), make_settings(change))
    )
    cause = explain_difference(old, new)
    assert cause.startswith(change.partition("=")[0] + "=")
    assert "  # was " in cause
    assert make_settings(cause) == make_settings(change)


@given(json_values)
def test_nothing_differs_from_itself(value: object) -> None:
    inputs = {**NOTHING, "settings": {"key": value}, "outside": {"data": value}}
    assert explain_difference(inputs, inputs) is None


@given(json_values, json_values)
def test_difference_is_found_exactly_where_there_is_one(old: object, new: object) -> None:
    for part in ("settings", "outside"):
        found = explain_difference({**NOTHING, part: {"key": old}}, {**NOTHING, part: {"key": new}})
        assert (found is None) == (old == new)
        assert found is None or found.startswith("key")


@given(json_values, json_values)
@example([], {"\n ": [], "0": []})
@example([], ["\n", "\u2028"])
def test_told_value_is_one_line_and_reads_back(old: object, new: object) -> None:
    found = explain_difference({**NOTHING, "settings": {"key": old}}, {**NOTHING, "settings": {"key": new}})
    assert found is None or (yaml.safe_load(found.partition("=")[2]) == new and len(found.splitlines()) == 1)

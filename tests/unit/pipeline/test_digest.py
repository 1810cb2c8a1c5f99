"""What a stage depends on: its source and whatever it imports, its settings, its libraries."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metal_defects.config import Settings
from metal_defects.pipeline import digest
from metal_defects.pipeline.digest import first_difference, library_versions, settings_subset, source_digest
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


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose component imports a module, which imports another inside a function, which closes a loop."""
    folder = tmp_path / "shop"
    for name, source in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    monkeypatch.setattr(digest, "PACKAGE", "shop")
    monkeypatch.setattr(digest, "__file__", str(folder / "pipeline" / "digest.py"))
    return folder


@pytest.mark.parametrize("name", ["components/stage.py", "models/direct.py", "models/lazy.py", "models/loop.py"])
@pytest.mark.parametrize("addition", ["# a comment\n", "value = 2\n"])
def test_change_in_an_imported_module_changes_the_digest(name: str, addition: str, shop: Path) -> None:
    before = source_digest("shop.components.stage")
    with (shop / name).open("a") as file:
        file.write(addition)
    assert source_digest("shop.components.stage") != before


def test_change_elsewhere_does_not(shop: Path) -> None:
    before = source_digest("shop.components.stage")
    (shop / "models" / "unrelated.py").write_text("value = 2\n")
    assert source_digest("shop.components.stage") == before


def test_change_back_gives_the_first_digest_again(shop: Path) -> None:
    before = source_digest("shop.components.stage")
    (shop / "models" / "lazy.py").write_text("")
    (shop / "models" / "lazy.py").write_text(FILES["models/lazy.py"])
    assert source_digest("shop.components.stage") == before


def test_missing_module_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        source_digest("no_such_module")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_depends_on_its_code_and_finds_its_settings(
    stage: object, make_settings: Callable[..., Settings]
) -> None:
    modules = digest._imports_of(stage.component)
    assert stage.component in modules
    assert "metal_defects.config" in modules
    subset = settings_subset(make_settings(), stage.params)
    assert set(subset) == set(stage.params)


def test_training_depends_on_the_modules_that_shape_it() -> None:
    modules = digest._imports_of("metal_defects.components.c06_model_training_evaluation")
    wanted = ("views", "feature_bank", "networks", "training", "trainers", "backbones", "custom_cnn", "resnet18")
    assert {f"metal_defects.models.{name}" for name in wanted} <= modules


def test_versions_are_those_installed() -> None:
    import numpy

    versions = library_versions()
    assert versions["numpy"] == numpy.__version__
    assert "keras" in versions


def test_subset_is_plain_json(make_settings: Callable[..., Settings]) -> None:
    names = ("params.training", "params.seed", "data_schema.image")
    subset = settings_subset(make_settings("training.epochs=9"), names)
    assert subset["params.training"]["epochs"] == 9
    assert subset["params.seed"] == 42
    assert first_difference(subset, subset) is None


@given(json_values)
def test_nothing_differs_from_itself(value: object) -> None:
    assert first_difference(value, value) is None


@given(json_values, json_values)
def test_difference_is_found_exactly_where_there_is_one(old: object, new: object) -> None:
    found = first_difference({"key": old}, {"key": new})
    assert (found is None) == (old == new)
    assert found is None or found.startswith("key")


def test_digests_are_shortened_and_long_values_cut() -> None:
    long = first_difference({"a": list(range(100))}, {"a": []})
    assert len(long) < 60
    old, new = (hashlib.sha256(text).hexdigest() for text in (b"1", b"2"))
    assert first_difference({"a": old}, {"a": new}) == f"a {old[:8]} → {new[:8]}"

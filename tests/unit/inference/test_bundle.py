"""Bundles: what is complete is loaded, everything else is refused with one clear sentence."""

import json
from pathlib import Path

import pytest
from support.toy_bundles import COLOURS, SIDE, write_bundle, write_locating_bundle

from metal_defects.artifacts import BUNDLE, TUNED_H5
from metal_defects.errors import BundleError, ConfigError
from metal_defects.inference.bundle import ENV_BUNDLE, find_bundle, load_bundle
from metal_defects.inference.predictor import Predictor
from metal_defects.log import logger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "09" / "bundle")


def edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(card | changes))


def test_complete_bundle_is_loaded(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.classes == COLOURS
    assert bundle.image_size == SIDE
    assert bundle.notice is None
    assert bundle.limits.max_side == 512
    assert bundle.variant_file("int8") == folder / "model.int8.onnx"
    assert len(bundle.hash) == 12


def test_hash_names_this_very_bundle(folder: Path) -> None:
    before = load_bundle(folder).hash
    assert load_bundle(folder).hash == before
    edit_card(folder, name="Another")
    assert load_bundle(folder).hash != before


def test_notice_of_the_data(folder: Path) -> None:
    edit_card(folder, data={"kind": "synthetic", "notice": "Drawn."})
    assert load_bundle(folder).notice == "Drawn."


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_any_altered_byte_is_refused(folder: Path, file: str) -> None:
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{file} is cut short or was altered"):
        load_bundle(folder)


def test_torn_graph_is_refused(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match="cut short"):
        load_bundle(folder)


def test_missing_graph_is_refused(folder: Path) -> None:
    (folder / "model.int8.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.int8\.onnx cannot be read \(No such file"):
        load_bundle(folder)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no bundle"):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("length", [0, 1, 200])
def test_torn_card_is_refused(folder: Path, length: int) -> None:
    path = folder / "bundle.json"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BundleError, match="not valid JSON"):
        load_bundle(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[1, 2]", b"null", b'{"format": 2}', b'{"format": "1"}', b"{}"])
def test_unknown_format_is_refused(folder: Path, content: bytes) -> None:
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"not valid JSON|reads bundles of format 1"):
        load_bundle(folder)


@pytest.mark.parametrize("key", ["classes", "input", "default", "variants", "data", "provenance", "metrics"])
def test_card_without_a_field_is_refused(folder: Path, key: str) -> None:
    edit_card(folder, **{key: None})
    with pytest.raises(BundleError, match=f"no valid '{key}'"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "given", [{}, {"image_size": 64}, {"image_size": "64", "resize": "bilinear", "limits": {}},
              {"image_size": 64, "resize": "magic", "limits": {}}]
)  # fmt: skip
def test_card_with_a_bad_input_contract_is_refused(folder: Path, given: dict) -> None:
    edit_card(folder, input=given)
    with pytest.raises(BundleError, match="no valid 'input'"):
        load_bundle(folder)


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd", "", None, "a/b.onnx", ".."])
def test_variant_outside_the_folder_is_refused(folder: Path, file: object) -> None:
    edit_card(folder, default="evil", variants={"evil": {"file": file, "sha256": ""}})
    with pytest.raises(BundleError):
        load_bundle(folder)


def test_default_must_exist(folder: Path) -> None:
    edit_card(folder, default="float16")
    with pytest.raises(BundleError, match="'float16' does not exist"):
        load_bundle(folder)


def test_unknown_variant_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"one of float32, int8\. Got 'int4'"):
        load_bundle(folder).variant_file("int4")


def test_unknown_keys_are_no_obstacle(folder: Path) -> None:
    edit_card(folder, thresholds={"distance": 3.0}, added_later=[1])
    assert load_bundle(folder).classes == COLOURS


def test_graph_that_contradicts_the_card_is_refused(folder: Path) -> None:
    edit_card(folder, classes=["Red", "Green"])
    with pytest.raises(BundleError, match="must answer with 2 probabilities"):
        Predictor.load(folder)


def test_keras_runtime_without_its_model_says_what_to_do(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"needs the run that made.*python main\.py"):
        load_bundle(folder).keras_artifacts()


def test_keras_model_of_another_run_is_refused(folder: Path) -> None:
    (folder.parents[1] / TUNED_H5.name).parent.mkdir()
    (folder.parents[1] / TUNED_H5.name).write_bytes(b"another")
    with pytest.raises(BundleError, match="not made from this model"):
        load_bundle(folder).keras_artifacts()


DRAWN = {"kind": "synthetic", "notice": "Drawn."}


class TestFindBundle:
    @pytest.fixture(autouse=True)
    def shipped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.delenv(ENV_BUNDLE, raising=False)
        monkeypatch.setattr(logger, "propagate", True)
        shipped = write_bundle(tmp_path / "shipped")
        monkeypatch.setattr("metal_defects.inference.bundle.find_shipped", lambda _: shipped)
        return shipped

    def test_own_run_goes_first(self, tmp_path: Path) -> None:
        own = write_bundle(tmp_path / BUNDLE.name)
        assert find_bundle(tmp_path) == own

    def test_shipped_without_a_run(self, tmp_path: Path, shipped: Path) -> None:
        assert find_bundle(tmp_path / "artifacts") == shipped

    def test_own_run_on_drawn_images_is_passed_over_and_one_line_says_so(
        self, tmp_path: Path, shipped: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        own = write_bundle(tmp_path / BUNDLE.name, data=DRAWN)
        assert find_bundle(tmp_path) == find_bundle(tmp_path) == shipped
        [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert line == f"Your own run was trained on the synthetic set; name it with --bundle {own} to serve it."

    @pytest.mark.parametrize("by_variable", [True, False])
    def test_a_synthetic_bundle_is_served_by_its_name_and_says_what_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, by_variable: bool
    ) -> None:
        own = write_bundle(tmp_path / BUNDLE.name, data=DRAWN)
        if by_variable:
            monkeypatch.setenv(ENV_BUNDLE, str(own))
        assert find_bundle(tmp_path, None if by_variable else own) == own
        assert f"learnt from drawn images; it calls real steel unknown. Got {own}" in caplog.text

    def test_name_goes_before_the_variable_and_both_before_the_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_bundle(tmp_path / BUNDLE.name)
        monkeypatch.setenv(ENV_BUNDLE, str(tmp_path / "mine"))
        assert find_bundle(tmp_path) == tmp_path / "mine"
        assert find_bundle(tmp_path, tmp_path / "named") == tmp_path / "named"

    @pytest.mark.parametrize("card", [None, "", "[]", '{"data": 3}'])
    def test_torn_own_bundle_is_not_passed_over(self, tmp_path: Path, card: str | None) -> None:
        (tmp_path / BUNDLE.name).mkdir(parents=True)
        if card is not None:
            (tmp_path / BUNDLE.name / "bundle.json").write_text(card)
        with pytest.raises(BundleError):
            load_bundle(find_bundle(tmp_path))

    def test_none_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(name: str) -> Path:
            raise ConfigError(name)

        monkeypatch.setattr("metal_defects.inference.bundle.find_shipped", refuse)
        with pytest.raises(BundleError, match=r"run `python main\.py`"):
            find_bundle(tmp_path)


def test_a_bundle_that_names_no_fit_stretches(tmp_path: Path) -> None:
    assert load_bundle(write_bundle(tmp_path / "old")).card.input.fit == "stretch"
    assert load_bundle(write_locating_bundle(tmp_path / "new", "letterbox")).card.input.fit == "letterbox"
    with pytest.raises(BundleError, match="no valid 'input'"):
        load_bundle(write_locating_bundle(tmp_path / "wrong", "crop"))

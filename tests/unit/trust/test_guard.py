"""The guard: knows its own textures, refuses others, fits on a handful of images, and is the same inside a graph."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.trust import guard as guard_module
from metal_defects.trust.guard import Guard, choose_guard_taps, fit_guard
from metal_defects.trust.guard_graph import guard_layers

CHANNELS = {"shallow": 3, "deep": 5}
COLUMNS = 2 * sum(CHANNELS.values())


def draw_features(labels: np.ndarray, seed: int, shift: float = 0.0) -> np.ndarray:
    """Moments (n, COLUMNS): every class has levels of its own, variances spread over a factor."""
    random = np.random.default_rng(seed)
    levels = np.random.default_rng(99).uniform(-3, 3, (int(labels.max()) + 1, COLUMNS))[labels]
    values = levels + shift + random.standard_normal((len(labels), COLUMNS)) * 0.3
    are_variances = np.concatenate([np.repeat([False, True], count) for count in CHANNELS.values()])
    return np.where(are_variances, np.exp(values), values).astype(np.float32)


def fit(labels: np.ndarray, seed: int = 0, acceptance: float = 0.95, groups: np.ndarray | None = None) -> Guard:
    groups = np.arange(len(labels)) if groups is None else groups
    return fit_guard(draw_features(labels, seed), labels, groups, acceptance, seed, CHANNELS)


def test_accepts_its_own_share_and_refuses_the_rest() -> None:
    labels = np.repeat(np.arange(4), 60)
    guard = fit(labels)
    fresh = guard.distance(draw_features(labels, 1))
    assert 0.9 < (fresh <= 1).mean() < 1
    assert guard.distance(draw_features(labels, 2, shift=3)).min() > 2
    assert np.mean(guard.out_of_fold <= 1) >= 0.95
    assert np.sort(guard.out_of_fold)[int(0.95 * len(labels)) - 2] <= 1


def test_scale_is_measured_out_of_fold() -> None:
    labels = np.repeat(np.arange(2), 10)
    guard = fit(labels, acceptance=0.9)
    seen = guard.distance(draw_features(labels, 0))
    assert seen.mean() < guard.out_of_fold.mean()


def test_copies_do_not_vouch_for_one_another() -> None:
    labels = np.repeat(np.arange(2), 40)
    originals = np.repeat(np.arange(20), 4)
    features = draw_features(labels[::4], 3)[originals]
    together = fit_guard(features, labels, originals, 0.95, 0, CHANNELS)
    apart = fit_guard(features, labels, np.arange(80), 0.95, 0, CHANNELS)
    assert together.scale > 1.5 * apart.scale


@settings(max_examples=25, deadline=None)
@given(
    classes=st.integers(2, 7), per_class=st.integers(1, 6), acceptance=st.sampled_from([0.5, 0.99, 1.0]),
    seed=st.integers(0, 5), copies=st.booleans(),
)  # fmt: skip
def test_small_sets_do_not_fail(classes: int, per_class: int, acceptance: float, seed: int, copies: bool) -> None:
    labels = np.repeat(np.arange(classes), per_class)
    groups = np.arange(len(labels)) // (2 if copies else 1)
    guard = fit(labels, seed, acceptance, groups)
    distances = guard.distance(draw_features(labels, seed + 1))
    assert np.isfinite(distances).all() and (distances >= 0).all()
    assert guard.scale > 0
    assert np.nanmean(guard.out_of_fold <= 1) >= acceptance - 1e-9 or np.isnan(guard.out_of_fold).any()


def test_one_image_per_class_still_accepts_its_like() -> None:
    labels = np.arange(6)
    guard = fit(labels, acceptance=0.99)
    assert (guard.distance(draw_features(labels, 5)) <= 1.5).mean() > 0.5


def test_a_class_of_one_image_is_left_out_of_the_scale() -> None:
    labels = np.concatenate([np.repeat(np.arange(2), 30), [2]])
    guard = fit(labels)
    assert np.isnan(guard.out_of_fold[-1]) and np.isfinite(guard.out_of_fold[:-1]).all()
    assert np.isfinite(guard.distance(draw_features(labels, 1))).all()


def test_silent_channels_and_flat_images() -> None:
    labels = np.repeat(np.arange(2), 20)
    features = draw_features(labels, 0)
    features[:, [0, 3]] = 0
    guard = fit_guard(features, labels, np.arange(40), 0.95, 0, CHANNELS)
    assert np.isfinite(guard.distance(features)).all()
    flat = features[:1].copy()
    flat[:, 3:6] = flat[:, 11:] = -1e-9  # rounding may leave a variance below 0
    assert 1 < guard.distance(flat)[0] < np.inf


def test_same_input_same_guard() -> None:
    labels = np.repeat(np.arange(3), 20)
    first, again = fit(labels).to_arrays(), fit(labels).to_arrays()
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_many_classes_keep_the_graph_small(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.repeat(np.arange(10), 4)
    full = fit(labels)
    monkeypatch.setattr(guard_module, "MOST_WEIGHTS", 10 * COLUMNS * 2)
    small = fit(labels)
    assert (full.directions.shape[2], small.directions.shape[2]) == (COLUMNS, 2)
    fresh = draw_features(labels, 1)
    assert np.corrcoef(full.distance(fresh), small.distance(fresh))[0, 1] > 0.8
    monkeypatch.setattr(guard_module, "MOST_WEIGHTS", 0)
    assert np.isfinite(fit(labels).distance(fresh)).all()


def test_arrays_restore_it(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), 20)
    guard = fit(labels)
    np.savez(tmp_path / "answer.npz", **guard.to_arrays())
    with np.load(tmp_path / "answer.npz", allow_pickle=False) as stored:
        again = Guard.from_arrays(dict(stored))
    fresh = draw_features(labels, 1)
    assert (again.taps, again.channels, again.acceptance) == (guard.taps, guard.channels, pytest.approx(0.95))
    np.testing.assert_allclose(again.distance(fresh), guard.distance(fresh), rtol=1e-3)


@pytest.mark.parametrize("most_weights", [1_000_000, 0])
def test_graph_measures_the_same(most_weights: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras
    import onnxruntime

    monkeypatch.setattr(guard_module, "MOST_WEIGHTS", most_weights)
    labels = np.repeat(np.arange(3), 20)
    guard = fit(labels)
    pixels = keras.Input((COLUMNS,), name="moments")
    edges = np.cumsum([0, *np.repeat(list(CHANNELS.values()), 2)])
    parts = [pixels[:, low:high] for low, high in itertools.pairwise(edges)]
    model = keras.Model(pixels, guard_layers(parts, guard))
    fresh = np.concatenate([draw_features(labels, 1), draw_features(labels, 1, shift=4)])
    fresh[0] = 0
    expected = guard.distance(fresh)
    np.testing.assert_allclose(model(fresh).numpy(), expected, rtol=1e-3)
    path = tmp_path / "guard.onnx"
    model.export(str(path), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: fresh})[0]
    assert found.shape == (len(fresh),)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_taps() -> None:
    assert choose_guard_taps(["a", "b", "c"]) == ("b",)
    assert choose_guard_taps(["a"]) == ("a",)


@pytest.mark.parametrize(
    ("columns", "images", "acceptance", "message"),
    [(COLUMNS - 1, 8, 0.9, "must fit"), (COLUMNS, 7, 0.9, "must fit"), (COLUMNS, 8, 0.0, "acceptance")],
)
def test_refuses(columns: int, images: int, acceptance: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_guard(np.ones((8, columns)), np.arange(images) % 2, np.arange(images), acceptance, 0, CHANNELS)


def test_refuses_nan() -> None:
    features = draw_features(np.arange(4) % 2, 0)
    features[1, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        fit_guard(features, np.arange(4) % 2, np.arange(4), 0.9, 0, CHANNELS)


def test_findings_count_who_passes() -> None:
    guard = fit(np.repeat(np.arange(3), 30))
    found = guard.judge(np.arange(90), np.array([0.5, 0.9, 1.1, 2.0]), np.arange(4))
    assert (found.taps, found.acceptance) == (("shallow", "deep"), 0.95)
    assert (found.accepted_held_out.value, found.accepted_held_out.n) == (0.5, 4)
    assert found.accepted_out_of_fold is not None and found.accepted_out_of_fold.value >= 0.95
    assert found.distances.held_out[3] == 2.0
    assert found.distances.out_of_fold == pytest.approx(np.quantile(guard.out_of_fold, [0.05, 0.5, 0.95, 1.0]))


def test_a_single_image_of_every_class_leaves_nothing_to_judge_out_of_fold() -> None:
    labels = np.arange(2)
    found = fit_guard(draw_features(labels, 0), labels, np.zeros(2), 0.99, 0, CHANNELS).judge(
        np.zeros(2), np.ones(3), np.arange(3)
    )
    assert found.accepted_out_of_fold is None and found.distances.out_of_fold is None

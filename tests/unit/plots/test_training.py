"""Plots: what is on them, that files are whole and the same each time, and what is refused."""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from PIL import Image
from support.findings import make_trials
from support.model_results import make_base_result

from metal_defects.metrics import Metrics, classification_metrics
from metal_defects.models.results import BaseResult, Trial, Weights
from metal_defects.plots.diagram import Block, draw_diagram
from metal_defects.plots.recipes import draw_recipes
from metal_defects.plots.style import new_figure, save_figure, shorten
from metal_defects.plots.training import (
    draw_class_scores,
    draw_confusion_matrix,
    draw_history,
    draw_leaderboard,
    draw_learning_curves,
    draw_misjudged,
    draw_penalty_path,
)
from metal_defects.plots.tuning import draw_trials

NAMES = ["Crazing", "Inclusion", "a $5 coin pressed into a very long strip of steel"]
HISTORY = {
    "loss": [0.9, 0.5, 0.4, 0.3], "val_loss": [1.0, 0.6, 0.5, 0.7], "accuracy": [0.5, 0.7, 0.8, 0.9],
    "val_accuracy": [0.4, 0.6, 0.8, 0.7], "learning_rate": [1e-3, 1e-3, 1e-3, 5e-4],
}  # fmt: skip
PATH = {"l2": [0.1, 0.01, 0.001], "val_loss": [0.5, 0.2, 0.3]}
BLOCKS = [
    Block("Pixels", "224 x 224 x 3"), Block("Stage 1", "28 x 28 x 40", tap=True), Block("Stage 2", "14 x 14 x 112"),
    Block("Stage 3", "7 x 7 x 192", tap=True), Block("Concatenation", "464"), Block("Softmax", ""),
]  # fmt: skip


def make_metrics(classes: int, share: float, absent: int | None = None) -> Metrics:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 5)
    labels = labels[labels != absent]
    predicted = np.where(random.random(len(labels)) < share, labels, (labels + 1) % classes)
    names = NAMES if classes == len(NAMES) else [f"class {index}" for index in range(classes)]
    return classification_metrics(labels, np.eye(classes)[predicted], names)


def make_row(title: str, weights: Weights) -> BaseResult:
    return make_base_result(title=title, weights=weights, valid=make_metrics(3, 0.9), test=make_metrics(3, 0.8))


def make_trainings() -> list[Trial]:
    """Trials that each trained a network; the lowest loss is that of number 4."""
    scores = [0.5, None, 0.2, 0.3, 0.05, 0.4, 0.3]
    rates = [1e-3, 1e-4, 1e-5, 3e-4, 1e-2, 2e-5, 5e-4]
    return [
        Trial(
            number=number,
            score=score,
            accuracy=None if score is None else 1 - score / 2,
            images=None if score is None else 60,
            status="FAILED" if score is None else "COMPLETED",
            seconds=None if score is None else 2.5,
            epochs=None if score is None else 4,
            params={"taps": "deep" if number % 2 else "all", "l2": rate, "batch_size": 32, "dropout": number / 10},
            message="",
        )
        for number, (score, rate) in enumerate(zip(scores, rates, strict=True))
    ]


def make_images(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (32, 32, 3) if index % 2 else (32, 20), dtype=np.uint8) for index in range(count)]


def texts(figure: Figure) -> set[str]:
    return {item.get_text() for item in figure.findobj(Text)} - {""}


def points(figure: Figure) -> int:
    return sum(len(item.get_offsets()) for axes in figure.axes for item in axes.collections if item.get_zorder() == 3)


DRAW: dict[str, Callable[[Path], Figure]] = {
    "confusion_matrix": lambda target: draw_confusion_matrix([[5, 1, 0], [0, 6, 0], [2, 0, 4]], NAMES, target, "Model"),
    "learning_curves": lambda target: draw_learning_curves(HISTORY, target, "Model"),
    "penalty_path": lambda target: draw_penalty_path(PATH, target, "Model"),
    "leaderboard": lambda target: draw_leaderboard([make_row("A", "ImageNet"), make_row("B", "random")], target),
    "per_class_scores": lambda target: draw_class_scores(make_metrics(3, 0.8), target, "Model"),
    "misjudged_grid": lambda target: draw_misjudged(make_images(2), ["a → b", "b → a"], target, "Model"),
    "tuning_trials": lambda target: draw_trials(make_trainings(), target, winner=4),
    "recipes": lambda target: draw_recipes(make_trials(), target, winner=3),
    "model_diagram": lambda target: draw_diagram(BLOCKS, target, "Model"),
}


@pytest.mark.parametrize(("name", "suffix"), [*((name, ".png") for name in DRAW), ("misjudged_grid", ".jpg")])
@pytest.mark.filterwarnings("error")
def test_plots_are_whole_files_with_the_same_bytes_each_time(name: str, suffix: str, tmp_path: Path) -> None:
    first, second = tmp_path / f"first{suffix}", tmp_path / "new folder" / f"second{suffix}"
    figure = DRAW[name](first)
    DRAW[name](second)
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        image.load()
        assert image.format == {".png": "PNG", ".jpg": "JPEG"}[suffix]
        assert image.size == pytest.approx(150 * figure.get_size_inches(), abs=1)
        assert np.asarray(image.convert("L")).std() > 5
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [first.name]


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.png, \.jpg, \.jpeg"):
        save_figure(new_figure(1, 1), tmp_path / "plot.gif")
    assert list(tmp_path.iterdir()) == []


def test_figures_do_not_pile_up_in_pyplot(tmp_path: Path) -> None:
    DRAW["confusion_matrix"](tmp_path / "plot.png")
    assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_confusion_matrix_shows_counts_and_total(tmp_path: Path) -> None:
    figure = DRAW["confusion_matrix"](tmp_path / "plot.png")
    assert {"5", "6", "4", "1", "2", "15 of 18 correct", "Crazing", shorten(NAMES[2])} <= texts(figure)
    shares = np.asarray(figure.axes[0].collections[0].get_array())
    assert shares.ravel() == pytest.approx([5 / 6, 1 / 6, 0, 0, 1, 0, 1 / 3, 0, 2 / 3])


@pytest.mark.parametrize(("classes", "annotated", "names"), [(25, True, 25), (26, False, 26), (301, False, 101)])
def test_confusion_matrix_of_many_classes_stays_readable(
    classes: int, annotated: bool, names: int, tmp_path: Path
) -> None:
    labels = [f"class {index}" for index in range(classes)]
    axes = draw_confusion_matrix(np.eye(classes, dtype=int) * 7, labels, tmp_path / "plot.jpg", "Model").axes[0]
    assert ("7" in {text.get_text() for text in axes.texts}) is annotated
    assert len(axes.get_yticklabels()) == names
    ticks = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(ticks))


@pytest.mark.parametrize(("matrix", "names"), [([[1, 2]], ["a", "b"]), ([[1]], ["a", "b"]), ([], [])])
def test_confusion_matrix_that_fits_no_names_is_refused(matrix: list, names: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be"):
        draw_confusion_matrix(matrix, names, tmp_path / "plot.png", "Model")


def test_learning_curves_mark_the_lowest_validation_loss(tmp_path: Path) -> None:
    figure = DRAW["learning_curves"](tmp_path / "plot.png")
    assert {"best: epoch 3", "Loss", "Accuracy", "Learning rate"} <= texts(figure)
    marks = {line.get_label(): line.get_xdata()[0] for line in figure.axes[0].lines}
    assert marks["best: epoch 3"] == 3
    assert list(figure.axes[0].lines[1].get_ydata()) == HISTORY["val_loss"]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log"]


def test_learning_curves_of_one_epoch_without_accuracy(tmp_path: Path) -> None:
    history = {"loss": [0.5], "val_loss": [0.6], "learning_rate": [0.0]}
    figure = draw_learning_curves(history, tmp_path / "plot.png", "Model")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Learning rate"]


@pytest.mark.parametrize(
    "history", [{}, {"loss": [], "val_loss": []}, {"loss": [1.0]}, {"loss": [1.0], "val_loss": [1.0, 2.0]}]
)
def test_unusable_history_is_refused(history: dict[str, list[float]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="history needs loss and val_loss"):
        draw_learning_curves(history, tmp_path / "plot.png", "Model")


def test_penalty_path_marks_the_lowest_loss(tmp_path: Path) -> None:
    (axes,) = DRAW["penalty_path"](tmp_path / "plot.png").axes
    path, mark = axes.lines
    assert (list(path.get_xdata()), list(path.get_ydata())) == (PATH["l2"], PATH["val_loss"])
    assert (mark.get_xdata()[0], mark.get_label()) == (0.01, "best: 0.01")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    steep = {"l2": [0.1, 0.01], "val_loss": [2.0, 0.1]}
    assert draw_penalty_path(steep, tmp_path / "steep.png", "Model").axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    ("history", "file"),
    [(HISTORY, ["learning_curves.png"]), (PATH, ["l2_path.png"]), ({"l2": [0.1], "val_loss": [0.2]}, [])],
)
def test_a_fit_leaves_the_plot_that_tells_how_it_went(
    history: dict[str, list[float]], file: list[str], tmp_path: Path
) -> None:
    draw_history(history, tmp_path, "Model")
    assert [path.name for path in tmp_path.iterdir()] == file


def test_leaderboard_marks_weights_and_keeps_the_order(tmp_path: Path) -> None:
    rows = [make_row("A", "ImageNet"), make_row("B", "random"), make_row("C", "from scratch")]
    figure = draw_leaderboard(rows, tmp_path / "plot.png")
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["A\nImageNet", "B\nrandom: untrained", "C\nfrom scratch"]
    assert axes.yaxis_inverted()
    assert points(figure) == 6
    tests = next(item for item in axes.collections if item.get_label() == "test")
    assert tests.get_offsets()[0, 0] == pytest.approx(rows[0].test.accuracy.value)
    faces = tests.get_facecolors()
    assert np.array_equal(faces[1], (1, 1, 1, 1)) and not np.array_equal(faces[0], (1, 1, 1, 1))
    with pytest.raises(ValueError, match="at least one model"):
        draw_leaderboard([], tmp_path / "none.png")


def test_per_class_scores_say_which_class_has_no_image(tmp_path: Path) -> None:
    figure = draw_class_scores(make_metrics(6, 0.7, absent=2), tmp_path / "plot.png", "Model")
    assert points(figure) == 5 * 3
    assert {"no image of this class", "class 2 (0)", "class 3 (5)", "lines: 95 % intervals"} <= texts(figure)
    assert points(draw_class_scores(make_metrics(45, 1.0), tmp_path / "many.png", "Model")) == 45 * 3


@pytest.mark.parametrize("count", [1, 6, 14])
def test_misjudged_images_are_all_shown(count: int, tmp_path: Path) -> None:
    captions = [f"Scratches → Inclusion 0.{index + 10}" for index in range(count)]
    figure = draw_misjudged(make_images(count), captions, tmp_path / "plot.jpg", "Model")
    assert sum(len(axes.images) for axes in figure.axes) == count
    assert {text.replace("\n", " ") for text in texts(figure)} >= set(captions)


def test_no_misjudged_image_is_said_and_captions_must_match(tmp_path: Path) -> None:
    assert "No image was misjudged." in texts(draw_misjudged([], [], tmp_path / "plot.png", "Model"))
    with pytest.raises(ValueError, match="1 images and 2 captions"):
        draw_misjudged(make_images(1), ["a", "b"], tmp_path / "plot.png", "Model")


def test_tuning_trials_show_the_best_and_what_was_varied(tmp_path: Path) -> None:
    figure = DRAW["tuning_trials"](tmp_path / "plot.png")
    assert {"best: trial 4, loss 0.0500, accuracy 97.5 %", "failed", "taps", "l2", "dropout"} <= texts(figure)
    assert "batch size" not in texts(figure)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert (panels["l2"].get_xscale(), panels["dropout"].get_xscale()) == ("log", "linear")
    search = next(axes for axes in figure.axes if axes.get_xlabel() == "trial")
    assert list(search.lines[0].get_ydata()) == [0.5, 0.2, 0.2, 0.05, 0.05, 0.05]


def test_tuning_trials_of_one_or_without_a_score(tmp_path: Path) -> None:
    trials = make_trainings()
    assert len(draw_trials(trials[:2], tmp_path / "one.png", winner=0).axes) == 1
    with pytest.raises(ValueError, match=r"one of 0 trials that have a score\. Got trial 1\."):
        draw_trials(trials[1:2], tmp_path / "none.png", winner=1)


def test_model_diagram_pools_every_tap(tmp_path: Path) -> None:
    figure = DRAW["model_diagram"](tmp_path / "plot.png")
    assert sum(item.get_text() == "mean, variance" for item in figure.findobj(Text)) == 2
    assert len(figure.findobj(FancyBboxPatch)) >= len(BLOCKS) + 2
    assert {block.name for block in BLOCKS} <= texts(figure)
    chain = draw_diagram([Block("Pixels", ""), Block("Softmax", "")], tmp_path / "chain.png", "Model")
    assert "mean, variance" not in texts(chain)
    assert chain.get_size_inches()[0] < figure.get_size_inches()[0]


@pytest.mark.parametrize("blocks", [[], [Block("Pixels", "", tap=True)]])
def test_diagram_without_a_head_is_refused(blocks: list[Block], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one behind the last tap"):
        draw_diagram(blocks, tmp_path / "plot.png", "Model")


def test_long_names_keep_both_ends() -> None:
    short = shorten("oxide scale of temperature system number 12")
    assert len(short) == 28 and short.startswith("oxide") and short.endswith("number 12")

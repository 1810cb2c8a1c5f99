"""The report and the model card: complete, self-contained, escaped, and the same each time."""

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import PROJECT
from support.evaluations import EVIL, make_evaluation, make_selection, make_verdicts
from support.findings import draw, make_findings, make_geometry, make_trials, make_tuned, make_validation

from metal_defects.data.manifest import DataCard
from metal_defects.data.validation import BalanceCheck
from metal_defects.evaluation.results import ModelTitle, Protocol
from metal_defects.inference.verdict import VERDICTS
from metal_defects.metrics import share
from metal_defects.models.results import FineTuning
from metal_defects.report.chapters import NEU_CLASSES
from metal_defects.report.document import write_report
from metal_defects.report.findings import Findings
from metal_defects.report.parts import Album
from metal_defects.trust.priors import Priors

NOTE = "calibration and possible classes rest on 9 validation images."


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]


def write(folder: Path, found: Findings) -> tuple[Page, str, str]:
    """The page, its text, and the model card; a percent sign that no line ends in front of reads like any other."""
    write_report(found, folder)
    text = (folder / "report.html").read_text("utf-8")
    assert "\u00a0%" in text and " %" not in text
    text = text.replace("\u00a0%", " %")
    return Page(text), text, (folder / "model_card.md").read_text("utf-8")


@pytest.fixture
def found(tmp_path: Path) -> Findings:
    return make_findings(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, str, str]:
    """The report of a run in which everything was measured."""
    folder = tmp_path_factory.mktemp("written")
    return write(folder, make_findings(folder))


def find_chapter(text: str, key: str) -> str:
    """The words of one chapter."""
    return Page(re.search(rf'<section id="{key}">(.*?)</section>', text, re.DOTALL)[1]).words


def test_report_is_self_contained_and_its_pictures_decode(tmp_path: Path, found: Findings) -> None:
    draw(found.leaderboard_plot, width=1150)
    page, text, _ = write(tmp_path, found)
    sources = page.values("src")
    # Data 4, leaderboard 1 + 2 models of 2, tuning 1, tested 4, evaluation 9, variants 1; one image misjudged thrice.
    assert len(sources) == 4 + 5 + 1 + 4 + 9 + 1 + 3
    for source in sources:
        kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", source).groups()
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            assert image.format == kind.upper() and image.width <= 1100
    assert all(target.startswith("#") for target in page.values("href"))
    assert {target[1:] for target in page.values("href")} <= set(page.values("id"))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import|http-equiv", text)
    assert len(text) < 6_000_000


def test_the_way_to_make_squares_is_told_with_its_figures(tmp_path: Path, written: tuple[Page, str, str]) -> None:
    chapter = find_chapter(written[1], "data")
    assert "Every image becomes a square of 224 px; fit: letterbox." in chapter
    assert "on 40 training images" in chapter and re.search(r"stretch at 224 px\s*0\.4\s*0\.1\s*0\.02\s*90", chapter)
    nothing = make_geometry().model_copy(update={"candidates": (), "backbone": None, "images": 0})
    _, text, _ = write(tmp_path, make_findings(tmp_path, geometry=nothing))
    assert "letterbox" in find_chapter(text, "data") and "training images, out of fold" not in text


def test_names_are_escaped(written: tuple[Page, str, str]) -> None:
    page, _, card = written
    assert EVIL in page.words
    assert "<script" not in card
    rows = [line for line in card.splitlines() if line.startswith("| &lt;script")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)


@pytest.mark.parametrize(
    ("chapter", "figures"),
    [
        ("data", ("40 images; one size: 20 × 20 px (40)", "Two.", "train 40, valid 0, test 0.")),
        ("problems", ("0.98", "Files in quarantine", "Images that show two defects")),
        ("leaderboard", ("97.5 % (87.1–99.6)", "7.3", "0.4", "damage, mild", "0.003", "solved", "log loss by penalty")),
        ("comparison", ("Other", "0.4", "no")),
        (
            "tuning",
            (
                "Trial 3 of 5 was chosen",
                "near " + EVIL,
                "3, chosen",
                "Compared on 40 images",
                "0.0123 ± 0.0456",
                "failed",
            ),
        ),
        (
            "tuning",
            (
                "First look at 400 images",
                "92.5 %",
                "label smoothing",
                "98.0 %",
                "0.28",
                "Not more than " + EVIL,
                "3.5",
                "97.5 %",
                "95.0 %",
            ),
        ),
        ("tested", ("97.5 % (87.1–99.6)", "validation")),
        ("cross_validation", ("97.5 %", "Labels that may be wrong", "90.0 %")),
        ("calibration", ("1.12 % (0.56–2.24)", "0.42 % (0.21–0.84)", "temperature 0.8", "0.03", "-0.1", "50.0 %")),
        ("conformal", ("Promised: 99.0 %", "97.5 % (87.1–99.6)", "0.0 %, 90.0 %, 10.0 %", "–")),
        ("guard", ("block_8", "97.5 % (87.1–99.6)", "98.6 % (92.5–99.8)", "1.2")),
        ("verdicts", ("36", "out of fold", "62.0 % (52.2–70.9)", "With these data 62 of 100", "1.0 %", "0.93", "0.9")),
        ("locator", ("97.2 % (90.4–99.2)", "0.700 (0.600–0.800)", "55.0 %", "Grad-CAM", "150 boxes in 72 images")),
        ("robustness", ("gaussian noise", "60.0 % (44.6–73.7)", "12.5 %", "dB SNR", "undamaged, 90.0 %")),
        ("learning_curve", ("all", "90.0 % (59.6–98.2)", "95.0 %")),
        ("ensemble", ("No gain. Recommended: ", f"{EVIL}, Other")),
        ("misjudged", ("3 answers", "2 times", "90.0 %", f"{EVIL} called Crazing")),
        ("export", ("Served by default: float32. Not int8: 71 of 72 labels.", "12.4", "71 of 72", "2e-06")),
        ("making", ("python main.py run --set seed=7", "the seed is 7", "keras", "3.0", "8.92", "12.5", "def")),
    ],
)
def test_chapter_shows_what_was_measured(
    written: tuple[Page, str, str], chapter: str, figures: tuple[str, ...]
) -> None:
    words = find_chapter(written[1], chapter)
    for expected in figures:
        assert expected in words, expected
    assert "Not here" not in words


def test_first_page_tells_the_figures_that_matter(written: tuple[Page, str, str]) -> None:
    page, text, card = written
    for expected in (
        "It names 97.5 of 100 images rightly; it accepts 90 of 100 by itself, and of those 1 was wrong.",
        "1 of 36 in cross-validation",
        "90 accepted: the answer can be used",
        "With these data 62 of 100 can be accepted, at most 0.5 % of them wrong (at 1 %: 75; at 5 %: 96).",
    ):
        assert expected in page.words, expected
    assert "Wrong among the accepted: 2.8 of 100 (95 % interval 0.5 to 14.2" in card
    assert "Known surfaces pass the guard: 98.6 of 100 (95 % interval 92.5 to 99.8; held-out images" in card
    assert "out of fold 97.5 (87.1 to 99.6)" in card
    assert "| 1.0 % | 75.0 % (65.7–82.5) | 0.0 % (0.0–4.9) |" in card
    assert "Heat maps point at the defect: 97.2 of 100" in card
    assert "Gap between confidence and truth: 0.42 points (95 % interval 0.21 to 0.84" in card
    for style in VERDICTS.values():
        assert f"--{style.name}: {style.colour};" in text and f"{style.title}</b>: {style.advice}" in text


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            {"is_shown": False, "accepted": share(31, 60)},
            "With these data 51.7 of 100 can be accepted, at most 0.5 % of them wrong (at 1 %: 75; at 5 %: 96). "
            "Counting cannot show 0.5 % here: the 200 most confident answers would have to be right, of 100 in all. "
            "What is accepted rests on the calibrated confidence instead.",
        ),
        (
            {"is_shown": False, "threshold": None, "accepted": share(0, 60), "wrong": None},
            "With these data nothing can be accepted if at most 0.5 % of it may be wrong (at 1 %: 75; at 5 %: 96). "
            "Counting cannot show 0.5 % here: the 200 most confident answers would have to be right, of 100 in all.",
        ),
    ],
)
def test_a_promise_that_cannot_be_shown_is_told(tmp_path: Path, parts: dict[str, Any], expected: str) -> None:
    evaluation = make_evaluation(
        selection=make_selection(**parts), priors=Priors(training=(0.5, 0.5), served=(0.99, 0.01))
    )
    page, text, card = write(tmp_path, make_findings(tmp_path, evaluation=evaluation))
    assert expected in page.words and expected in card
    assert "those of the mix of classes in the settings" in card
    assert "Images count by the mix of classes" in find_chapter(text, "calibration")


def test_network_trained_as_a_whole_is_judged_by_its_test_images(tmp_path: Path) -> None:
    evaluation = make_evaluation(
        protocol=Protocol(images=9, folds=1, repeats=1, note=NOTE),
        verdicts=make_verdicts(out_of_fold=None),
        learning_curve=None,
        comparison=None,
        ensemble=None,
    )
    page, text, card = write(tmp_path, make_findings(tmp_path, evaluation=evaluation))
    assert "names 97.5 of 100 images rightly" in page.words and "40 test images" in card
    assert "1 of 36 of the test images" in page.words
    assert NOTE in find_chapter(text, "splits") and NOTE in find_chapter(text, "cross_validation")
    for chapter in ("cross_validation", "learning_curve", "comparison", "ensemble"):
        assert "Not here: " in find_chapter(text, chapter)
    assert "2 answers" in find_chapter(text, "misjudged")
    assert "None" not in (page.words + card).replace("None beat", "")


def test_solved_head_names_no_setting_of_a_training(written: tuple[Page, str, str]) -> None:
    words = find_chapter(written[1], "tuning")
    assert "learning rate" not in words and "epochs" not in words
    assert "taps: early; pooling: moments; augmented views: none; penalty (l2): 0.003" in written[2]


def test_head_with_a_hidden_layer_shows_how_it_was_trained(tmp_path: Path) -> None:
    hidden, values = {"hidden_units": 64}, make_tuned().hyperparameters
    trials = tuple(one.model_copy(update={"params": {**one.params, **hidden}}) for one in make_trials())
    found = make_findings(tmp_path, tuned=make_tuned(hyperparameters={**values, **hidden}, trials=trials))
    draw(found.tuning_plots / "learning_curves.png")
    _, text, card = write(tmp_path, found)
    assert "learning rate" in find_chapter(text, "tuning") and "Result: learning curves" in text
    assert "a hidden layer of 64 units on the frozen backbone" in card


def test_network_from_scratch_shows_its_own_hyperparameters(tmp_path: Path) -> None:
    plain = {"first_look": False, "gmacs": None, "epochs": 8.0}
    trials = tuple(
        one.model_copy(update={**plain, "number": number, "params": {"filters": 16 * (number + 1)}})
        for number, one in enumerate(make_trials()[:2])
    )
    scratch: dict[str, Any] = {"kind": "from scratch", "weights": "from scratch", "trials": trials, "fine_tuning": None}
    won = make_tuned(**scratch, hyperparameters={"filters": 32, "epochs": 30})
    _, text, card = write(tmp_path, make_findings(tmp_path, tuned=won))
    words = find_chapter(text, "tuning")
    assert (
        "Trial 1 of 2 was chosen" in words
        and "1, chosen" in words
        and "filters" in words
        and "hidden units" not in words
    )
    for absent in ("cross-validation", "First look", "above the lowest", "multiply-adds", "Fine-tuning"):
        assert absent not in words, absent
    assert "trained from scratch; filters 32, epochs 30" in card
    kept = make_tuned(**scratch, hyperparameters={"filters": 64}, base_model_kept=True)
    words = find_chapter(write(tmp_path, make_findings(tmp_path, tuned=kept))[1], "tuning")
    assert "2 trials. None beat the base model" in words and "chosen" not in words


@pytest.mark.parametrize(
    ("fine_tuning", "told", "recipe"),
    [
        (
            FineTuning(reason="It was not wanted."),
            ("tried\nno", "why\nIt was not wanted."),
            "a linear head on the frozen",
        ),
        (
            FineTuning(
                reason="Better.", kept=True, minutes=9.0, epochs=7, images=9, frozen_accuracy=0.5, accuracy=0.75
            ),
            (
                "tried\nyes",
                "outcome\nBetter.",
                "minutes\n9",
                "each training\n7",
                "50.0 %",
                "75.0 %",
                "kept\nyes",
                "of the head on the frozen",
            ),
            "middle blocks of the backbone fine-tuned",
        ),
    ],
)
def test_fine_tuning_is_told(tmp_path: Path, fine_tuning: FineTuning, told: tuple[str, ...], recipe: str) -> None:
    _, text, card = write(tmp_path, make_findings(tmp_path, tuned=make_tuned(fine_tuning=fine_tuning)))
    words = find_chapter(re.sub(r"</td>", "</td>\n", text), "tuning")
    for expected in told:
        assert expected in words, expected
    assert f"Recipe: {recipe}" in card


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    guard = make_evaluation().guard
    robustness = make_evaluation().robustness
    undamaged = robustness.clean.model_copy(update={"accepted": None, "silent_errors": None})
    evaluation = make_evaluation(
        locator=None,
        guard=guard.model_copy(
            update={
                "accepted_out_of_fold": None,
                "distances": guard.distances.model_copy(update={"out_of_fold": None}),
            }
        ),
        robustness=robustness.model_copy(
            update=dict.fromkeys(("accepted", "silent_errors", "silent_errors_mean", "errors_accepted"))
            | {"clean": undamaged}
        ),
        verdicts=make_verdicts(
            out_of_fold=make_verdicts().test.model_copy(update={"accept": 0, "review": 39, "wrong_accept": 0})
        ),
    )
    page, text, card = write(tmp_path, make_findings(tmp_path, evaluation=evaluation))
    assert "there are no boxes in this data" in find_chapter(text, "locator")
    assert "Where the heat map points was not checked" in card
    assert "out of fold" not in find_chapter(text, "guard")
    assert "Accepted" not in find_chapter(text, "robustness")
    assert "Wrong among the accepted: not measured. No answer was accepted in cross-validation." in card
    assert "None" not in (page.words + card).replace("None beat", "")


def test_clean_data_has_no_problems(tmp_path: Path) -> None:
    copies = make_validation().copies.model_copy(update={"pairs": ()})
    manifest = tuple(row.model_copy(update={"boxes": ()}) for row in make_findings(tmp_path).manifest)
    found = make_findings(tmp_path, manifest=manifest, quarantine=(), validation=make_validation(copies=copies))
    assert "None: no copies, no unusable files" in find_chapter(write(tmp_path, found)[1], "problems")


@pytest.mark.parametrize(
    ("part", "notice"),
    [
        ({"data": DataCard(kind="synthetic", notice="Drawings <only>.")}, "Drawings <only>."),
        ({"model": ModelTitle(name="toy", title="Toy", weights="random")}, "weights are random"),
    ],
)
def test_drawings_and_random_weights_are_told_first(tmp_path: Path, part: dict[str, Any], notice: str) -> None:
    page, text, card = write(tmp_path, make_findings(tmp_path, evaluation=make_evaluation(**part)))
    assert notice in page.words[: page.words.index("named rightly")]
    assert "not fit for use" in page.words and 'class="sentence poor"' in text
    assert card.index("> **") < card.index("## Model details")


@pytest.mark.parametrize(("correct", "level"), [(1000, "good"), (980, "fair"), (900, "poor")])
def test_sentence_rests_on_the_lower_limit(tmp_path: Path, correct: int, level: str) -> None:
    judged = make_evaluation().cross_validation
    metrics = judged.metrics.model_copy(update={"accuracy": share(correct, 1000)})
    evaluation = make_evaluation(cross_validation=judged.model_copy(update={"metrics": metrics}))
    text = write(tmp_path, make_findings(tmp_path, evaluation=evaluation))[1]
    assert f'class="sentence {level}"' in text


def test_same_findings_same_bytes(tmp_path: Path, found: Findings) -> None:
    assert write(tmp_path, found)[1:] == write(tmp_path, found)[1:]


def test_published_figures_stand_beside_neu_alone(tmp_path: Path, found: Findings) -> None:
    assert "98.93" not in write(tmp_path, found)[1]
    balance = BalanceCheck(status="ok", message="Well.", ratio=1.0, counts=dict.fromkeys(NEU_CLASSES, 300))
    neu = make_validation(balance=balance)
    words = find_chapter(write(tmp_path, make_findings(tmp_path, validation=neu))[1], "published")
    assert "98.93 ± 0.63 %" in words and "Applied Surface Science 285" in words
    # 30 and 20 dB are the third and the fifth severity.
    assert re.search(r"noise of 30 dB\s*40 held-out images\s*80.0 %", words)
    assert re.search(r"noise of 20 dB\s*40 held-out images\s*60.0 %", words)
    drawn = make_evaluation(data=DataCard(kind="synthetic", notice="Drawings."))
    assert "98.93" not in write(tmp_path, make_findings(tmp_path, validation=neu, evaluation=drawn))[1]


def test_long_lists_are_cut(tmp_path: Path, found: Findings) -> None:
    words = find_chapter(write(tmp_path, make_findings(tmp_path, quarantine=found.quarantine * 160))[1], "problems")
    assert "10 more; all of them are in the files of the run." in words


def test_pictures_stop_at_the_budget(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 200, 200)
    album = Album(60_000)
    pictures = [album.embed(tmp_path / "a.png", 100, photo=True) for _ in range(40)]
    kept = [picture for picture in pictures if picture]
    assert 0 < len(kept) < 40 and sum(len(picture.uri) for picture in kept) <= 60_000
    assert {picture.width for picture in kept} == {100}


def test_report_needs_nothing_heavy() -> None:
    code = (
        "import sys\nimport metal_defects.components.c10_report, jinja2\n"
        "print(sorted({'tensorflow', 'keras', 'matplotlib', 'scipy', 'sklearn', 'onnxruntime'} & set(sys.modules)))"
    )
    path = {"PYTHONPATH": str(PROJECT / "src"), "PATH": ""}
    loaded = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"

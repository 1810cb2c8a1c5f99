"""Writes report.html, one self-contained file that prints well, and model_card.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metal_defects import __version__
from metal_defects.config import Settings
from metal_defects.files import write_text
from metal_defects.report import first_page as glance
from metal_defects.report.chapters import (
    WIDE,
    Gathered,
    show_data,
    show_leaderboard,
    show_making,
    show_metrics,
    show_misjudged,
    show_problems,
    show_splits,
    show_tested,
    show_tuning,
)
from metal_defects.report.parts import Section, Table, dig, percent, show, tabulate

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")

# Place in the evaluation, title, how to read it, plots, names that stay out, why it may be missing.
MEASURED = (
    ("calibration", "Calibration: is the confidence a probability?",
     "Of the answers with 90 % confidence, 90 of 100 should be right. The expected calibration error (ECE) is the mean "
     "gap between the two, before and after one temperature was fitted to out-of-fold answers.",
     ("reliability",), "there were no out-of-fold answers to fit a temperature to"),
    ("conformal", "Possible classes: a set that holds the true one",
     "Every answer comes with the set of classes that are possible at the configured coverage: so often must the true "
     "class be among them. The smaller the sets, the more they say.",
     ("coverage",), "there were no out-of-fold answers to fit the sets to"),
    ("guard", "Guard: is this a surface that the model knows?",
     "The guard measures how far an image is from the textures of the training; 1.0 is the limit. AUROC 1 tells known "
     "and unknown surfaces apart without a mistake, 0.5 is chance. False acceptance: unknown surfaces let through.",
     ("guard",), "the guard could not be fitted to this model or data"),
    ("verdicts", "Verdicts: accept, review, unknown",
     "An answer is accepted when one class alone is possible, goes to review when several are or the confidence is "
     "low, and is unknown when the guard says so.",
     ("verdicts",), "verdicts were not measured"),
    ("locator", "Where is the defect?",
     "Pointing game: the heat map's strongest point lies inside a box that a person drew. IoU: overlap of the two, "
     "from 0 to 1. All on images that the map was not fitted to, beside simple baselines.",
     ("locator_examples",), "there are no boxes in this data to check the heat map against"),
    ("robustness", "Damaged images",
     "Held-out images with noise, blur, changed light and more, in five severities from mild (1) to severe (5): how "
     "many are still named rightly, and how many wrong answers slip through accepted.",
     ("robustness", "noise"), "damaged images were not scored in this run"),
    ("learning_curve", "What would more labels buy?",
     "Accuracy of the same model with fewer labelled images per class, drawn several times.",
     ("learning_curve",), "the learning curve was not measured in this run"),
    ("comparison", "Is the best model more than lucky?",
     "The base models on the same folds: a small p value means that the difference is more than chance.",
     (), "there was one base model alone, or the models were not compared in this run"),
    ("ensemble", "Several models together",
     "The mean answer of the best base models: what it adds and what it costs.",
     (), "an ensemble was not tried in this run"),
)  # fmt: skip


def write_report(artifacts: Path, out: Path, evaluation: Mapping[str, Any], settings: Settings) -> None:
    """Write report.html and model_card.md into `out`; whatever is missing, the report says so and goes on.

    Args:
        artifacts: folder of the finished stages.
        out: folder of the evaluation; its plots/*.png are embedded.
        evaluation: content of evaluation.json.
        settings: of this run.
    """
    document = gather(artifacts, out, evaluation, settings)
    environment = _environment(html=True)
    write_text(out / "report.html", environment.get_template("report.html.j2").render(document))
    environment = _environment(html=False)
    write_text(out / "model_card.md", environment.get_template("model_card.md.j2").render(document))


def _environment(html: bool) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def escape_markdown(value: Any) -> Any:
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        text = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return "".join(f"\\{letter}" if letter in "|`*[]\\" else letter for letter in text)

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=html,
        finalize=None if html else escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"show": show, "percent": percent}
    return made


def gather(artifacts: Path, out: Path, evaluation: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The variables of both templates; arguments as in `write_report`."""
    found = Gathered(artifacts, evaluation)
    notices = glance.list_notices(evaluation)
    level, sentence = glance.judge(evaluation, found.tuned, notices)
    limits = glance.list_limits(evaluation, found.tuned, found.checks)
    published = glance.compare_with_published(evaluation, found.tuned, found.checks)
    # Pictures that matter most come first: the last ones fall out of a report that grows too large.
    measured = {key: _show_measured(found, out, key, *rest) for key, *rest in MEASURED}
    misjudged = show_misjudged(found)
    sections = [
        show_data(found),
        show_problems(found),
        show_splits(found),
        show_leaderboard(found),
        measured.pop("comparison"),
        show_tuning(found),
        show_tested(found),
        _show_cross_validation(evaluation),
        *measured.values(),
        misjudged,
        _show_published(published),
        show_making(found, settings),
    ]
    return {
        "title": dig(evaluation, "model", "title") or found.tuned.get("title") or "Surface defect classifier",
        "weights": dig(evaluation, "model", "weights") or found.tuned.get("weights"),
        "classes": found.classes,
        "images": len(found.images),
        "notices": notices,
        "level": level,
        "sentence": sentence,
        "cards": glance.make_cards(evaluation, found.tuned),
        "bars": glance.make_bars(evaluation),
        "basis": glance.count_verdicts(evaluation)[2],
        "limits": limits,
        "sections": sections,
        "headline": glance.headline(evaluation, found.tuned),
        "split": dig(found.checks, "split", "message"),
        "version": __version__,
        "date": found.date,
    }


def _show_measured(
    found: Gathered, out: Path, key: str, title: str, reading: str, plots: Sequence[str], why: str
) -> Section:
    """A part of the evaluation as its producer left it."""
    value = found.evaluation.get(key)
    if not value:
        return Section(key, title, absent=f"Not here: {why}.")
    if key == "learning_curve" and isinstance(value, list):
        value = [{**row, "per_class": row.get("per_class") or "all"} for row in value]
    rules = tabulate(value["rules"], "Rules") if key == "verdicts" and "rules" in value else []
    if rules:
        value = {name: part for name, part in value.items() if name != "rules"}
    pictures = [p for name in plots for p in found.picture(out / "plots" / f"{name}.png", title, WIDE)]
    return Section(key, title, (reading,), None, (*tabulate(value), *rules), tuple(pictures))


def _show_cross_validation(evaluation: Mapping[str, Any]) -> Section:
    title, value = "Cross-validation", evaluation.get("cross_validation")
    if not value:
        return Section("cross_validation", title, absent="Not here: the training part was not cross-validated.")
    text = (
        "The training part is cut into folds, copies together; every image is judged by a model that was trained on "
        "the other folds. Validation and test images take no part.",
        *([note] if (note := dig(evaluation, "protocol", "note")) else []),
    )
    suspects = [{name: row[name] for name in row if name != "picture"} for row in value.get("suspects") or []]
    tables = (
        *(show_metrics(value.get("metrics")) or tabulate({"accuracy": value.get("accuracy")})),
        *tabulate(value.get("repeats"), "Every round"),
        *tabulate(suspects, "Labels that may be wrong: look at these images"),
    )
    return Section("cross_validation", title, text, None, tables)


def _show_published(tables: list[Table]) -> Section:
    title = "Beside published figures"
    if not tables:
        return Section("published", title, absent="Not here: these are not the 1,800 images of NEU.")
    text = "Published figures as their sources give them; protocols differ, so that they set the scale and no more."
    return Section("published", title, (text,), None, tuple(tables))

"""Chapters of the report about stages 01 to 07, from the files that they left, and about how it was all made."""

import csv
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from metal_defects import __version__
from metal_defects.config import Settings, load_settings
from metal_defects.files import read_json, sha256_file
from metal_defects.pipeline.digest import library_versions
from metal_defects.report.parts import Album, Picture, Section, Table, dig, show, tabulate

# Characters of all pictures: with text and tables the report stays below 6 MB.
PICTURES = 5_000_000
WIDE, HALF, SMALL = 1100, 760, 224
SPLITS = ("train", "valid", "test")
MOST_PROBABILITIES, MOST_NAMES, MOST_MATRIX_CLASSES, MOST_BASE_MODELS = 4, 150, 16, 8
DATA_PLOTS = (
    ("sample_images", "Training images"), ("class_counts", "Images per class"),
    ("intensity_histograms", "Grey levels"), ("mean_images", "Mean images"),
)  # fmt: skip


class Gathered:
    """What the stages left, as far as it is there; missing files count as empty.

    Args:
        artifacts: folder of the finished stages.
        evaluation: content of evaluation.json.
    """

    def __init__(self, artifacts: Path, evaluation: Mapping[str, Any]) -> None:
        self.evaluation = evaluation
        self.artifacts = artifacts
        self.ingested = artifacts / "01_data_ingestion"
        self.preprocessed = artifacts / "02_data_preprocessing"
        self.trained = artifacts / "06_model_training_evaluation"
        self.tuning = artifacts / "07_hyperparameter_tuning"
        self.album = Album(PICTURES)
        self.tuned: dict[str, Any] = _read(self.tuning / "metrics.json")
        self.source: dict[str, Any] = _read(self.ingested / "source.json")
        report = _read(self.ingested / "validation_report.json")
        self.checks = {check["name"]: check for check in report.get("checks", [])}
        self.images = {row["path"]: row for row in _read_rows(self.ingested / "manifest.csv")}
        self.classes: list[str] = list(evaluation.get("classes") or self.source.get("classes") or [])

    @cached_property
    def pictures(self) -> dict[str, str]:
        """Preprocessed picture, relative to the folder of stage 02, by source."""
        return {row["source"]: row["path"] for row in _read_rows(self.preprocessed / "images.csv")}

    @property
    def date(self) -> str:
        """The day on which the model was finished."""
        return str(_read(self.tuning / "stage.json").get("finished", ""))[:10]

    def picture(self, file: Path, caption: str, width: int = HALF) -> list[Picture]:
        """The picture, or nothing."""
        found = self.album.embed(file, caption, width)
        return [found] if found else []

    def other_boxes(self, source: str) -> list[str]:
        """Classes of an image's boxes besides its own."""
        row = self.images.get(source)
        return sorted({box[4] for box in json.loads(row["boxes"])} - {row["label"]}) if row else []


def show_data(found: Gathered) -> Section:
    """Counts, checks, and what the images look like."""
    title = "The data and its problems"
    if not found.images:
        return Section("data", title, absent="Not here: there is no manifest.")
    rows = found.images.values()
    counts = Counter((row["label"], row["split"]) for row in rows)
    boxes = Counter(box[4] for row in rows for box in json.loads(row["boxes"]))
    names = list(dict.fromkeys([*found.classes, *(row["label"] for row in rows), *sorted(boxes)]))
    lines = [(name, *(f"{counts[name, split]:,}" for split in SPLITS), f"{boxes[name]:,}") for name in names]
    totals = (f"{sum(counts[name, split] for name in names):,}" for split in SPLITS)
    table = Table("Images and boxes", ("class", *SPLITS, "boxes"), (*lines, ("all", *totals, f"{boxes.total():,}")))
    sizes = Counter(f"{row['width']} × {row['height']} px" for row in rows)
    common = ", ".join(f"{name} ({count:,})" for name, count in sizes.most_common(3))
    text = f"{len(rows):,} images; {'one size' if len(sizes) == 1 else f'{len(sizes)} sizes'}: {common}."
    checks = tuple((check["status"], name, check["message"]) for name, check in found.checks.items())
    plots = found.preprocessed / "plots"
    shown = [picture for name, text_of in DATA_PLOTS for picture in found.picture(plots / f"{name}.png", text_of)]
    tables = (table, Table("Checks", ("", "check", "what was found"), checks))
    return Section("data", title, (text,), None, tables, tuple(shown))


def show_problems(found: Gathered) -> Section:
    """Copies, files in quarantine, and images whose boxes carry another class."""
    pairs = dig(found.checks, "copies", "pairs") or []
    rejected = _read_rows(found.ingested / "quarantine.csv")
    several = dig(found.checks, "boxes", "images_with_another_class") or []
    grouped: dict[tuple[str, str], list[str]] = {}
    for name in several:
        if name in found.images:
            kind = found.images[name]["label"], ", ".join(found.other_boxes(name))
            grouped.setdefault(kind, []).append(Path(name).name)
    mixed = [
        {"label": label, "other boxes": others, "images": len(names), "which": ", ".join(names)}
        for (label, others), names in grouped.items()
    ]
    tables = (
        *tabulate(pairs, "Copies, kept on one side of the split", most=MOST_NAMES),
        *tabulate(rejected, "Files in quarantine, not used", most=MOST_NAMES),
        *tabulate(mixed, "Images that show two defects: boxes of another class than the label", most=MOST_NAMES),
    )
    none = None if tables else "None: no copies, no unusable files, no boxes of another class."
    return Section("problems", "Copies, quarantine, second defects", absent=none, tables=tables)


def show_splits(found: Gathered) -> Section:
    """Who learns from which images, and who is judged on which."""
    text = (
        dig(found.checks, "split", "message") or "Where the split comes from is not documented.",
        "Models learn from train, also in cross-validation, where thresholds are set. Valid chooses among models and "
        "settings. Test takes part in no choice.",
    )
    protocol = {key: value for key, value in (found.evaluation.get("protocol") or {}).items() if value is not None}
    return Section("splits", "Splits", text, None, tuple(tabulate(protocol, "Cross-validation inside train")))


def show_leaderboard(found: Gathered) -> Section:
    """The base models, their curves and confusion matrices."""
    board = _read(found.trained / "leaderboard.json")
    if not board.get("models"):
        return Section("leaderboard", "Models compared", absent="Not here: no base models were trained.")
    columns = ("model", "weights", "10⁹ multiply-adds", "ms per image", "training, s", "validation", "test")
    measures = ("gmacs", "milliseconds_per_image", "seconds")
    rows = tuple(
        (one["title"], one["weights"], *(show(one.get(key)) for key in measures),
         *(show(dig(one, split, "accuracy"), "accuracy") for split in ("valid", "test")))
        for one in board["models"]
    )  # fmt: skip
    shown = found.picture(found.trained / "leaderboard.png", "Accuracy with 95 % intervals", WIDE)
    for one in board["models"][:MOST_BASE_MODELS]:
        folder, name = found.trained / one["name"], f"{one['title']} ({one['weights']})"
        shown += found.picture(folder / "learning_curves.png", f"{name}: learning curves")
        shown += found.picture(folder / "confusion_matrix_test.png", f"{name}: test")
    text = (board["rule"],) if board.get("rule") else ()
    return Section("leaderboard", "Models compared", text, None, (Table("", columns, rows),), tuple(shown))


def show_tuning(found: Gathered) -> Section:
    """The search of the best model's hyperparameters."""
    tuned, title = found.tuned, "Tuning"
    if not tuned:
        return Section("tuning", title, absent="Not here: the model was not tuned.")
    text = f"{tuned.get('trials', 'Several')} trials; the lowest log loss on the validation images wins."
    if tuned.get("base_model_kept"):
        text += " None beat the base model, which was kept."
    tables = tabulate(tuned.get("valid_log_loss"), "Log loss on the validation images")
    tables += tabulate(tuned.get("hyperparameters"), "Hyperparameters of the result")
    shown = found.picture(found.tuning / "learning_curves.png", "Learning curves of the result", WIDE)
    shown += found.picture(found.tuning / "trials.png", "All trials", WIDE)
    return Section("tuning", title, (text,), None, tuple(tables), tuple(shown))


def show_tested(found: Gathered) -> Section:
    """The tuned model on the validation and test images."""
    title = "Validation and test"
    if not found.tuned.get("test"):
        return Section("tested", title, absent="Not here: the tuned model was not tested.")
    tables, shown = [], []
    for split, name in (("test", "Test"), ("valid", "Validation")):
        matrix = found.picture(found.tuning / f"confusion_matrix_{split}.png", f"{name}: confusion matrix")
        scores = show_metrics(found.tuned.get(split), f"{name}: ")
        tables += scores[:-1] if matrix and scores else scores
        shown += matrix
        shown += found.picture(found.tuning / f"per_class_{split}.png", f"{name}: scores per class")
    text = "The tuned model, tested once. Intervals are 95 % Wilson intervals: 72 right of 72 mean “95 % or better”."
    return Section("tested", title, (text,), None, tuple(tables), tuple(shown))


def show_metrics(metrics: Mapping[str, Any] | None, prefix: str = "") -> list[Table]:
    """Totals, scores per class, and the confusion matrix or, where it would not fit, the commonest confusions."""
    if not metrics:
        return []
    names, matrix = metrics["class_names"], metrics["confusion_matrix"]
    totals = {key: metrics[key] for key in ("n", "correct", "accuracy", "macro_f1", "log_loss") if key in metrics}
    tables = tabulate(totals, f"{prefix}totals") + tabulate(metrics["per_class"], f"{prefix}per class")
    if len(names) <= MOST_MATRIX_CLASSES:
        rows = tuple((name, *map(str, row)) for name, row in zip(names, matrix, strict=True))
        return [*tables, Table(f"{prefix}confusion matrix (rows: true, columns: answered)", ("", *names), rows)]
    confused = [
        {"true": names[true], "answered": names[answer], "images": count}
        for true, row in enumerate(matrix) for answer, count in enumerate(row) if count and true != answer
    ]  # fmt: skip
    confused.sort(key=lambda row: -row["images"])
    return tables + tabulate(confused, f"{prefix}confusions")


def show_misjudged(found: Gathered) -> Section:
    """Every image that was ever called something else, with its picture."""
    title, cases = "Every misjudged image", []
    for case in dig(found.evaluation, "cross_validation", "misjudged") or []:
        times = case.get("times") or 1
        cases.append({**case, "where": "cross-validation" + (f", {times} times" if times > 1 else "")})
    for split in ("test", "valid"):
        rows = {row["source"]: row for row in _read_rows(found.tuning / f"predictions_{split}.csv")}
        for case in dig(found.tuned, split, "errors") or []:
            row = rows.get(case["source"], {})
            shares = {name: float(row[name]) for name in found.classes if name in row}
            cases.append({**case, "where": "validation" if split == "valid" else split, "probabilities": shares})
    if not cases:
        measured = found.tuned.get("test") or dig(found.evaluation, "cross_validation", "metrics")
        why = "None: no image was misjudged." if measured else "Nothing was measured."
        return Section("misjudged", title, absent=why)
    text = f"{len(cases):,} answers, with the highest probabilities and what else the image's boxes show."
    return Section("misjudged", title, (text,), cases=tuple(_show_case(found, case) for case in cases))


def _show_case(found: Gathered, case: Mapping[str, Any]) -> dict[str, Any]:
    path = case.get("picture") or found.pictures.get(case["source"])
    shown = found.album.embed(found.preprocessed / path, case["source"], SMALL, photo=True) if path else None
    shares = sorted((case.get("probabilities") or {}).items(), key=lambda item: -item[1])[:MOST_PROBABILITIES]
    others = case.get("other_boxes")
    others = found.other_boxes(case["source"]) if others is None else others
    return {**case, "shown": shown, "shares": shares, "others": others}


def show_making(found: Gathered, settings: Settings) -> Section:
    """The command, versions, hashes, and how long each part took."""
    stages = sorted(found.artifacts.glob("[0-9][0-9]_*/stage.json")) if found.artifacts.is_dir() else []
    times = [{"stage": path.parent.name, "seconds": _read(path).get("seconds")} for path in stages]
    data = dig(_read(found.ingested / "stage.json"), "inputs", "source", "content")
    files = (found.ingested / "manifest.csv", found.preprocessed / "images.csv", found.tuning / "tuned_model.h5")
    hashes = {"data": data} if isinstance(data, str) else {}
    hashes |= {path.name: sha256_file(path) for path in files if path.is_file()}
    tables = (
        *tabulate({"metal-defects": __version__, **library_versions()}, "Versions"),
        *tabulate(hashes, "SHA-256"),
        *tabulate(times, "Time of the stages"),
        *tabulate(found.evaluation.get("seconds"), "Time of the evaluation, seconds"),
    )
    text = f"The same data, command and versions give the same figures; the seed is {settings.params.seed}."
    return Section("making", "How it was made", (text,), None, tables, code=write_command(settings))


def write_command(settings: Settings) -> str:
    """The command line that repeats the run: what differs from the settings files, as options."""
    files = load_settings(settings.root, (), {})
    options = []
    for part in ("config", "params", "data_schema"):
        old, new = (getattr(one, part).model_dump(mode="json") for one in (files, settings))
        options += list(_differences(old, new, ""))
    words = ["python", "main.py", "run"]
    for name, value in options:
        if name == "data.path" and value is not None:
            absolute = str(settings.root / value)
            words += ["--data", min(os.path.relpath(absolute, settings.root), absolute, key=len)]
        elif not name.startswith(("paths.", "logging.", "serving.")):
            words += ["--set", f"{name}={json.dumps(value, ensure_ascii=False)}"]
    return shlex.join(words)


def _differences(old: Any, new: Any, path: str) -> Iterable[tuple[str, Any]]:
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in new:
            yield from _differences(old[key], new[key], f"{path}.{key}".removeprefix("."))
    elif old != new:
        yield path, new


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))

"""Settings: three YAML files, environment and command-line overrides, validated into frozen models.

Order of precedence, lowest first: the files, `METAL_DEFECTS__SECTION__KEY` environment variables,
`METAL_DEFECTS_DATA`, `--set section.key=value` and the other command-line options.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from box import ConfigBox
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from metal_defects.errors import ConfigError
from metal_defects.shipped import find_shipped

ENV_PREFIX = "METAL_DEFECTS__"
ENV_DATA = "METAL_DEFECTS_DATA"
FILES = {"config": "config/config.yaml", "params": "params.yaml", "schema": "schema.yaml"}

SplitName = Literal["train", "valid", "test"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
ImageSize = Annotated[int, Field(ge=64, le=1024, multiple_of=32)]
Range = Annotated[tuple[float, float], Field(description="low and high")]
# Shares that people write are rounded.
SUM_TOLERANCE = 0.01
Resize = Literal["nearest", "bilinear", "bicubic", "lanczos"]
FitMode = Literal["stretch", "letterbox"]
# Of networks that are trained step by step, where nothing else is asked for.
USUAL_L2 = 1e-4
Duplicates = Literal["overlap", "near", "exact", "off"]
Classes = Literal["auto"] | dict[str, tuple[str, ...]]
ViewKind = Literal["damage", "mild"]
Views = Literal["none", "mild", "damage", "all"]
Pooling = Literal["moments", "moments+extremes"]
Taps = Literal["default", "early", "deep", "all"]


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Frozen(BaseModel):
    # Deferred: a plan or an answer validates few of them.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, defer_build=True)


# --- config/config.yaml: where ---------------------------------------------------------------


class Paths(_Frozen):
    """Folders; relative ones start at the project root."""

    artifacts: Path
    logs: Path
    downloads: Path
    weights: Path


class DataSource(_Frozen):
    """Where images come from."""

    source: Literal["auto", "path", "url", "kaggle", "synthetic"]
    path: Path | None = None
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    kaggle: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    timeout_seconds: Positive

    @model_validator(mode="after")
    def _source_has_its_address(self) -> "DataSource":
        if self.source == "path" and self.path is None:
            raise ValueError("source 'path' needs data.path (or --data DIR)")
        if self.source == "url" and self.url is None:
            raise ValueError("source 'url' needs data.url")
        return self


class Logging(_Frozen):
    """The log file."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    max_bytes: Annotated[int, Field(ge=10_000)]
    backups: Annotated[int, Field(ge=0, le=100)]


class Serving(_Frozen):
    """Where the REST API listens, and the bounds that it keeps."""

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=0, le=65535, description="0 takes any free port")]
    max_files: Count
    max_file_bytes: Count
    max_request_bytes: Count
    max_pixels: Count
    max_waiting_images: Count
    max_waiting_bytes: Count
    timeout_seconds: Positive
    drain_seconds: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _one_full_call_fits(self) -> "Serving":
        if self.max_request_bytes > self.max_waiting_bytes:
            raise ValueError("max_waiting_bytes must hold one call of max_request_bytes")
        if self.max_files > self.max_waiting_images:
            raise ValueError("max_waiting_images must hold one call of max_files")
        return self


class Config(_Frozen):
    """config/config.yaml."""

    paths: Paths
    data: DataSource
    logging: Logging
    serving: Serving


# --- params.yaml: how ------------------------------------------------------------------------


class SplitSizes(_Frozen):
    """Images per class (whole numbers) or shares of each class (below 1), not mixed."""

    train: Positive
    valid: Annotated[float, Field(ge=0)] = 0
    test: Positive

    @model_validator(mode="after")
    def _one_unit(self) -> "SplitSizes":
        sizes = (self.train, self.valid, self.test)
        if all(size < 1 for size in sizes):
            if sum(sizes) > 1 + 1e-9:
                raise ValueError(f"shares must not add up to more than 1; got {sum(sizes):g}")
        elif any(size != int(size) for size in sizes):
            raise ValueError(f"use whole numbers per class or shares below 1, not both; got {sizes}")
        return self

    @property
    def are_shares(self) -> bool:
        """True for shares of each class, False for counts per class."""
        return self.train < 1


def _read_off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


def _check_pattern(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"must be a regular expression, such as _([0-9]+)_ ({error})") from error
    return pattern


class DataIngestionParams(_Frozen):
    split: Literal["auto"] | SplitSizes
    valid_share_of_train: Annotated[float, Field(gt=0, lt=1)]
    duplicates: Annotated[Duplicates, BeforeValidator(_read_off)]
    group_by: Annotated[str | None, AfterValidator(_check_pattern)] = None
    max_quarantined_share: Share
    synthetic_images_per_class: Annotated[int, Field(ge=4, le=10_000)]


class DataPreprocessingParams(_Frozen):
    fit: Literal["auto"] | FitMode
    image_size: Literal["auto"] | ImageSize
    resize: Resize


class ModelBuilderParams(_Frozen):
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    weights: Literal["imagenet"] | None
    on_missing_weights: Literal["random", "skip", "error"]
    hidden_units: Annotated[int, Field(ge=0, le=4096)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    l2: Literal["auto"] | Annotated[float, Field(gt=0, le=1)]

    @property
    def trained_l2(self) -> float:
        """Penalty on the kernels of a network or a hidden layer that is trained step by step."""
        return USUAL_L2 if self.l2 == "auto" else self.l2

    @model_validator(mode="after")
    def _no_model_twice(self) -> "ModelBuilderParams":
        if len(set(self.models)) != len(self.models):
            raise ValueError(f"each model may be named once; got {', '.join(self.models)}")
        return self


class EarlyStoppingParams(_Frozen):
    monitor: Literal["val_loss", "val_accuracy"]
    patience: Count
    min_delta: Annotated[float, Field(ge=0)]


class ModelCheckpointParams(_Frozen):
    monitor: Literal["val_loss", "val_accuracy"]


class LearningRateParams(_Frozen):
    policy: Literal["plateau", "cosine", "constant"]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Count = 3
    min_rate: Annotated[float, Field(ge=0)] = 1e-6


class CallbacksParams(_Frozen):
    early_stopping: EarlyStoppingParams
    model_checkpoint: ModelCheckpointParams
    learning_rate: LearningRateParams
    tensorboard: bool
    csv_logger: bool


class AugmentationParams(_Frozen):
    flip: bool
    quarter_turns: bool
    rotation_degrees: Annotated[float, Field(ge=0, le=45)]
    shift: Annotated[float, Field(ge=0, le=0.5)]
    zoom: Annotated[float, Field(ge=0, le=0.5)]
    brightness: Share
    contrast: Annotated[float, Field(ge=0, lt=1)]
    blur_sigma: Annotated[float, Field(ge=0, le=10)]
    noise_sigma: Annotated[float, Field(ge=0, le=100)]
    motion_blur: Annotated[float, Field(ge=0, le=30)] = 0
    occlusion: Annotated[float, Field(ge=0, le=0.5)] = 0
    specks: Annotated[int, Field(ge=0, le=200)] = 0


class FromScratchParams(_Frozen):
    epochs: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class TrainingParams(_Frozen):
    epochs: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    class_weights: Literal["balanced", "none"]
    views: Annotated[tuple[ViewKind, ...], Field(max_length=20)]
    views_max_gmacs: Positive
    augmentation: AugmentationParams
    from_scratch: FromScratchParams
    fine_tune: Literal["auto"] | bool
    fine_tune_below: Share
    fine_tune_minutes: Positive
    fine_tune_epochs: Count
    fine_tune_learning_rate: Annotated[float, Field(gt=0, le=1)]


class HyperparameterTuningParams(_Frozen):
    max_trials: Annotated[int, Field(ge=1, le=1000)]
    budget_seconds: Positive
    algorithm: Literal["bayesian", "hyperband"]
    from_scratch_max_trials: Annotated[int, Field(ge=1, le=1000)]
    from_scratch_epochs: Count
    taps: Annotated[tuple[Taps, ...], Field(min_length=1)]
    pooling: Annotated[tuple[Pooling, ...], Field(min_length=1)]
    views: Annotated[tuple[Views, ...], Field(min_length=1)]
    hidden_units: Annotated[tuple[Annotated[int, Field(ge=0, le=4096)], ...], Field(min_length=1)]
    dropout: Range
    l2: Range
    label_smoothing: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1)]
    learning_rate: Range
    batch_size: Annotated[tuple[Count, ...], Field(min_length=1)]
    filters: Annotated[tuple[Count, ...], Field(min_length=1)]
    depth: Annotated[tuple[Annotated[int, Field(ge=2, le=6)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ranges_rise(self) -> "HyperparameterTuningParams":
        for name in ("dropout", "l2", "learning_rate"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1 or (name != "dropout" and low == 0):
                allowed = f"{name} must be [low, high] within 0 and 1, low not above high"
                raise ValueError(f"{allowed}; got [{low:g}, {high:g}]")
        return self


class ModelEvaluationParams(_Frozen):
    folds: Annotated[int, Field(ge=2, le=20)]
    repeats: Annotated[int, Field(ge=1, le=20)]
    coverage: Annotated[float, Field(gt=0, lt=1)]
    guard_acceptance: Annotated[float, Field(gt=0, le=1)]
    review_acceptance: Annotated[float, Field(gt=0, le=1)]
    max_risk: Annotated[float, Field(gt=0, lt=1)]
    min_confidence: Share
    priors: Literal["training", "uniform"] | dict[str, Positive]
    robustness_images: Count

    @field_validator("priors")
    @classmethod
    def _shares_add_up(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(value, dict) and abs(sum(value.values()) - 1) > SUM_TOLERANCE:
            raise ValueError(f"the shares must add up to 1; got {sum(value.values()):g}")
        return value

    @model_validator(mode="after")
    def _review_comes_before_unknown(self) -> "ModelEvaluationParams":
        if self.review_acceptance > self.guard_acceptance:
            raise ValueError(
                f"review_acceptance must not be above guard_acceptance, {self.guard_acceptance:g}; "
                f"got {self.review_acceptance:g}"
            )
        return self


class ModelExportParams(_Frozen):
    int8: bool
    calibration_images: Annotated[int, Field(ge=8, le=10_000)]


class Params(_Frozen):
    """params.yaml."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    data_ingestion: DataIngestionParams
    data_preprocessing: DataPreprocessingParams
    model_builder: ModelBuilderParams
    callbacks: CallbacksParams
    training: TrainingParams
    hyperparameter_tuning: HyperparameterTuningParams
    model_evaluation: ModelEvaluationParams
    model_export: ModelExportParams


# --- schema.yaml: what -----------------------------------------------------------------------


class ImageSchema(_Frozen):
    formats: Annotated[tuple[str, ...], Field(min_length=1)]
    min_side: Count
    max_side: Count
    max_bytes: Count


class SplitSchema(_Frozen):
    names: dict[SplitName, tuple[str, ...]]
    min_images_per_class: dict[SplitName, Annotated[int, Field(ge=0)]]


class DataSchema(_Frozen):
    """schema.yaml."""

    classes: Classes
    image: ImageSchema
    split: SplitSchema

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> "DataSchema":
        if self.classes == "auto":
            return self
        if len(self.classes) < 2:
            raise ValueError(f"classes needs at least 2 names; got {len(self.classes)}")
        owner: dict[str, str] = {}
        for name, aliases in self.classes.items():
            for spelling in (name, *aliases):
                other = owner.setdefault(normalise_name(spelling), name)
                if other != name:
                    raise ValueError(f"'{spelling}' stands for both '{other}' and '{name}'")
        return self


class Settings(_Frozen):
    """Everything that a run needs to know."""

    root: Path
    config: Config
    params: Params
    data_schema: DataSchema


def normalise_name(name: str) -> str:
    """A class name without case, spaces, hyphens and underscores: how spellings are compared."""
    return "".join(character for character in name.casefold() if character not in " -_")


def find_root() -> Path:
    """Where relative paths start and settings files are looked for: METAL_DEFECTS_ROOT, else the current folder."""
    return Path(os.environ.get("METAL_DEFECTS_ROOT", Path.cwd()))


def is_project(root: Path) -> bool:
    """Whether the folder has settings of its own; any other belongs to somebody who only wants answers."""
    return any((root / file).exists() for file in FILES.values())


def load_settings(root: Path, overrides: Iterable[str] = (), environment: Mapping[str, str] = os.environ) -> Settings:
    """Read, override and validate the three files; those that `root` does not hold are the shipped ones.

    Args:
        root: folder that may hold config/config.yaml, params.yaml and schema.yaml; relative paths start there.
        overrides: `section.key=value` texts; the value is read as YAML.
        environment: variables; those that start with `METAL_DEFECTS__` override keys.

    Raises:
        ConfigError: naming the file, the key, what is allowed and the value received.
    """
    found = {name: root / file if (root / file).exists() else find_shipped(file) for name, file in FILES.items()}
    boxes = {name: _read_yaml(path) for name, path in found.items()}
    for variable, value in sorted(environment.items()):
        if variable.startswith(ENV_PREFIX):
            key = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            _override(boxes, key, value, origin=f"environment variable {variable}")
    if environment.get(ENV_DATA):
        _override(boxes, "data.path", environment[ENV_DATA], origin=f"environment variable {ENV_DATA}")
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set needs KEY=VALUE, for example training.epochs=5. Got '{text}' instead.")
        _override(boxes, key.strip(), value, origin="--set")
    models: dict[str, type[_Frozen]] = {"config": Config, "params": Params, "schema": DataSchema}
    parts = {name: _validate(model, boxes[name], FILES[name]) for name, model in models.items()}
    config = parts["config"]
    absolute = {name: root / path for name, path in config.paths}
    config = config.model_copy(update={"paths": Paths(**absolute)})
    return Settings(root=root, config=config, params=parts["params"], data_schema=parts["schema"])


def _read_yaml(path: Path) -> ConfigBox:
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # the safe one, in C where there is one
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"{path.name}{line}: not valid YAML ({getattr(error, 'problem', error)}).") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path.name} must hold keys and values. Got {type(value).__name__} instead.")
    return ConfigBox(value)


def _override(boxes: dict[str, ConfigBox], key: str, text: str, origin: str) -> None:
    """Set the dotted `key` in the one file that has its first part."""
    *parents, last = key.split(".")
    first = parents[0] if parents else last
    for box in boxes.values():
        if first not in box:
            continue
        node: Any = box
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            break
        try:
            node[last] = text if key == "data.path" else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{origin}: the value of {key} is not valid YAML. Got '{text}' instead.") from error
        return
    known = ", ".join(sorted(name for box in boxes.values() for name in box))
    raise ConfigError(f"{origin}: there is no setting '{key}'. Its first part must be one of {known}.")


def _validate(model: type[_Frozen], box: ConfigBox, file: str) -> Any:
    try:
        return model.model_validate(box.to_dict())
    except ValidationError as error:
        raise ConfigError(" ".join(_sentence(item, file) for item in error.errors()[:3])) from error


def _sentence(item: Mapping[str, Any], file: str) -> str:
    """One readable sentence for one pydantic error."""
    # pydantic puts the names of its own types among the keys of a union.
    names = [str(part) for part in item["loc"] if not str(part)[:1].isupper() and "[" not in str(part)]
    key = ".".join(names) or "the file"
    if item["type"] == "extra_forbidden":
        return f"{file}: unknown key '{key}'. Remove it or check its spelling."
    if item["type"] == "missing":
        return f"{file}: '{key}' is missing."
    message = item["msg"].removeprefix("Value error, ")
    received = item["input"]
    shown = "" if isinstance(received, dict) or len(repr(received)) > 80 else f" Got {received!r} instead."
    return f"{file}: '{key}': {message[0].lower() + message[1:]}.{shown}"

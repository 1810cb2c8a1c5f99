"""The shapes of the API's answers, for its OpenAPI description; `Prediction.to_dict` and its like fill them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from metal_defects.api.uploads import FIELD

_SHARES = {
    "Crazing": 0.0, "Inclusion": 0.001, "Patches": 0.0, "Pitted": 0.0, "Rolled": 0.0, "Scratches": 0.999,
}  # fmt: skip
_GOOD = {
    "name": "scratches_1.png",
    "label": "Scratches",
    "confidence": 0.999,
    "probabilities": _SHARES,
    "milliseconds": 7.1,
    "verdict": "accept",
    "reason": "the model knows such surfaces, and one class alone is possible",
    "distance": 0.41,
    "prediction_set": ["Scratches"],
    "boxes": [{"box": [0.21, 0.03, 0.34, 0.97], "score": 0.93}],
}
_BAD = {
    "name": "notes.png",
    "error": {
        "code": "not_an_image",
        "message": "The image: no known image format, whatever its suffix. Got a file that starts with 6e 6f 74 65.",
    },
}
_MODEL = {"name": "EfficientNet-Lite0", "hash": "0123456789ab"}
_REQUEST_ID = "5f0c1e9a7d5b4c0f8a51c0d2a7b9e3f4"

Share = Annotated[float, Field(ge=0, le=1)]
RequestId = Annotated[str, Field(description="Also in the header X-Request-ID, which the client may choose.")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Fault(_Model):
    code: str = Field(description="Short and stable, for programs.")
    message: str = Field(description="One sentence, for people.")


class FoundBox(_Model):
    """Where a defect is."""

    box: list[Share] = Field(
        min_length=4, max_length=4, description="Left, top, right, bottom as shares of the image's width and height."
    )
    score: Share = Field(description="How sure the model is that a defect is there.")


class FileAnswer(_Model):
    """One classified file; the fields below `milliseconds` are null where the model was not evaluated for them."""

    model_config = ConfigDict(json_schema_extra={"examples": [_GOOD]})
    name: str | None = Field(description="The file's name without folders; null where none was sent.")
    label: str = Field(description="The most probable class.")
    confidence: Share
    probabilities: dict[str, Share] = Field(description="Of every class.")
    milliseconds: float = Field(ge=0, description="Decoding and inference of this file.")
    verdict: Literal["accept", "review", "unknown"] | None = Field(
        None, description="Take the label as it is, have a person look, or the surface is none that the model knows."
    )
    reason: str | None = Field(None, description="Of the verdict, for people.")
    distance: float | None = Field(
        None, ge=0, description="From the training images; above 1 the surface is none that the model knows."
    )
    prediction_set: list[str] | None = Field(
        None, description="The classes that are possible at the model's promised coverage, the most probable first."
    )
    boxes: list[FoundBox] | None = Field(None, description="Where the defects are; empty where none was found.")


class FileFault(_Model):
    """One file that could not be classified."""

    model_config = ConfigDict(json_schema_extra={"examples": [_BAD]})
    name: str | None
    error: Fault


class ModelName(_Model):
    name: str
    hash: str = Field(description="Of the bundle: names this very model.")


class Answer(_Model):
    """Answers in the order of the files."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"request_id": _REQUEST_ID, "model": _MODEL, "notice": None, "results": [_GOOD, _BAD]}]
        }
    )
    request_id: RequestId
    model: ModelName
    notice: str | None = Field(description="What every user of the model must know.")
    results: list[FileAnswer | FileFault] = Field(min_length=1)


class Refused(_Model):
    """The call got no prediction."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"request_id": _REQUEST_ID, "error": _BAD["error"], "results": [_BAD]}]}
    )
    request_id: RequestId
    error: Fault
    results: list[FileFault] | None = Field(None, description="Per file, where the files were looked at.")


class Health(_Model):
    status: str


class Limits(_Model):
    """Bounds on a call."""

    max_files: int
    max_file_bytes: int
    max_request_bytes: int
    max_pixels: int
    timeout_seconds: float


class ModelCard(_Model):
    """What is being served."""

    name: str
    hash: str
    created: str | None
    code_version: str | None
    classes: list[str]
    notice: str | None
    input: dict[str, Any] = Field(description="Accepted formats and sides.")
    limits: Limits
    variants: dict[str, Any] = Field(description="Files, their parity with the trained model, accuracy and speed.")
    default: str
    data: dict[str, Any]
    metrics: dict[str, Any]
    provenance: dict[str, Any]


_IMAGE = {"type": "string", "format": "binary"}


def _describe_body(files: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "object", "required": [FIELD], "additionalProperties": False, "properties": {FIELD: files}}
    raw = {kind: {"schema": _IMAGE} for kind in ("image/*", "application/octet-stream")}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}, **raw}}


PREDICT_BODY = _describe_body({"type": "array", "minItems": 1, "items": _IMAGE})
HEATMAP_BODY = _describe_body(_IMAGE)
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refused, "description": text}
    for status, text in {
        400: "The body is not understood: bad_multipart, no_files, unknown_field.",
        401: "unauthorized: the API key is missing or wrong.",
        408: "too_slow: the body did not arrive in time.",
        413: "Too large: request_too_large, too_many_files, or every file too_large or too_many_pixels.",
        415: "unsupported_media_type, content_encoding, or every file not_an_image, of another format or mode.",
        422: "No file could be classified: empty, truncated, too_small, values, or several of these; see results.",
        503: "overloaded or deadline: try again after the seconds in Retry-After.",
    }.items()
}
HEATMAP_ANSWERS = REFUSALS | {
    200: {"description": "The picture.", "content": {"image/png": {"schema": _IMAGE}}},
    409: {"model": Refused, "description": "no_heat_map: the model that is being served cannot say where it looked."},
}

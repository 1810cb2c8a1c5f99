"""The API's answers: what frames the answers for the images, and what the description says of bodies and refusals."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from metal_defects.api.uploads import FIELD
from metal_defects.data.manifest import DataCard
from metal_defects.inference.answer import BAD, GOOD, Failure, Fault, Outcome
from metal_defects.inference.card import InputCard, Provenance, Variant
from metal_defects.metrics import SplitMetrics
from metal_defects.records import Record

_MODEL: JsonDict = {"name": "EfficientNet-Lite0", "hash": "0123456789ab"}
_REQUEST_ID = "5f0c1e9a7d5b4c0f8a51c0d2a7b9e3f4"

RequestId = Annotated[str, Field(description="Also in the header X-Request-ID, which the client may choose.")]


class ModelName(Record):
    name: str
    hash: str = Field(description="Of the bundle: names this very model.")


class Answer(Record):
    """Answers in the order of the files."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"request_id": _REQUEST_ID, "model": _MODEL, "notice": None, "results": [GOOD, BAD]}]
        }
    )
    request_id: RequestId
    model: ModelName
    notice: str | None = Field(description="What every user of the model must know.")
    results: list[Outcome] = Field(min_length=1)


class Refused(Record):
    """The call got no prediction."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"request_id": _REQUEST_ID, "error": BAD["error"], "results": [BAD]}]}
    )
    request_id: RequestId
    error: Fault
    results: list[Failure] | None = Field(None, description="Per file, where the files were looked at.")


class Health(Record):
    status: str


class Limits(Record):
    """Bounds on a call."""

    max_files: int
    max_file_bytes: int
    max_request_bytes: int
    max_pixels: int
    timeout_seconds: float


class ModelCard(Record):
    """What is being served."""

    name: str
    hash: str
    created: str
    code_version: str
    classes: tuple[str, ...]
    notice: str | None
    input: InputCard = Field(description="Accepted formats and sides.")
    limits: Limits
    variants: dict[str, Variant] = Field(description="Files, their parity with the trained model, accuracy and speed.")
    default: str
    data: DataCard
    metrics: dict[str, SplitMetrics]
    provenance: Provenance


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

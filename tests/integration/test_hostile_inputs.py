"""Hostile files, mutated files and calls made up from the OpenAPI description, against the real server."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from support.api_server import ApiServer, run_api
from support.hostile import CODES, Hostile, corpus, encode, mutants, picture
from support.toy_bundles import LIMITS, SIDE, write_bundle

from metal_defects.api.schemas import Answer, Refused

FORMATS = ["BMP", "JPEG", "PNG", "TIFF", "GIF", "WEBP"]
INPUT = {
    "image_size": SIDE,
    "resize": "bilinear",
    "limits": LIMITS | {"formats": FORMATS, "max_side": 8192, "max_bytes": 50_000_000},
}
KEY = {"X-API-Key": "key"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    bundle = write_bundle(tmp_path_factory.mktemp("bundle"), input=INPUT)
    with run_api(bundle, METAL_DEFECTS_API_KEY=KEY["X-API-Key"]) as server:
        yield server
        assert server.process.poll() is None, "the server died"
        assert not [record for record in server.records() if record["level"] in ("ERROR", "CRITICAL")]


@pytest.fixture
def client(server: ApiServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, headers=KEY, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def files() -> list[Hostile]:
    return corpus()


def judge(file: Hostile, result: dict[str, Any], label: str) -> str | None:
    """What is wrong with the result; None where nothing is."""
    if "error" in result:
        code = result["error"]["code"]
        return None if code in file.codes else f"{file.name}: {result['error']}, expected {file.codes or label}"
    if file.codes:
        return f"{file.name}: {result['label']}, expected {file.codes}"
    return f"{file.name}: {result['label']}, not {label}" if file.is_same and result["label"] != label else None


def test_each_alone_gets_the_right_answer_or_a_clear_4xx(client: httpx.Client, files: list[Hostile]) -> None:
    plain = client.post("/v1/predict", files=[("files", ("plain", files[0].data))])
    label = plain.json()["results"][0]["label"]
    faults = []
    for file in files:
        for options in (
            {"files": [("files", (file.name, file.data))]},
            {"content": file.data, "headers": {"Content-Type": "application/octet-stream"}},
        ):
            response = client.post("/v1/predict", **options)
            if response.status_code == 200:
                Answer.model_validate(response.json())
            else:
                assert response.status_code in (413, 415, 422), f"{file.name}: {response.status_code}"
                Refused.model_validate(response.json())
            faults.append(judge(file, response.json()["results"][0], label))
    assert not list(filter(None, faults))


def test_all_together_cost_each_other_nothing(client: httpx.Client, files: list[Hostile]) -> None:
    label, faults = None, []
    for start in range(0, len(files), 20):
        part = files[start : start + 20]
        response = client.post("/v1/predict", files=[("files", (file.name, file.data)) for file in part])
        assert response.status_code in (200, 415, 422)
        results = response.json()["results"]
        assert [result["name"] for result in results] == [file.name for file in part]
        label = label or results[0]["label"]
        faults += [judge(file, result, label) for file, result in zip(part, results, strict=True)]
    assert not list(filter(None, faults))


def test_mutated_files_are_answered_or_explained(client: httpx.Client) -> None:
    children = list(mutants(600))
    outcomes: Counter[str] = Counter()
    for start in range(0, len(children), 60):
        response = client.post("/v1/predict", files=[("files", child) for child in children[start : start + 60]])
        assert response.status_code in (200, 422)
        outcomes.update(result.get("error", {}).get("code", "answered") for result in response.json()["results"])
    assert set(outcomes) <= CODES | {"answered"}
    assert outcomes["answered"] > 50 and outcomes["truncated"] > 50, "the mutations are too mild or too wild"


def test_mutated_bodies_are_answered_or_explained(client: httpx.Client) -> None:
    request = client.build_request("POST", "/v1/predict", files=[("files", ("a.png", encode(picture(48), "PNG")))])
    headers = {"Content-Type": request.headers["content-type"]}
    codes = set()
    for body in mutants(300, parents=[request.read()]):
        response = client.post("/v1/predict", content=body, headers=headers)
        assert response.status_code in (200, 400, 415, 422), response.text
        codes.add(response.json().get("error", {}).get("code", "answered"))
    assert {"answered", "bad_multipart"} <= codes <= CODES | {"answered", "bad_multipart", "unknown_field", "no_files"}


GOOD = [encode(picture(48), kind) for kind in ("PNG", "JPEG")]
schemathesis.openapi.media_type("image/*", st.sampled_from(GOOD) | st.binary(max_size=300))
schemathesis.openapi.media_type("application/octet-stream", st.sampled_from(GOOD) | st.binary(max_size=300))


OPERATIONS = [
    ("POST", "/v1/predict", 60), ("POST", "/v1/heatmap", 40), ("GET", "/v1/model", 8), ("GET", "/healthz", 8),
    ("GET", "/readyz", 8), ("GET", "/metrics", 8),
]  # fmt: skip


@pytest.fixture(scope="module")
def description(server: ApiServer) -> Any:
    return schemathesis.openapi.from_url(f"{server.address}/openapi.json", headers=KEY)


def test_every_operation_of_the_description_is_tried(description: Any) -> None:
    described = {(result.ok().method.upper(), result.ok().path) for result in description.get_all_operations()}
    assert described == {(method, path) for method, path, _ in OPERATIONS}


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("method", "path", "examples"), OPERATIONS)
def test_what_the_description_allows_and_forbids(
    description: Any, method: str, path: str, examples: int, mode: GenerationMode
) -> None:
    checks = [
        not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
        unsupported_method,
    ]  # fmt: skip
    tried: Counter[int] = Counter()

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=description[path][method].as_strategy(mode))
    def call(case: schemathesis.Case) -> None:
        response = case.call(headers=KEY)
        tried[response.status_code] += 1
        case.validate_response(response, checks=checks, headers=KEY)

    try:
        call()
    except Unsatisfiable:
        assert (method, mode) == ("GET", GenerationMode.NEGATIVE), "only what takes nothing cannot be called wrongly"
        return
    if (path, mode) == ("/v1/predict", GenerationMode.POSITIVE):
        assert tried[200] > 5, tried

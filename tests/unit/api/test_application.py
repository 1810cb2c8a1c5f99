"""The API in one process: routes, bounds, errors, key, overload, deadline."""

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import PROJECT
from support.hostile import NAMES, encode
from support.toy_bundles import COLOURS, paint, paint_spot, write_bundle, write_locating_bundle

from metal_defects.api.application import create_app
from metal_defects.api.routes import ROUTERS
from metal_defects.api.schemas import Answer, ModelCard, Refused
from metal_defects.api.server import open_listener, require_safe_address
from metal_defects.api.telemetry import JsonFormatter
from metal_defects.api.uploads import LONGEST_NAME, strip_folders
from metal_defects.config import Serving, load_settings
from metal_defects.errors import ConfigError
from metal_defects.inference.answer import Prediction
from metal_defects.inference.boxes import Box
from metal_defects.inference.bundle import Bundle
from metal_defects.inference.predictor import Input, Predictor
from metal_defects.system import count_cores

RED, BLUE = (encode(Image.fromarray(paint(colour)), "PNG") for colour in ("Red", "Blue"))
PNG = {"Content-Type": "image/png"}
SMALL = {"max_files": 3, "max_file_bytes": 60_000, "max_request_bytes": 100_000, "max_pixels": 40_000}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle")), threads=1)


@pytest.fixture
def app(predictor: Predictor) -> Iterator[FastAPI]:
    yield from open_app(predictor)


def open_app(classifier: Any, key: str | None = None, threads: int = 2, **limits: Any) -> Iterator[FastAPI]:
    shipped = load_settings(PROJECT, environment={}).config.serving.model_dump()
    app = create_app(classifier, Serving(**shipped | SMALL | limits), threads, key)
    yield app
    app.state.service.workers.close()


async def send(app: FastAPI, method: str = "POST", path: str = "/v1/predict", **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **options)


def call(app: FastAPI, method: str = "POST", path: str = "/v1/predict", **options: Any) -> httpx.Response:
    return asyncio.run(send(app, method, path, **options))


def files(*items: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", item) for item in items]


def red(name: str | None) -> Prediction:
    return Prediction(name=name, label="Red", confidence=1.0, probabilities={"Red": 1.0}, milliseconds=1.0)


def refused(response: httpx.Response, status: int, code: str) -> Refused:
    body = Refused.model_validate(response.json())
    assert (response.status_code, body.error.code) == (status, code)
    assert response.headers["x-request-id"] == body.request_id
    assert body.error.message.endswith((".", "'"))
    return body


@pytest.mark.parametrize("kind", ["image/png", "image/anything", "application/octet-stream"])
def test_one_raw_image(app: FastAPI, predictor: Predictor, kind: str) -> None:
    response = call(app, content=BLUE, headers={"Content-Type": kind})
    answer = Answer.model_validate(response.json())
    expected = predictor.predict(BLUE)
    assert response.status_code == 200
    assert answer.model.hash == predictor.bundle.hash
    assert [answer.results[0].name, answer.results[0].label] == [None, "Blue"]
    assert answer.results[0].probabilities == expected.probabilities


def test_good_files_beside_bad_ones_in_their_order(app: FastAPI) -> None:
    response = call(app, files=files(("a.png", RED), ("dir/b.txt", b"no image"), ("c.png", BLUE)))
    first, bad, last = response.json()["results"]
    assert response.status_code == 200
    assert (first["name"], first["label"], last["name"], last["label"]) == ("a.png", "Red", "c.png", "Blue")
    assert bad == {"name": "b.txt", "error": bad["error"]} and bad["error"]["code"] == "not_an_image"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "empty"),
        (b"no image", 415, "not_an_image"),
        (RED[:900], 422, "truncated"),
        (encode(Image.new("RGB", (4, 4)), "PNG"), 422, "too_small"),
        (encode(Image.new("RGB", (300, 300)), "PNG"), 413, "too_many_pixels"),
        (encode(Image.new("RGB", (600, 20)), "PNG"), 413, "too_many_pixels"),
        (bytes(60_001), 413, "too_large"),
        (encode(Image.new("RGB", (40, 40)), "GIF"), 415, "format"),
        (encode(Image.fromarray(np.full((40, 40), np.nan, np.float32)), "TIFF"), 422, "values"),
    ],
)
def test_a_bad_image_alone(app: FastAPI, data: bytes, status: int, code: str) -> None:
    for options in ({"content": data, "headers": PNG}, {"files": files(("a.png", data))}):
        body = refused(call(app, **options), status, code)
        assert [result.error.code for result in body.results] == [code]


def test_many_bad_images_share_a_status_or_get_422(app: FastAPI) -> None:
    body = refused(call(app, files=files(("a", b"text"), ("b", b"more text"))), 415, "no_usable_file")
    assert [result.name for result in body.results] == ["a", "b"]
    refused(call(app, files=files(("a", b"text"), ("b", b""))), 422, "no_usable_file")


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"content": RED}, 415, "unsupported_media_type"),
        ({"json": {"files": 1}}, 415, "unsupported_media_type"),
        ({"data": {"files": "1"}}, 415, "unsupported_media_type"),
        ({"content": RED, "headers": PNG | {"Content-Encoding": "gzip"}}, 415, "content_encoding"),
        ({"files": [("image", ("a.png", RED))]}, 400, "unknown_field"),
        ({"files": files(("a.png", RED)), "data": {"note": "x"}}, 400, "unknown_field"),
        ({"files": files(*[(f"{index}", RED) for index in range(4)])}, 413, "too_many_files"),
        ({"files": files(("a.png", bytes(100_000)))}, 413, "request_too_large"),
        ({"content": b"", "headers": {"Content-Type": "multipart/form-data"}}, 400, "bad_multipart"),
        ({"content": b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "no_files"),
        ({"content": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "bad_multipart"),
        ({"content": RED, "headers": {"Content-Type": "a" * 9000}}, 415, "unsupported_media_type"),
    ],
)
def test_a_bad_call(app: FastAPI, options: dict[str, Any], status: int, code: str) -> None:
    assert refused(call(app, **options), status, code).results is None


def test_a_multipart_body_that_ends_early_is_not_half_answered(app: FastAPI) -> None:
    request = httpx.Request("POST", "http://test", files=files(("a.png", RED), ("b.png", BLUE)))
    body = request.read()
    for share in (0.3, 0.6, 0.99):
        cut = body[: int(share * len(body))]
        refused(call(app, content=cut, headers={"Content-Type": request.headers["content-type"]}), 400, "bad_multipart")


def test_a_file_over_its_bound_costs_only_itself(app: FastAPI) -> None:
    response = call(app, files=files(("big.png", bytes(60_001)), ("good.png", RED)))
    big, good = response.json()["results"]
    assert response.status_code == 200
    assert (big["name"], big["error"]["code"], good["label"]) == ("big.png", "too_large", "Red")


@pytest.mark.parametrize(
    ("kind", "start", "code", "most"),
    [
        ("image/png", b"", "too_large", 80_000),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=files\r\n\r\n",
         "request_too_large", 120_000),
    ],
)  # fmt: skip
def test_an_endless_body_is_refused_while_it_is_read(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, kind: str, start: bytes, code: str, most: int
) -> None:
    monkeypatch.setattr("metal_defects.api.middleware.LINGER_SECONDS", 0)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield start
        while sent < 50_000_000:
            sent += 10_000
            yield bytes(10_000)

    refused(call(app, content=endless(), headers={"Content-Type": kind}), 413, code)
    assert sent <= most
    assert app.state.service.memory.used == 0


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back_harmless(app: FastAPI, name: str) -> None:
    boundary = b'--x\r\nContent-Disposition: form-data; name="files"; filename="'
    escaped = name.replace("\n", "").replace('"', "%22").encode()
    body = boundary + escaped + b'"\r\n\r\n' + RED + b"\r\n--x--\r\n"
    response = call(app, content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert response.status_code in (200, 400), response.text
    if response.status_code == 200:
        assert_harmless(response.json()["results"][0]["name"])


@given(st.text(max_size=300))
def test_any_name_is_made_harmless(name: str) -> None:
    assert_harmless(strip_folders(name))


def assert_harmless(name: str | None) -> None:
    if name is not None:
        assert name and name.isprintable() and name not in (".", "..")
        assert not set(name) & set("/\\\0\n\r\x1b\u202e") and len(name) <= LONGEST_NAME


def test_plain_names_stay() -> None:
    assert strip_folders("Ø part 17 (left).png") == "Ø part 17 (left).png"
    assert strip_folders("../../etc/passwd") == strip_folders("C:\\etc\\passwd") == "passwd"
    assert strip_folders(None) is strip_folders("a/..") is strip_folders("\n") is None


def test_model_card(app: FastAPI, predictor: Predictor) -> None:
    card = ModelCard.model_validate(call(app, "GET", "/v1/model").json())
    assert tuple(card.classes) == COLOURS and card.hash == predictor.bundle.hash
    assert card.limits.max_files == 3


def test_health_and_description_need_no_key_and_everything_else_does(predictor: Predictor) -> None:
    app = next(open_app(predictor, key="pass-wörd"))
    guarded = [("POST", "/v1/predict"), ("POST", "/v1/heatmap"), ("GET", "/v1/model"), ("GET", "/metrics")]
    paths = ("/no/such/path", "/healthz/", "//healthz", "/docs/", "/docs/oauth2-redirect", "/static-offline-docs")
    guarded += [("GET", path) for path in (*paths, "/openapi.json/v1/model")]
    assert_every_other_route_is_guarded(app, {path for _, path in guarded})
    basic = {"Authorization": "Basic pass-wörd".encode()}
    for wrong in ({}, {"X-API-Key": "pass"}, {"Authorization": "Bearer"}, basic):
        for method, path in guarded:
            response = call(app, method, path, headers=wrong)
            refused(response, 401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"
    for right in ({"X-API-Key": "pass-wörd".encode()}, {"Authorization": "bearer pass-wörd".encode()}):
        assert call(app, "GET", "/v1/model", headers=right).status_code == 200
    assert call(app, "GET", "/healthz").json() == {"status": "ok"}
    assert call(app, "GET", "/readyz").json() == {"status": "ready"}


def assert_every_other_route_is_guarded(app: FastAPI, guarded: set[str]) -> None:
    described = set(call(app, "GET", "/openapi.json").json()["paths"])
    assert described - guarded == {"/healthz", "/readyz"}


def test_a_host_header_opens_nothing(predictor: Predictor) -> None:
    app = next(open_app(predictor, key="key"))
    for host in ("test/healthz?", "test/healthz#", "test/static-offline-docs/x?"):
        refused(call(app, "GET", "/v1/model", headers={"Host": host}), 401, "unauthorized")


def test_a_browser_reads_the_description_and_can_show_the_key_there(predictor: Predictor) -> None:
    app = next(open_app(predictor, key="key"))
    page = call(app, "GET", "/docs")
    links = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    assert page.status_code == 200 and links
    assert {call(app, "GET", link).status_code for link in links} == {200}
    described = call(app, "GET", "/openapi.json").json()
    schemes = described["components"]["securitySchemes"]
    assert schemes["APIKeyHeader"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    assert schemes["HTTPBearer"] == {"type": "http", "scheme": "bearer"}
    either = [{"APIKeyHeader": []}, {"HTTPBearer": []}]
    for path, calls in described["paths"].items():
        expected = None if path in ("/healthz", "/readyz") else either
        assert [one.get("security") for one in calls.values()] == [expected], path


def test_without_a_key_the_description_asks_for_none(app: FastAPI) -> None:
    assert "securitySchemes" not in call(app, "GET", "/openapi.json").json()["components"]


def test_ready_says_no_before_the_server_stops(app: FastAPI) -> None:
    app.state.service.is_draining = True
    assert call(app, "GET", "/readyz").status_code == 503
    assert call(app, "GET", "/healthz").status_code == call(app, content=RED, headers=PNG).status_code == 200


def test_unknown_paths_and_methods(app: FastAPI) -> None:
    refused(call(app, "GET", "/nothing"), 404, "not_found")
    response = call(app, "GET", "/v1/predict")
    refused(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_request_ids(app: FastAPI) -> None:
    assert call(app, "GET", "/healthz", headers={"X-Request-ID": "line-3:42"}).headers["x-request-id"] == "line-3:42"
    for bad in ("a b", "x" * 65, "", '"}'):
        assert len(call(app, "GET", "/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]) == 32


def test_one_json_line_per_call(
    app: FastAPI, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("metal_defects")
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="metal_defects")
    call(app, path="/a%0A%22b", content=b"x")
    call(app, files=files(("a", RED), ("b", b"?")))
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records if record.message == "request"]
    assert [line["status"] for line in lines] == [404, 200]
    assert [line["path"] for line in lines] == ['/a\n"b', "/v1/predict"]
    assert (lines[1]["files"], lines[1]["failed"], lines[1]["method"]) == (2, 1, "POST")
    assert lines[1]["bytes"] > len(RED) and lines[1]["milliseconds"] > 0


def test_metrics(app: FastAPI) -> None:
    call(app, files=files(("a", RED), ("b", b"?")))
    call(app, "GET", "/random/1")
    call(app, "GET", "/random/2")
    text = call(app, "GET", "/metrics").text
    assert 'metal_defects_requests_total{method="POST",path="/v1/predict",status="200"} 1.0' in text
    assert 'metal_defects_requests_total{method="GET",path="other",status="404"} 2.0' in text
    assert 'metal_defects_images_total{outcome="label",value="Red"} 1.0' in text
    assert 'metal_defects_images_total{outcome="error",value="not_an_image"} 1.0' in text
    assert "metal_defects_waiting_images 0.0" in text and "/random" not in text


def test_a_new_endpoint_is_guarded_described_and_counted(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    router = APIRouter()

    @router.get("/v1/new")
    async def new() -> dict[str, str]:
        return {}

    monkeypatch.setattr("metal_defects.api.application.ROUTERS", (*ROUTERS, router))
    app = next(open_app(predictor, key="key"))
    refused(call(app, "GET", "/v1/new"), 401, "unauthorized")
    key = {"X-API-Key": "key"}
    assert call(app, "GET", "/v1/new", headers=key).status_code == 200
    assert call(app, "GET", "/openapi.json").json()["paths"]["/v1/new"]["get"]["security"]
    text = call(app, "GET", "/metrics", headers=key).text
    assert all(f'path="/v1/new",status="{status}"' in text for status in (401, 200))


class Slow:
    """Answers when it is told to."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.may_go_on = threading.Event()
        self.started = threading.Semaphore(0)
        self.running = self.most_running = 0

    def predict(self, source: Input, name: str | None = None) -> Prediction:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.started.release()
        assert self.may_go_on.wait(10)
        self.running -= 1
        return red(name)


@pytest.fixture
def slow(predictor: Predictor) -> Iterator[Slow]:
    slow = Slow(predictor.bundle)
    yield slow
    slow.may_go_on.set()


def test_overload_is_refused_at_once_and_passes(slow: Slow) -> None:
    app = next(open_app(slow, max_waiting_images=4, max_files=3))

    async def overload() -> tuple[list[httpx.Response], list[httpx.Response]]:
        tasks = [asyncio.create_task(send(app, content=RED, headers=PNG)) for _ in range(4)]
        while app.state.service.workers.waiting < 4:
            await asyncio.sleep(0.01)
        late = await asyncio.gather(
            send(app, content=RED, headers=PNG), send(app, files=files(("a", RED), ("b", RED), ("c", RED)))
        )
        assert (await send(app, "GET", "/healthz")).status_code == 200
        slow.may_go_on.set()
        return await asyncio.gather(*tasks), [*late, await send(app, content=RED, headers=PNG)]

    early, (*turned_away, after) = asyncio.run(overload())
    assert [response.status_code for response in early] == [200] * 4 and after.status_code == 200
    for response in turned_away:
        refused(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
    assert slow.most_running <= 2
    assert app.state.service.workers.waiting == app.state.service.memory.used == 0


def test_memory_for_uploads_is_bounded_over_all_calls(slow: Slow) -> None:
    app = next(open_app(slow, max_waiting_bytes=100_000))

    async def fill() -> httpx.Response:
        big = asyncio.create_task(send(app, content=RED + bytes(59_000 - len(RED)), headers=PNG))
        while not slow.started.acquire(blocking=False):
            await asyncio.sleep(0.01)
        second = await send(app, content=bytes(59_000), headers=PNG)
        slow.may_go_on.set()
        assert (await big).status_code == 200
        return second

    refused(asyncio.run(fill()), 503, "overloaded")
    assert app.state.service.memory.used == 0


def test_a_deadline_ends_the_call_and_drops_what_waits(slow: Slow) -> None:
    app = next(open_app(slow, threads=1, timeout_seconds=0.2))
    started = time.monotonic()
    refused(call(app, files=files(("a", RED), ("b", RED), ("c", RED))), 503, "deadline")
    assert time.monotonic() - started < 2
    assert slow.started.acquire(timeout=1)
    slow.may_go_on.set()
    assert not slow.started.acquire(timeout=0.3)


def test_a_body_that_trickles_is_given_up(app: FastAPI, predictor: Predictor) -> None:
    app = next(open_app(predictor, timeout_seconds=0.2))

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"\x89"
            await asyncio.sleep(0.02)

    refused(call(app, content=trickle(), headers=PNG), 408, "too_slow")


def test_a_large_image_waits_for_another(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metal_defects.api.workers.LARGE_IMAGE_PIXELS", 1000)
    app = next(open_app(slow, threads=3))

    async def two() -> list[int]:
        tasks = [asyncio.create_task(send(app, content=RED, headers=PNG)) for _ in range(2)]
        await asyncio.sleep(0.2)
        slow.may_go_on.set()
        return [(await task).status_code for task in tasks]

    assert asyncio.run(two()) == [200, 200]
    assert slow.most_running == 1


class Seeing:
    """Sees a defect in the upper left quarter of every image."""

    def __init__(self, bundle: Bundle, heat_map: np.ndarray | None) -> None:
        self.bundle = bundle
        self.heat_map = heat_map

    def explain(self, source: Input, name: str | None = None) -> tuple[Prediction, np.ndarray | None]:
        return red(name), self.heat_map


QUARTER = np.kron([[1, 0], [0, 0]], np.ones((4, 4), np.float32))


@pytest.mark.parametrize("is_raw", [True, False])
def test_heat_map_is_laid_over_the_upright_image(predictor: Predictor, is_raw: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(Image.new("RGB", (40, 80), (0, 0, 200)), "PNG", exif=exif)
    app = next(open_app(Seeing(predictor.bundle, QUARTER)))
    response = call(
        app, path="/v1/heatmap", **({"content": turned, "headers": PNG} if is_raw else {"files": files(("a", turned))})
    )
    assert response.status_code == 200 and response.headers["content-type"] == "image/png"
    pixels = np.asarray(Image.open(BytesIO(response.content)).convert("RGB")).astype(int)
    assert pixels.shape == (40, 80, 3)
    assert pixels[5, 5, 0] > 100 > pixels[5, 5, 2] and pixels[35, 75].tolist() == [0, 0, 200]
    assert 'images_total{outcome="label",value="Red"} 1.0' in call(app, "GET", "/metrics").text


def test_the_picture_of_a_large_image_is_small(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metal_defects.api.workers.OVERLAY_SIDE", 50)
    app = next(open_app(Seeing(predictor.bundle, QUARTER)))
    response = call(app, path="/v1/heatmap", content=encode(Image.new("RGB", (200, 100)), "PNG"), headers=PNG)
    assert Image.open(BytesIO(response.content)).size == (50, 25)


def test_no_heat_map_where_there_is_none(predictor: Predictor) -> None:
    app = next(open_app(Seeing(predictor.bundle, None)))
    refused(call(app, path="/v1/heatmap", content=RED, headers=PNG), 409, "no_heat_map")
    refused(call(app, path="/v1/heatmap", content=RED[:900], headers=PNG), 422, "truncated")
    refused(call(app, path="/v1/heatmap", files=files(("a", RED), ("b", RED))), 413, "too_many_files")


def test_everything_that_an_evaluated_model_says_is_described(predictor: Predictor) -> None:
    class Evaluated:
        bundle = predictor.bundle

        def predict(self, source: Input, name: str | None = None) -> Prediction:
            return Prediction(
                name=name,
                label="Red",
                confidence=0.6,
                probabilities={"Red": 0.6, "Blue": 0.4},
                milliseconds=1.0,
                verdict="review",
                reason="two classes are possible",
                distance=0.7,
                prediction_set=("Red", "Blue"),
                boxes=(Box(box=(0.1, 0.2, 0.5, 1.0), score=0.9),),
            )

    answer = Answer.model_validate(call(next(open_app(Evaluated())), content=RED, headers=PNG).json())
    assert (answer.results[0].verdict, answer.results[0].prediction_set) == ("review", ("Red", "Blue"))
    assert answer.results[0].boxes[0].box == (0.1, 0.2, 0.5, 1.0)


def test_a_fault_of_the_server_is_not_blamed_on_the_file(predictor: Predictor) -> None:
    class Broken:
        bundle = predictor.bundle

        def predict(self, source: Input, name: str | None = None) -> Prediction:
            raise RuntimeError("secret detail")

    response = call(next(open_app(Broken())), content=RED, headers=PNG)
    refused(response, 500, "internal_error")
    assert "secret" not in response.text


def test_a_fault_of_a_route_still_answers_json(app: FastAPI) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret detail")

    response = call(app, "GET", "/broken")
    refused(response, 500, "internal_error")
    assert "secret" not in response.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "steel.example"])
def test_a_public_address_needs_a_key_or_insecure(host: str) -> None:
    with pytest.raises(ConfigError, match="METAL_DEFECTS_API_KEY"):
        require_safe_address(host, None, is_insecure=False)
    require_safe_address(host, "key", is_insecure=False)
    require_safe_address(host, None, is_insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_local_address_needs_nothing(host: str) -> None:
    require_safe_address(host, None, is_insecure=False)


def test_an_address_that_is_taken_is_one_sentence() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            open_listener("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"no\.such"):
        open_listener("no.such.host.invalid", 0)


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", None), ("50000 100000", 1), ("", None), ("rubbish", None)])
def test_cores_follow_the_quota_of_a_container(
    quota: str, cores: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metal_defects.system.CPU_QUOTA", tmp_path / "absent")
    all_cores = count_cores()
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("metal_defects.system.CPU_QUOTA", tmp_path / "cpu.max")
    assert count_cores() == (cores or all_cores)


def test_bounds_that_contradict_each_other_are_refused() -> None:
    for override, part in (
        ("serving.max_request_bytes=999999999", "max_waiting_bytes"),
        ("serving.max_files=999", "max_waiting_images"),
        ("serving.port=70000", "serving.port"),
    ):
        with pytest.raises(ConfigError, match=part):
            load_settings(PROJECT, [override], environment={})


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_boxes_and_heat_map_lie_on_the_image_that_was_sent(tmp_path: Path, fit: str) -> None:
    app = next(open_app(Predictor.load(write_locating_bundle(tmp_path, fit))))
    pixels, box = paint_spot()
    sent = encode(Image.fromarray(pixels), "PNG")
    [found] = call(app, content=sent, headers=PNG).json()["results"][0]["boxes"]
    assert found["box"] == pytest.approx(box, abs=0.07)
    painted = call(app, path="/v1/heatmap", content=sent, headers=PNG).content
    changed = np.abs(np.asarray(Image.open(BytesIO(painted)).convert("RGB")).astype(int) - pixels).sum(axis=2) > 60
    assert changed.shape == pixels.shape[:2]
    assert changed[2:20, 54:90].mean() > 0.9 and changed[36:].mean() < 0.05 and changed[:, 120:].mean() < 0.05

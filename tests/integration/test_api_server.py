"""The server as a process of its own: start, key, concurrency, large bodies, bad clients, stop."""

import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image
from support.api_server import ApiServer, command, environment, run_api
from support.hostile import encode
from support.toy_bundles import COLOURS, paint, write_bundle

RED = encode(Image.fromarray(paint("Red")), "PNG")
PNG = {"Content-Type": "image/png"}
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[ApiServer]:
    with run_api(bundle) as server:
        yield server


def open_socket(server: ApiServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def test_answers_and_logs(server: ApiServer) -> None:
    response = httpx.post(
        f"{server.address}/v1/predict", files=[("files", ("a.png", RED))], headers={"X-Request-ID": "line-3"}
    )
    assert response.status_code == 200 and response.json()["results"][0]["label"] == "Red"
    assert response.headers["x-request-id"] == response.json()["request_id"] == "line-3"
    assert httpx.get(f"{server.address}/docs").status_code == 200
    line = next(record for record in server.records() if record.get("request_id") == "line-3")
    assert (line["path"], line["status"], line["files"]) == ("/v1/predict", 200, 1)
    assert server.records()[0]["message"] == "listening"


def test_loads_nothing_of_training(server: ApiServer) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
    assert "onnxruntime" in maps
    assert not re.search(r"/(tensorflow|keras|sklearn|scipy|matplotlib|pandas|h5py)/", maps)


def test_the_docs_need_no_internet(server: ApiServer) -> None:
    page = httpx.get(f"{server.address}/docs").text
    links = re.findall(r"(?:src|href)=\"([^\"]+)\"", page)
    assert links and not [link for link in links if "://" in link]
    assert all(httpx.get(server.address + link).status_code == 200 for link in links)


def test_many_clients_at_once_get_their_own_answers(server: ApiServer) -> None:
    images = {colour: encode(Image.fromarray(paint(colour)), "PNG") for colour in COLOURS}

    def work(seed: int) -> int:
        chance = random.Random(seed)
        with httpx.Client(base_url=server.address) as client:
            for index in range(25):
                colours = chance.choices(COLOURS, k=chance.randint(1, 3))
                files = [("files", (f"{index}-{colour}", images[colour])) for colour in colours]
                results = client.post("/v1/predict", files=files).json()["results"]
                assert [result["label"] for result in results] == colours
                assert [result["name"] for result in results] == [name for _, (name, _) in files]
        return seed

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))


@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=x"])
def test_300_megabytes_are_refused_and_not_kept(server: ApiServer, kind: str, is_announced: bool) -> None:
    start = b"" if kind == "image/png" else b"--x\r\nContent-Disposition: form-data; name=files\r\n\r\n"
    total = 300_000_000
    httpx.post(f"{server.address}/v1/predict", content=RED, headers=PNG)
    before = server.resident_bytes()
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        sent += len(start)
        yield start
        while sent < total:
            piece = bytes(min(1_000_000, total - sent))
            sent += len(piece)
            yield piece

    headers = {"Content-Type": kind} | ({"Content-Length": str(total)} if is_announced else {})
    response = httpx.post(f"{server.address}/v1/predict", content=pieces(), headers=headers, timeout=30)
    assert response.status_code == 413
    assert response.json()["error"]["code"] in ("request_too_large", "too_large")
    # What one call may send, twice: as it comes and as one piece.
    assert server.resident_bytes() - before < 90_000_000
    assert "metal_defects_upload_bytes 0.0" in httpx.get(f"{server.address}/metrics").text


def test_a_client_that_hangs_up_leaves_nothing_behind(server: ApiServer) -> None:
    for share in (0, 0.5, 1):
        with open_socket(server) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(RED) + RED[: int(share * len(RED))])
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        text = httpx.get(f"{server.address}/metrics").text
        if "waiting_images 0.0" in text and "upload_bytes 0.0" in text:
            break
        time.sleep(0.05)
    else:
        pytest.fail(text)
    assert not [record for record in server.records() if record["level"] == "ERROR"]


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\r\n", b"\0" * 5000,
        HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: 10\r\nContent-Length: 11\r\n\r\n",
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", HEAD + b"X: " + b"a" * 100_000 + b"\r\n",
    ],
)  # fmt: skip
def test_rubbish_instead_of_http(server: ApiServer, rubbish: bytes) -> None:
    with open_socket(server) as connection:
        connection.sendall(rubbish)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(1)
        try:
            answer = read_all(connection)
        except (TimeoutError, ConnectionResetError):
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 5")
    assert httpx.get(f"{server.address}/healthz").status_code == 200


def test_a_connection_lives_on_after_a_refusal(server: ApiServer) -> None:
    with httpx.Client(base_url=server.address, limits=httpx.Limits(max_connections=1)) as client:
        bad = client.post("/v1/predict", content=b"no image", headers=PNG)
        assert bad.status_code == 415 and "connection" not in bad.headers
        assert client.post("/v1/predict", content=RED, headers=PNG).status_code == 200


def test_the_key_comes_from_the_environment(bundle: Path) -> None:
    with run_api(bundle, METAL_DEFECTS_API_KEY="s3cret") as server:
        assert httpx.post(f"{server.address}/v1/predict", content=RED, headers=PNG).status_code == 401
        right = PNG | {"Authorization": "Bearer s3cret"}
        assert httpx.post(f"{server.address}/v1/predict", content=RED, headers=right).status_code == 200
        assert httpx.get(f"{server.address}/readyz").status_code == 200
        assert "s3cret" not in "".join(server.lines)


def test_a_slow_client_does_not_hold_a_connection(bundle: Path) -> None:
    with run_api(bundle, "--set", "serving.timeout_seconds=1") as server:
        for start in (b"", b"POST /v1/predict HT", HEAD + b"Content-Length: 999\r\n\r\nabc"):
            with open_socket(server) as connection:
                connection.sendall(start)
                started = time.monotonic()
                answer = read_all(connection)
                assert time.monotonic() - started < 8
                assert answer.startswith(b"HTTP/1.1 408") if b"999" in start else answer == b""


def test_sigterm_says_not_ready_then_finishes_what_it_has(bundle: Path) -> None:
    with run_api(bundle, "--set", "serving.drain_seconds=0.6") as server:
        with open_socket(server) as connection, httpx.Client(base_url=server.address) as client:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(RED) + RED[:100])
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert client.get("/readyz").status_code == 503
            assert client.post("/v1/predict", content=RED, headers=PNG).status_code == 200
            time.sleep(0.8)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{server.address}/healthz")
            connection.sendall(RED[100:])
            assert read_all(connection).startswith(b"HTTP/1.1 200")
        assert server.wait() == 0
        assert not [record for record in server.records() if record["level"] == "ERROR"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_at_once_when_idle(bundle: Path, number: signal.Signals) -> None:
    with run_api(bundle, "--set", "serving.drain_seconds=0") as server:
        started = time.monotonic()
        server.process.send_signal(number)
        assert server.wait() == 0
        assert time.monotonic() - started < 3


def test_refuses_to_start_in_one_sentence(bundle: Path, tmp_path: Path) -> None:
    (torn := tmp_path / "torn").mkdir()
    (torn / "bundle.json").write_text("{")
    with socket.create_server(("127.0.0.1", 0)) as other:
        for arguments, part in (
            (("--host", "0.0.0.0"), "METAL_DEFECTS_API_KEY"),
            (("--port", str(other.getsockname()[1])), "--port"),
            (("--port", "0", "--bundle", str(torn)), "bundle"),
            (("--port", "99999"), "serving.port"),
        ):
            result = subprocess.run(
                command(*arguments), capture_output=True, text=True, env=environment(), timeout=60, check=False
            )
            assert result.returncode == 1
            assert part in result.stderr and "Traceback" not in result.stderr + result.stdout
            assert len(result.stderr.strip().splitlines()) == 1


def test_insecure_listens_and_warns(bundle: Path) -> None:
    with run_api(bundle, "--host", "0.0.0.0", "--insecure") as server:
        assert httpx.get(f"http://127.0.0.1:{server.port}/readyz").status_code == 200
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not any(record["level"] == "WARNING" for record in server.records()):
            time.sleep(0.05)
        assert any("no API key" in record["message"] for record in server.records())


@pytest.mark.slow
def test_memory_stays_where_it_is(bundle: Path) -> None:
    with run_api(bundle, MALLOC_ARENA_MAX="2") as server, httpx.Client(base_url=server.address) as client:

        def send(count: int) -> None:
            for _ in range(count):
                assert client.post("/v1/predict", content=RED, headers=PNG).status_code == 200

        send(1000)
        warm = server.resident_bytes()
        send(3000)
        assert server.resident_bytes() < 1.05 * warm
        assert server.resident_bytes() < 300_000_000

"""The image without an engine: the build steps and command lines of the Dockerfile, in folders of this test.

/build, /opt/venv, /app and /tmp of the image are folders here; `python` and `pip` of its base are this interpreter's.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import PROJECT
from support.dockerfile import Context, read_stages

KEY = "a key of this test"
MOST_BYTES = 500_000_000
TRAINING = ("tensorflow", "keras", "sklearn", "scipy", "matplotlib", "seaborn", "joblib", "onnx", "torch")
START_SECONDS = 60

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Image:
    """What `docker build` would have made.

    Attributes:
        root: holds the image's folders.
        environment: of the image, and nothing of this process.
    """

    root: Path
    environment: dict[str, str]

    def inside(self, text: str) -> str:
        """The text with the image's folders as they are called here."""
        return re.sub(r"(?<![\w./-])/(?=(build|opt/venv|app|tmp)\b)", f"{self.root}/", text)

    def command(self, *arguments: str) -> list[str]:
        """ENTRYPOINT with these arguments, or with CMD."""
        stage = read_stages(PROJECT / "Dockerfile")[-1]
        return [self.inside(word) for word in stage.words("ENTRYPOINT")] + (list(arguments) or stage.words("CMD"))

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, inside."""
        environment = self.environment | variables
        program = shutil.which(command[0], path=environment["PATH"]) or command[0]
        return subprocess.run(
            [program, *command[1:]], cwd=self.root / "app", env=environment, capture_output=True, text=True, timeout=120
        )

    def is_healthy(self, port: int) -> bool:
        """What HEALTHCHECK says."""
        words = read_stages(PROJECT / "Dockerfile")[-1].words("HEALTHCHECK")
        return self.run(*map(self.inside, words), PORT=str(port)).returncode == 0

    @contextmanager
    def running(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """A container that is healthy, and its port."""
        port = _find_free_port()
        environment = self.environment | {"PORT": str(port), "METAL_DEFECTS_API_KEY": KEY}
        log = self.root / "output.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                self.command(*arguments), cwd=self.root / "app", env=environment, stdout=output, stderr=output
            )
        try:
            limit = time.monotonic() + START_SECONDS
            while not self.is_healthy(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < limit, log.read_text()
                time.sleep(0.2)
            yield process, port
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Both stages, one step after the other."""
    root = tmp_path_factory.mktemp("image")
    tools = root / "base" / "bin"
    for folder in (root / "build", root / "app", root / "tmp", tools):
        folder.mkdir(parents=True)
    for name, call in (("python", ""), ("pip", " -m pip")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        tool.chmod(0o755)
    builder, final = read_stages(PROJECT / "Dockerfile")
    image = Image(root, {})
    path = f"{tools}:/usr/bin:/bin"
    network = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "proxy" in name.lower()}
    for name, text in builder.steps:
        if name == "COPY":
            _copy(text, root / "build")
        elif name == "RUN":
            step = ["/bin/sh", "-ec", image.inside(text)]
            environment = network | {"PATH": path, "HOME": str(root)}
            done = subprocess.run(step, cwd=root / "build", env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        else:
            assert (name, text) == ("WORKDIR", "/build")
    shutil.rmtree(root / "build")  # the final stage takes /opt/venv alone
    for text in final.all("COPY"):
        if not text.startswith("--from="):
            _copy(text, root / "app")
    variables = {name: image.inside(value) for name, value in final.pairs("ENV").items()}
    return Image(root, variables | {"PATH": variables["PATH"].replace("$PATH", "/usr/bin:/bin")})


@pytest.fixture(scope="module", autouse=True)
def nothing_is_written(image: Image) -> Iterator[None]:
    """A read-only file system with a /tmp would have been enough for all tests together."""
    before = _list_files(image)
    yield
    assert _list_files(image) == before


@pytest.fixture
def sample(image: Image) -> Path:
    return min((image.root / "opt").rglob("metal_defects/app/samples/*.png"))


def test_environment_lacks_everything_of_training(image: Image) -> None:
    text = f"import importlib.util as u; print([name for name in {TRAINING} if u.find_spec(name)])"
    assert image.run("python", "-c", text).stdout.strip() == "[]"


def test_environment_is_small(image: Image, record_property: Callable[[str, object], None]) -> None:
    packages = image.root / "opt" / "venv" / "lib"
    sizes = {path: path.stat().st_size for path in packages.rglob("*") if path.is_file() and not path.is_symlink()}
    shares: dict[str, int] = {}
    for path, size in sizes.items():
        package = path.relative_to(packages).parts[2]
        shares[package] = shares.get(package, 0) + size
    largest = sorted(shares.items(), key=lambda item: -item[1])[:12]
    split = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in largest)
    record_property("megabytes", split)
    assert sum(sizes.values()) <= MOST_BYTES, split


def test_programs_need_no_library_that_the_base_lacks(image: Image) -> None:
    """The slim base holds Debian's essential libraries; whatever else is needed must be in the packages."""
    libraries = [path for path in (image.root / "opt").rglob("*.so*") if path.is_file()]
    missing, outside = set(), set()
    for line in subprocess.run(["ldd", *libraries], capture_output=True, text=True).stdout.splitlines():
        name, arrow, found = line.strip().partition(" => ")
        if arrow and "not found" in found:
            missing.add(name)
        elif arrow and str(image.root) not in found:
            outside.add(name.split(".so")[0])
    assert len(libraries) > 50
    assert not missing
    assert outside <= {"libc", "libdl", "libgcc_s", "libm", "libpthread", "librt", "libstdc++", "libutil", "libz"}


def test_app_starts_and_draws_its_page(image: Image, sample: Path) -> None:
    with image.running() as (process, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert b"<title>" in answer.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) in (0, -signal.SIGTERM)
    page = (
        "from streamlit.testing.v1 import AppTest\n"
        "page = AppTest.from_file('st_app_predict.py', default_timeout=60).run()\n"
        "print([error.value for error in page.exception])\n"
    )
    done = image.run("python", "-c", page)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_api_answers_images_and_stops_when_told(image: Image, sample: Path) -> None:
    with image.running("api") as (process, port):
        address = f"http://127.0.0.1:{port}"
        model = json.loads(_call(f"{address}/v1/model"))
        body = json.loads(_call(f"{address}/v1/predict", sample.read_bytes()))
        assert body["results"][0]["label"] in json.dumps(model)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            _call(f"{address}/v1/model", key="another key")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0


def test_api_refuses_to_listen_without_a_key(image: Image) -> None:
    done = image.run(*image.command("api"), PORT=str(_find_free_port()))
    assert done.returncode == 1
    assert "METAL_DEFECTS_API_KEY" in done.stderr


def test_predict_answers(image: Image, sample: Path) -> None:
    done = image.run(*image.command("predict", str(sample), "--json"))
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout)["confidence"] <= 1


def test_other_commands_run_as_they_are(image: Image) -> None:
    assert image.run(*image.command("python", "-c", "print(1 + 1)")).stdout == "2\n"


def test_health_check_fails_where_nothing_listens(image: Image) -> None:
    assert not image.is_healthy(_find_free_port())


def _copy(text: str, folder: Path) -> None:
    """What COPY does: a folder's content goes into the target, files keep their names."""
    *sources, target = text.split()
    files = list(Context(PROJECT).files())
    for source in sources:
        found = [file for file in files if file == source or file.startswith(f"{source}/")]
        assert found, f"COPY finds no {source}"
        for file in found:
            place = folder / target / (file.removeprefix(f"{source}/") if file != source else file)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / file, place)


def _list_files(image: Image) -> dict[str, int]:
    """When each file of the image was written."""
    folders = (image.root / "app", image.root / "opt")
    return {str(path): path.lstat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _call(address: str, image: bytes | None = None, key: str = KEY) -> bytes:
    headers = {"X-API-Key": key, "Content-Type": "application/octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(address, image, headers), timeout=30) as answer:
        return answer.read()

"""Latency, throughput, memory and size of everything that serves, in one run: `--help` tells the rest."""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from _common import PROJECT, Data, describe_machine, make_table, report, start
from _servers import Clients, Environment, make_environment, read_memory, serving
from _timing import measure_bare_rate, median_seconds, read_pixels, time_predictor, time_usual_way

from metal_defects.artifacts import TUNED_H5
from metal_defects.config import load_settings
from metal_defects.data.layouts import read_image_set
from metal_defects.errors import UserError
from metal_defects.inference.answer import Prediction
from metal_defects.inference.bundle import find_bundle
from metal_defects.inference.predictor import Predictor
from metal_defects.inference.runtime import open_graph
from metal_defects.log import console

CLIENTS = 8


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: was measured.
        target: in words.
        measured: in words.
        is_met: None where the target is to report.
        values: for the JSON file.
    """

    what: str
    target: str
    measured: str
    is_met: bool | None
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Bench:
    """What the rows share."""

    images: list[Path]
    labels: list[str]
    bundle: Path
    keras_file: Path | None
    quick: bool
    folder: Path

    @cached_property
    def predictor(self) -> Predictor:
        return Predictor.load(self.bundle)

    @cached_property
    def environment(self) -> Environment:
        console.print("Making the serving environment ...", style="dim")
        return make_environment(self.folder / "environment")

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 (64, side, side, 3): ready for the graph."""
        return read_pixels(self.predictor.bundle, self.spread(64))

    def spread(self, count: int) -> list[Path]:
        """So many images, evenly from all."""
        return [self.images[int(index)] for index in np.linspace(0, len(self.images) - 1, count)]

    def measure_bound(self) -> float:
        """Images per second of the bare graph on ready pixels."""
        file = self.predictor.bundle.variant_file(self.predictor.bundle.card.default)
        return measure_bare_rate(file, self.pixels, 1.0 if self.quick else 4.0)

    def api(self) -> Any:
        """The API in its environment, as `serving` yields it."""
        command = [self.environment.python, "main.py", "serve", "--port", "PORT"]
        return serving(command, "/readyz", self.bundle)


def measure_one_image(bench: Bench) -> Iterator[Row]:
    """File to answer, against `load_img` and `model.predict`, each in a process of its own."""
    files = bench.spread(40 if bench.quick else 200)
    model = bench.keras_file or bench.predictor.bundle.keras_artifacts() / TUNED_H5.name
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        ours = 1000 * pool.submit(time_predictor, bench.bundle, files).result()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        usual = 1000 * pool.submit(time_usual_way, model, files, bench.predictor.bundle.image_size).result()
    ratio = usual / ours
    text = f"{ratio:.1f} times ({ours:.1f} ms against {usual:.1f} ms)"
    values = {"ours_ms": round(ours, 2), "usual_ms": round(usual, 2), "ratio": round(ratio, 2)}
    yield Row("one image, file to answer, median", "≥ 12 times faster", text, ratio >= 12, values)


def measure_overhead(bench: Bench) -> Iterator[Row]:
    """Predictor from a file, and from ready pixels, in turns with the bare graph."""
    predictor, rounds = bench.predictor, 2 if bench.quick else 8
    infer = open_graph(predictor.bundle.variant_file(predictor.bundle.card.default))
    ways: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "bare": (infer, [image[None] for image in bench.pixels]),
        "pixels": (predictor.predict, list(bench.pixels)),
        "file": (predictor.predict, bench.spread(64)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(rounds * 64):
        for name, (call, inputs) in ways.items():
            begin = time.perf_counter()
            call(inputs[index % 64])
            times[name].append(time.perf_counter() - begin)
    bare, pixels, file = (1000 * statistics.median(times[name]) for name in ways)
    text = f"{100 * (file / bare - 1):.0f} % from a file, {100 * (pixels / bare - 1):.0f} % from pixels"
    text += f" ({bare:.2f} ms bare)"
    values = {"bare_ms": round(bare, 3), "pixels_ms": round(pixels, 3), "file_ms": round(file, 3)}
    yield Row("overhead of Predictor over session.run", "≤ 20 %", text, file <= 1.2 * bare, values)


def measure_folder(bench: Bench) -> Iterator[Row]:
    """All files through `predict_many`; the bound is measured before and after."""
    files = bench.images[:300] if bench.quick else bench.images
    before = bench.measure_bound()
    begin = time.perf_counter()
    good = sum(isinstance(answer, Prediction) for answer in bench.predictor.predict_many(files))
    rate = good / (time.perf_counter() - begin)
    bound = (before + bench.measure_bound()) / 2
    text = f"{100 * rate / bound:.0f} % ({rate:.0f} of {bound:.0f} images/s)"
    values = {"images": good, "per_second": round(rate, 1), "bound_per_second": round(bound, 1)}
    yield Row("folder scoring against the bare graph", "≥ 85 %", text, rate >= 0.85 * bound, values)


def measure_load(bench: Bench) -> Iterator[Row]:
    """The API under 8 clients that never wait."""
    before = bench.measure_bound()
    with bench.api() as (_, port, _):
        contents = [path.read_bytes() for path in bench.spread(200)]
        Clients(port, contents, CLIENTS).run(seconds=2)
        clients = Clients(port, contents, CLIENTS)
        seconds = clients.run(seconds=8 if bench.quick else 60)
    bound = (before + bench.measure_bound()) / 2
    rate = (len(clients.seconds) - clients.errors) / seconds
    median, p99 = (1000 * float(np.quantile(clients.seconds, share)) for share in (0.5, 0.99))
    text = f"{100 * rate / bound:.0f} % ({rate:.0f} of {bound:.0f}/s), p99 {p99:.0f} ms = {p99 / median:.1f} medians, "
    text += f"{clients.errors} errors in {seconds:.0f} s"
    values = {
        "per_second": round(rate, 1), "bound_per_second": round(bound, 1), "p50_ms": round(median, 2),
        "p99_ms": round(p99, 2), "errors": clients.errors, "seconds": round(seconds, 1),
    }  # fmt: skip
    is_met = rate >= 0.7 * bound and p99 <= 4 * median and clients.errors == 0
    yield Row(f"API, {CLIENTS} clients", "≥ 70 %, p99 ≤ 4 medians, no error", text, is_met, values)


def measure_memory(bench: Bench) -> Iterator[Row]:
    """Of the API after many requests; a tenth of them is its warm-up."""
    requests = 1000 if bench.quick else 10_000
    with bench.api() as (process, port, _):
        clients = Clients(port, [path.read_bytes() for path in bench.spread(200)], CLIENTS)
        clients.run(requests=requests // 10)
        warm = read_memory(process)
        clients.run(requests=requests - requests // 10)
        after = read_memory(process)
    growth = 100 * (after / warm - 1)
    text = f"{after:.0f} MB, {growth:+.1f} % ({len(clients.seconds)} requests, {clients.errors} errors)"
    values = {"warm_mb": round(warm, 1), "after_mb": round(after, 1), "requests": len(clients.seconds)}
    is_met = after <= 300 and growth <= 5 and clients.errors == 0
    yield Row(f"memory of the API after {requests:,} requests", "≤ 300 MB, growth ≤ 5 %", text, is_met, values)


def measure_app(bench: Bench) -> Iterator[Row]:
    """The app at most, with one visitor who uploads many images."""
    files, python = bench.spread(30 if bench.quick else 300), bench.environment.python
    command = [python, "-m", "streamlit", "run", "st_app_predict.py", "--server.port", "PORT"]
    command += ["--server.address", "127.0.0.1", "--server.enableXsrfProtection", "false"]
    with serving(command, "/_stcore/health", bench.bundle) as (process, port, _):
        visitor = str(Path(__file__).with_name("_app_visitor.py"))
        done = subprocess.run([python, visitor, str(port), *map(str, files)], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"The app's visitor failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
        most = read_memory(process, "VmHWM")
    seconds = json.loads(done.stdout)
    text = f"{most:.0f} MB at most; page after {seconds['page']:.1f} s, "
    text += f"{len(files)} images in {seconds['images']:.1f} s"
    yield Row("memory of the app", "≤ 450 MB", text, most <= 450, {"most_mb": round(most, 1), "seconds": seconds})


def measure_start(bench: Bench) -> Iterator[Row]:
    """From the start of the process, in the serving environment, files in the page cache."""
    times, calls = [], []
    command = [bench.environment.python, "main.py", "predict", str(bench.images[0]), "--bundle", str(bench.bundle)]
    for _ in range(3 if bench.quick else 7):
        with bench.api() as (_, _, seconds):
            times.append(seconds)
        begin = time.perf_counter()
        subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
        calls.append(time.perf_counter() - begin)
    api, call = statistics.median(times), statistics.median(calls)
    yield Row("API start to ready, median", "≤ 2 s", f"{api:.2f} s", api <= 2, {"seconds": round(api, 3)})
    yield Row("`predict` of one image, process", "≤ 1.5 s", f"{call:.2f} s", call <= 1.5, {"seconds": round(call, 3)})


def measure_environment(bench: Bench) -> Iterator[Row]:
    """Unpacked, with compiled bytecode, as the image has it."""
    sizes = {name: size / 1e6 for name, size in bench.environment.sizes.items()}
    total, ranked = sum(sizes.values()), sorted(sizes.items(), key=lambda item: -item[1])
    split = ", ".join(f"{name} {size:.0f}" for name, size in ranked[:8])
    text = f"{total:.0f} MB ({split}); {bench.environment.untrimmed / 1e6:.0f} MB as pip leaves it"
    values = {
        "mb": round(total, 1),
        "untrimmed_mb": round(bench.environment.untrimmed / 1e6, 1),
        "split_mb": {name: round(size, 1) for name, size in ranked[:20]},
    }
    yield Row("serving environment unpacked", "≤ 500 MB", text, total <= 500, values)


def measure_int8(bench: Bench) -> Iterator[Row]:
    """Size, speed and accuracy of int8 against float32, over all labelled images given."""
    variants = bench.predictor.bundle.card.variants
    if "int8" not in variants:
        yield Row("int8 against float32", "≤ 0.1 point lost", "the bundle has no int8 variant", None)
        return
    files = list(zip(bench.images, bench.labels, strict=True))[:: 6 if bench.quick else 1]
    found: dict[str, dict[str, float]] = {}
    for name in ("float32", "int8"):
        predictor = Predictor.load(bench.bundle, name)
        infer = open_graph(predictor.bundle.variant_file(name))
        milliseconds = 1000 * median_seconds(infer, [image[None] for image in bench.pixels] * 4)
        answers = predictor.predict_many(path for path, _ in files)
        right = sum(getattr(answer, "label", None) == label for answer, (_, label) in zip(answers, files, strict=True))
        found[name] = {"mb": variants[name].bytes / 1e6, "ms": milliseconds, "accuracy": 100 * right / len(files)}
    full, small = found["float32"], found["int8"]
    lost = full["accuracy"] - small["accuracy"]
    text = f"{small['mb']:.1f} MB for {full['mb']:.1f}, {small['ms']:.1f} ms for {full['ms']:.1f}, "
    text += f"{small['accuracy']:.2f} % for {full['accuracy']:.2f} ({lost:+.2f} points lost, {len(files)} images)"
    yield Row("int8 against float32", "≤ 0.1 point lost", text, lost <= 0.1, found)


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "one_image": measure_one_image,
    "overhead": measure_overhead,
    "folder": measure_folder,
    "load": measure_load,
    "memory": measure_memory,
    "app": measure_app,
    "start": measure_start,
    "environment": measure_environment,
    "int8": measure_int8,
}


def main(
    data: Data,
    bundle: Annotated[Path | None, typer.Option("--bundle", metavar="DIR", help="Else what would serve.")] = None,
    keras_file: Annotated[
        Path | None, typer.Option("--keras-file", metavar="FILE", help="For the usual way; else the bundle's own .h5.")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", metavar="ROWS", help=f"Some of {', '.join(ROWS)}.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the work, for a first look.")] = False,
) -> None:
    """Measure everything that a user of the app, the API and `predict` waits for or pays for.

    Servers run in an environment made from the serving requirements alone, by the Dockerfile's own steps. The bound
    is the exported graph on ready pixels, called in the fastest of three ways, measured beside each row that needs
    it. Nothing else should run meanwhile. About seven minutes on two cores; --quick two.

    Example: python benchmarks/serving.py --data ~/NEU-DET
    """
    machine = describe_machine()
    chosen = [name.strip() for name in only.split(",")] if only else list(ROWS)
    if unknown := [name for name in chosen if name not in ROWS]:
        raise UserError(f"--only must name rows among {', '.join(ROWS)}. Got '{unknown[0]}'.")
    settings = load_settings(PROJECT)
    found = read_image_set(data.expanduser().absolute(), settings.data_schema)
    images, labels = [found.root / file.path for file in found.files], [file.label for file in found.files]
    serves = find_bundle(settings.config.paths.artifacts, bundle).absolute()
    rows: dict[str, list[Row]] = {}
    with TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
        bench = Bench(images, labels, serves, keras_file, quick, Path(name))
        for key in chosen:
            console.print(f"Measuring: {key} ...", style="dim")
            rows[key] = list(ROWS[key](bench))
        served = f"{bench.predictor.bundle.card.name}, {bench.predictor.bundle.hash}"
    table = make_table(f"Serving {served}", "what", "target", "", "measured")
    for row in (row for several in rows.values() for row in several):
        table.add_row(row.what, row.target, {True: "yes", False: "[red]no[/]", None: ""}[row.is_met], row.measured)
    result = {
        "bundle": served,
        "quick": quick,
        "rows": {key: [vars(row) for row in several] for key, several in rows.items()},
    }
    report("serving", [table], [f"{len(images)} images of {data}."], machine, result)


if __name__ == "__main__":
    start(main)

"""The command line: help that teaches, plans, choosing stages, and mistakes explained in one sentence."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import PROJECT

from metal_defects.artifacts import Artifact
from metal_defects.cli import main as cli
from metal_defects.log import logger
from metal_defects.pipeline.context import Stage
from metal_defects.pipeline.table import STAGES

WIDTH = 80
COMPONENT = (
    "def run(ctx):\n"
    "    with (ctx.out.parent / 'ran.txt').open('a') as file:\n"
    "        file.write(ctx.out.name[-1])\n"
    "    (ctx.out / 'n.txt').write_text(str(ctx.setting('training.epochs')))\n"
)
LOADED = (
    "import runpy, sys\n"
    "try:\n"
    "    runpy.run_path('main.py', run_name='__main__')\n"
    "finally:\n"
    "    heavy = {'tensorflow', 'keras', 'sklearn', 'matplotlib', 'pandas', 'onnxruntime'} & set(sys.modules)\n"
    "    print('LOADED', *sorted(heavy), file=sys.stderr)\n"
)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs the command line in this process, with every folder under `tmp_path`."""
    for variable in list(os.environ):
        if variable.startswith("METAL_DEFECTS_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("METAL_DEFECTS_ROOT", str(PROJECT))

    def run(*arguments: str) -> Answer:
        folders = [f"paths.{name}={tmp_path / name}" for name in ("artifacts", "logs", "downloads", "weights")]
        settings = [text for folder in folders for text in ("--set", folder)]
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments, *settings])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = capsys.readouterr()
        return Answer(caught.value.code or 0, printed.out, printed.err)

    yield run
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Three quick stages in place of the real ones; `ran.txt` gets the last letter of each that runs."""
    modules = ("toy_a", "toy_b", "toy_c")
    for name in modules:
        (tmp_path / f"{name}.py").write_text(COMPONENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    files = [Artifact(f"{index:02d}_{name[-1]}", "n.txt", "a number") for index, name in enumerate(modules, start=1)]
    stages = [
        Stage(file.writer, name, f"makes {name[-1]}", ("training.epochs",), tuple(files[:index][-1:]), (file,))
        for index, (name, file) in enumerate(zip(modules, files, strict=True))
    ]
    monkeypatch.setattr("metal_defects.pipeline.table.STAGES", tuple(stages))
    yield tmp_path / "artifacts" / "ran.txt"
    for name in modules:
        sys.modules.pop(name, None)


def run_process(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-c", code] if code else [sys.executable, "main.py"]
    environment = os.environ | {"COLUMNS": str(WIDTH), "PYTHONPATH": ""}
    options = {"cwd": PROJECT, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    return subprocess.run([*start, *arguments], **options)


def widest(text: str) -> str:
    """The longest line that is not about a path."""
    return max((line.rstrip() for line in text.splitlines() if "/" not in line), key=len, default="")


@pytest.mark.parametrize(
    ("arguments", "taught"),
    [
        ((), ["run", "plan", "predict", "config/config.yaml", "params.yaml", "schema.yaml"]),
        (("run",), ["Examples:", "python main.py run --data", "training.epochs=5", "--only", "--from", "--force"]),
        (("plan",), ["Examples:", "python main.py plan"]),
        (("predict",), ["Examples:", "python main.py predict", "--json"]),
    ],
    ids=["main", "run", "plan", "predict"],
)
def test_help_teaches_in_80_columns_without_heavy_imports(arguments: tuple[str, ...], taught: list[str]) -> None:
    answer = run_process(*arguments, "--help", code=LOADED)
    assert answer.returncode == 0
    for text in taught:
        assert text in answer.stdout
    assert len(max(answer.stdout.splitlines(), key=len).rstrip()) <= WIDTH
    assert answer.stderr.split() == ["LOADED"]


def test_first_plan_says_that_everything_must_run(command: Command) -> None:
    answer = command("plan")
    assert answer.code == 0
    assert answer.out.count("RUN") == len(STAGES)
    assert "no earlier result" in answer.out
    assert "after 01" in answer.out
    assert len(widest(answer.out)) <= WIDTH


def test_plan_runs_nothing_and_writes_nothing(command: Command, toys: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert command("plan").code == command("run", "--plan").code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_only_what_is_not_up_to_date_runs(command: Command, toys: Path) -> None:
    assert command("run").code == 0
    assert toys.read_text() == "abc"
    answer = command("run")
    assert toys.read_text() == "abc"
    assert "3 of 3 stages up to date" in answer.out
    assert command("plan").out.count("HIT") == 3


def test_force_runs_what_is_up_to_date(command: Command, toys: Path) -> None:
    command("run")
    assert "forced" in command("run", "--force").out
    assert toys.read_text() == "abcabc"


def test_only_runs_one_stage(command: Command, toys: Path) -> None:
    command("run")
    command("run", "--only", "02", "--force")
    assert toys.read_text() == "abcb"
    command("run", "--only", "2", "--force")
    assert toys.read_text() == "abcbb"


def test_from_runs_the_rest(command: Command, toys: Path) -> None:
    command("run")
    command("run", "--from", "02", "--force")
    assert toys.read_text() == "abcbc"


def test_later_stage_is_refused_on_stale_results(command: Command, toys: Path) -> None:
    answer = command("run", "--only", "02")
    assert answer.code == 1
    assert "01_a must run first (no earlier result)" in answer.err
    command("run")
    answer = command("run", "--only", "03", "--set", "training.epochs=3")
    assert answer.code == 1
    assert "training.epochs=3  # was 30" in answer.err
    assert toys.read_text() == "abc"


def test_plan_of_chosen_stages(command: Command, toys: Path) -> None:
    command("run")
    answer = command("run", "--plan", "--from", "02", "--force")
    assert "01_a" not in answer.out
    assert answer.out.count("forced") == 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("run", "--only", "05"), ["no stage", "01, 02, 03, 04, 06, 07", "Got '05'"]),
        (("run", "--from", "x"), ["no stage", "Got 'x'"]),
        (("run", "--only", "99", "--plan"), ["no stage", "Got '99'"]),
        (("run", "--only", "01", "--from", "02"), ["--only or --from"]),
        (("run", "--models", "resnet500"), ["model_builder.models", "resnet50", "Got 'resnet500'"]),
        (("run", "--models", "vgg16,vgg16"), ["each model may be named once"]),
        (("run", "--set", "training.epochs=0"), ["params.yaml", "training.epochs", "Got 0"]),
        (("run", "--set", "training.epochs"), ["KEY=VALUE", "Got 'training.epochs'"]),
        (("plan", "--set", "trainin.epochs=3"), ["there is no setting 'trainin.epochs'"]),
        (("run", "--only", "01", "--data", "/nowhere/at/all"), ["folder or an archive", "/nowhere/at/all"]),
        (("evaluate", "/nowhere/at/all"), ["folder of labelled images", "/nowhere/at/all"]),
    ],
)  # fmt: skip
def test_mistake_is_explained_in_one_sentence(arguments: tuple[str, ...], parts: list[str], command: Command) -> None:
    answer = command(*arguments)
    assert answer.code == 1
    for part in parts:
        assert part in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert "Traceback" not in answer.err + answer.out


@pytest.mark.parametrize("arguments", [("runn",), ("run", "--modls", "vgg16"), ("predict",)])
def test_wrong_usage_is_exit_code_2_and_shows_the_way(arguments: tuple[str, ...], command: Command) -> None:
    answer = command(*arguments)
    assert answer.code == 2
    assert "Usage" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("error", "code", "parts"),
    [
        ("ValueError('first line\\nsecond line')", 1, ["Unexpected ValueError", "first line", "log file"]),
        ("KeyboardInterrupt()", 130, ["Interrupted", "the same command"]),
        ("OSError(28, 'No space left on device', '/a/b')", 1, ["disk is full", "/a/b"]),
        ("OSError(30, 'Read-only file system', '/a/b')", 1, ["read-only", "/a/b"]),
        ("PermissionError(13, 'Permission denied', '/a/b')", 1, ["Permission denied", "/a/b"]),
        ("OSError(\"[('a', 'b', '[Errno 28] No space left on device')]\")", 1, ["disk is full"]),
        ("OSError('no number at all')", 1, ["no number at all"]),
        ("MemoryError()", 1, ["MemoryError"]),
    ],
)
def test_failing_stage_is_one_sentence_and_the_log_has_the_traceback(
    error: str, code: int, parts: list[str], command: Command, toys: Path, tmp_path: Path
) -> None:
    (tmp_path / "toy_b.py").write_text(f"def run(ctx):\n    raise {error}\n")
    answer = command("run")
    assert answer.code == code
    for part in parts:
        assert part in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert "Traceback" not in answer.err + answer.out
    log = (tmp_path / "logs" / "metal_defects.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert 'toy_b.py", line 2, in run' in log
    assert toys.read_text() == "a"


def test_mistake_before_the_log_starts_prints_no_traceback() -> None:
    answer = run_process("run", "--set", "training.epochs=none")
    assert answer.returncode == 1
    assert len(answer.stderr.strip().splitlines()) == 1
    assert "'training.epochs'" in answer.stderr


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"null", b"\xff\xfe\x00", b'{"inputs": {}}'])
def test_damaged_record_of_a_stage_means_that_it_runs_again(content: bytes, command: Command, toys: Path) -> None:
    command("run")
    (toys.parent / "02_b" / "stage.json").write_bytes(content)
    answer = command("plan")
    assert answer.code == 0
    assert answer.out.count("HIT") == 1
    assert command("run").code == 0
    assert toys.read_text() == "abcb"


def test_main_without_a_command_runs_everything(
    command: Command, toys: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("artifacts", "logs"):
        monkeypatch.setenv(f"METAL_DEFECTS__PATHS__{name.upper()}", str(tmp_path / name))
    monkeypatch.setattr(sys, "argv", ["main.py"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert toys.read_text() == "abc"


def test_full_disk_in_a_library_is_told_as_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("{{function_node __wrapped__}} a.snapshot; No space left on device [Op:SaveDatasetV2]")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "The disk is full" in capsys.readouterr().err


@pytest.mark.usefixtures("usual_interrupts")
@pytest.mark.parametrize("error", [RuntimeError("Error calling __set_name__"), OSError(5, "Input/output error")])
def test_interrupt_that_became_another_error_is_told_as_one(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as interrupt:
            raise error from interrupt

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err.startswith("Interrupted.")


def test_tensorflow_gets_the_threads_that_the_container_has_cores_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    monkeypatch.setenv(names[0], "7")
    monkeypatch.setenv(names[1], "")
    monkeypatch.delenv(names[1])
    monkeypatch.setattr(cli, "count_cores", lambda: 3)
    command("run", "--plan")
    assert [os.environ[name] for name in names] == ["7", "3"]

"""The runner: caching, atomic artifacts, locks, and what happens when a stage fails."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from metal_defects.artifacts import Artifact
from metal_defects.config import Settings
from metal_defects.errors import BusyError, UserError
from metal_defects.files import read_json, write_json
from metal_defects.pipeline.context import ContractError, Outside, Stage
from metal_defects.pipeline.runner import plan, read_history, require_current, run_stages
from metal_defects.system import remember_interrupts

COMPONENTS = {
    "toy_first": "def run(ctx):\n    (ctx.out / 'n.txt').write_text(str(ctx.setting('training.epochs') // 10))\n",
    "toy_second": (
        "def run(ctx):\n"
        "    from test_runner_artifacts import NUMBER\n"
        "    n = ctx.path(NUMBER).read_text()\n"
        "    (ctx.out / 'double.txt').write_text(n * 2)\n"
    ),
    "test_runner_artifacts": (
        "from metal_defects.artifacts import Artifact\nNUMBER = Artifact('01_first', 'n.txt', 'a number')\n"
    ),
}
NUMBER = Artifact("01_first", "n.txt", "a number")
DOUBLE = Artifact("02_second", "double.txt", "the same twice")
FIRST = Stage("01_first", "toy_first", "writes", ("training.epochs",), (), (NUMBER,))
SECOND = Stage("02_second", "toy_second", "doubles", ("seed",), (NUMBER,), (DOUBLE,))
STAGES = (FIRST, SECOND)


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "toys"
    folder.mkdir()
    for name, source in COMPONENTS.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in COMPONENTS:
        sys.modules.pop(name, None)


def hits(statuses: list) -> list[bool]:
    return [status.hit for status in statuses]


def test_second_run_is_all_hit(toys: Path, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    assert hits(plan(STAGES, settings)) == [False, False]
    run_stages(STAGES, settings)
    assert (settings.config.paths.artifacts / "02_second" / "double.txt").read_text() == "33"
    assert hits(plan(STAGES, settings)) == [True, True]
    assert hits(run_stages(STAGES, settings)) == [True, True]


def test_plan_names_first_cause_and_followers(toys: Path, make_settings: Callable[..., Settings]) -> None:
    run_stages(STAGES, make_settings())
    first, second = plan(STAGES, make_settings("training.epochs=50"))
    assert first.cause == "training.epochs=50  # was 30"
    assert second.cause == "after 01"


def test_stage_is_not_repeated_when_its_input_comes_out_the_same(
    toys: Path, make_settings: Callable[..., Settings]
) -> None:
    run_stages(STAGES, make_settings())
    assert hits(run_stages(STAGES, make_settings("training.epochs=31"))) == [False, True]


def test_seed_reaches_only_the_stage_that_reads_it(toys: Path, make_settings: Callable[..., Settings]) -> None:
    run_stages(STAGES, make_settings())
    assert hits(plan(STAGES, make_settings("seed=7"))) == [True, False]


@pytest.mark.parametrize("damage", ["alter", "delete", "unlock"])
def test_damaged_artifact_is_noticed(damage: str, toys: Path, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    run_stages(STAGES, settings)
    folder = settings.config.paths.artifacts / "01_first"
    if damage == "alter":
        (folder / "n.txt").write_text("9")
    elif damage == "delete":
        (folder / "n.txt").unlink()
    else:
        (folder / "stage.json").write_text("{")
    assert hits(plan(STAGES, settings)) == [False, False]
    run_stages(STAGES, settings)
    assert (folder / "n.txt").read_text() == "3"


def test_failing_stage_keeps_the_old_result_and_stops(toys: Path, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    run_stages(STAGES, settings)
    broken = "def run(ctx):\n    (ctx.out / 'n.txt').write_text('torn')\n    raise ValueError\n"
    (toys / "toy_first.py").write_text(broken)
    sys.modules.pop("toy_first")
    with pytest.raises(ValueError):
        run_stages(STAGES, make_settings("training.epochs=50", "seed=7"))
    artifacts = settings.config.paths.artifacts
    assert (artifacts / "01_first" / "n.txt").read_text() == "3"
    assert (artifacts / "02_second" / "double.txt").read_text() == "33"


def test_missing_output_is_an_error(toys: Path, make_settings: Callable[..., Settings]) -> None:
    (toys / "toy_first.py").write_text("def run(ctx):\n    pass\n")
    with pytest.raises(RuntimeError, match=r"did not write n\.txt"):
        run_stages(STAGES, make_settings())
    assert not (make_settings().config.paths.artifacts / "01_first").exists()


def test_resume_folder_survives_a_crash_and_goes_after_success(
    toys: Path, make_settings: Callable[..., Settings]
) -> None:
    source = (
        "def run(ctx):\n"
        "    marker = ctx.resume / 'seen'\n"
        "    seen = marker.exists()\n"
        "    marker.touch()\n"
        "    if not seen:\n"
        "        raise KeyboardInterrupt\n"
        "    (ctx.out / 'n.txt').write_text('resumed')\n"
    )
    (toys / "toy_first.py").write_text(source)
    settings = make_settings()
    with pytest.raises(KeyboardInterrupt):
        run_stages((FIRST,), settings)
    run_stages((FIRST,), settings)
    artifacts = settings.config.paths.artifacts
    assert (artifacts / "01_first" / "n.txt").read_text() == "resumed"
    assert not list((artifacts / ".resume").iterdir())
    assert not list(artifacts.glob(".partial-*"))


@pytest.mark.usefixtures("usual_interrupts")
def test_interrupt_that_a_library_swallowed_still_ends_the_stage(
    toys: Path, make_settings: Callable[..., Settings]
) -> None:
    source = (
        "import contextlib, signal\n"
        "def run(ctx):\n"
        "    with contextlib.suppress(KeyboardInterrupt):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    (ctx.out / 'n.txt').write_text('incomplete')\n"
    )
    (toys / "toy_first.py").write_text(source)
    settings = make_settings()
    remember_interrupts()
    with pytest.raises(KeyboardInterrupt):
        run_stages((FIRST,), settings)
    assert not (settings.config.paths.artifacts / "01_first").exists()
    (toys / "toy_first.py").write_text(COMPONENTS["toy_first"])
    sys.modules.pop("toy_first")
    remember_interrupts()
    run_stages((FIRST,), settings)
    assert (settings.config.paths.artifacts / "01_first" / "n.txt").read_text() == "3"


def test_second_run_on_the_same_artifacts_is_refused(toys: Path, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    artifacts = settings.config.paths.artifacts
    artifacts.mkdir()
    with FileLock(artifacts / ".lock"), pytest.raises(BusyError, match="Another run"):
        run_stages(STAGES, settings)


def test_later_stage_alone_needs_current_inputs(toys: Path, make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(UserError, match="01_first must run first"):
        require_current((FIRST,), make_settings())
    run_stages((FIRST,), make_settings())
    require_current((FIRST,), make_settings())


def test_code_change_is_a_cause(toys: Path, make_settings: Callable[..., Settings]) -> None:
    run_stages(STAGES, make_settings())
    path = toys / "toy_second.py"
    path.write_text(path.read_text() + "changed = True\n")
    first, second = plan(STAGES, make_settings())
    assert first.hit
    assert second.cause == "code of toy_second changed"


@pytest.mark.parametrize(
    ("asks", "column", "name"),
    [
        ("ctx.setting('training.batch_size')", "settings", "training.batch_size"),
        ("ctx.setting('training')", "settings", "training"),
        ("ctx.path(Artifact('02_second', 'double.txt', ''))", "reads", "02_second/double.txt"),
        ("ctx.outside(Outside('weights', dict, dict))", "outside", "weights"),
    ],
)
def test_stage_is_refused_what_its_row_lacks(
    asks: str, column: str, name: str, toys: Path, make_settings: Callable[..., Settings]
) -> None:
    source = (
        "from metal_defects.artifacts import Artifact\n"
        "from metal_defects.pipeline.context import Outside\n"
        f"def run(ctx):\n    {asks}\n"
    )
    (toys / "toy_first.py").write_text(source)
    with pytest.raises(ContractError, match=f"01_first asked for {name}.*add it to `{column}`"):
        run_stages((FIRST,), make_settings())


def test_lock_file_says_what_the_stage_asked_for(toys: Path, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    run_stages(STAGES, settings)
    locks = [read_json(settings.config.paths.artifacts / stage.name / "stage.json") for stage in STAGES]
    assert [lock["asked_for"]["settings"] for lock in locks] == [["training.epochs"], []]
    assert [lock["asked_for"]["reads"] for lock in locks] == [[], ["01_first/n.txt"]]


def test_what_lies_outside_is_a_cause_and_is_handed_out(
    toys: Path, tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    place = tmp_path / "weights.h5"
    (toys / "toy_first.py").write_text(
        "def run(ctx):\n    import outside_thing\n"
        "    (ctx.out / 'n.txt').write_text(str(ctx.outside(outside_thing.THING)))\n"
    )
    thing = Outside("weights", lambda _: {"there": place.exists()}, lambda _: place.exists())
    sys.modules["outside_thing"] = SimpleNamespace(THING=thing)
    stage = replace(FIRST, outside=(thing,))
    settings = make_settings()
    run_stages((stage,), settings)
    assert plan((stage,), settings)[0].hit
    place.touch()
    assert plan((stage,), settings)[0].cause == "weights (there) changed"
    run_stages((stage,), settings)
    assert (settings.config.paths.artifacts / "01_first" / "n.txt").read_text() == "True"
    place.unlink()
    assert not plan((stage,), settings)[0].hit


def test_history_names_the_stages_that_have_run(toys: Path, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    run_stages(STAGES, settings)
    assert [one.stage for one in read_history(settings.config.paths.artifacts)] == ["01_first", "02_second"]


def test_record_of_another_version_is_no_result(toys: Path, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    run_stages(STAGES, settings)
    lock = settings.config.paths.artifacts / "01_first" / "stage.json"
    record = read_json(lock)
    del record["asked_for"]
    write_json(lock, record)
    assert plan(STAGES, settings)[0].cause == "no earlier result"

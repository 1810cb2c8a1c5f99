"""Stage 10: reads what its row names, all of it, and writes what was found."""

from collections.abc import Callable
from pathlib import Path

from support.findings import make_findings, write_findings

from metal_defects.artifacts import EXPORT, REPORT
from metal_defects.components import c10_report
from metal_defects.config import Settings
from metal_defects.files import write_json
from metal_defects.pipeline.context import StageContext
from metal_defects.pipeline.table import STAGES
from metal_defects.report.document import write_report
from metal_defects.report.findings import StageRecord

STAGE = next(stage for stage in STAGES if stage.name == REPORT)


def test_report_of_the_files_is_the_report_of_the_findings(
    tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings("seed=7")
    artifacts = settings.config.paths.artifacts
    made = (StageRecord("09_model_export", 1.5, "2026-01-02T03:04:05+00:00"),)
    found = make_findings(artifacts, command="python main.py run --set seed=7", made=made)
    write_findings(artifacts, found)
    for stage in (EXPORT, REPORT):
        # An earlier report must leave no trace in this one.
        lock = {"inputs": {}, "outputs": {}, "asked_for": {}, "seconds": 1.5, "finished": made[0].finished}
        write_json(artifacts / stage / "stage.json", lock)
    out, expected = tmp_path / "out", tmp_path / "expected"
    context = StageContext(STAGE, settings, out, tmp_path / "resume")
    c10_report.run(context)
    write_report(found, expected)
    for name in ("report.html", "model_card.md"):
        assert (out / name).read_text("utf-8") == (expected / name).read_text("utf-8")
    assert context.used.reads == {artifact.name for artifact in STAGE.reads}
    assert context.used.settings == set(STAGE.settings)
    # Templates are found beside the code.
    assert context.used.outside == {thing.name for thing in STAGE.outside if thing.get}

"""The table of stages tells all that is read and written: held against what a whole run asked for."""

from typing import Any

import pytest
from support.workshop import Workshop

from metal_defects import artifacts as a
from metal_defects.pipeline.context import Stage
from metal_defects.pipeline.table import STAGES, readers

# For people and other programs: no later stage reads them.
END_PRODUCTS = {
    a.SNAPSHOTS,
    a.PREPROCESSOR,
    a.OVERLAPS,
    a.OVERLAPS_PLOT,
    a.SUMMARIES,
    a.DIAGRAMS,
    a.LEADERBOARD_TABLE,
    a.TUNED_KERAS,
    a.TRIALS,
    a.BUNDLE,
    a.PARITY,
    a.REPORT_PAGE,
    a.MODEL_CARD,
}
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def read_asked_for(finished: Workshop, stage: Stage) -> dict[str, Any]:
    return finished.read(f"{stage.name}/stage.json")["asked_for"]


@each_stage
def test_stage_asks_for_all_that_its_row_names_and_for_nothing_else(stage: Stage, finished: Workshop) -> None:
    asked = read_asked_for(finished, stage)
    assert set(asked["settings"]) == set(stage.settings)
    assert set(asked["reads"]) == {artifact.name for artifact in stage.reads}
    assert set(asked["outside"]) == {thing.name for thing in stage.outside if thing.get is not None}


@each_stage
def test_stage_reads_what_earlier_ones_write(stage: Stage) -> None:
    earlier = {one.name for one in STAGES[: STAGES.index(stage)]}
    assert {artifact.writer for artifact in stage.reads} <= earlier
    assert {artifact.writer for artifact in stage.writes} == {stage.name}


@pytest.mark.parametrize("artifact", a.ARTIFACTS, ids=lambda artifact: artifact.name)
def test_artifact_is_written_and_has_a_reader(artifact: a.Artifact, finished: Workshop) -> None:
    folder = finished.artifacts / artifact.writer
    assert list(folder.glob(artifact.file)) if artifact.file != "." else folder.is_dir()
    assert [file for file in artifact.known_by if not (folder / file).is_file()] == []
    assert bool(list(readers(artifact))) != (artifact in END_PRODUCTS)

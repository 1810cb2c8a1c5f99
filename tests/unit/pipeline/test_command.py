"""The command line that repeats a run."""

from collections.abc import Callable

from metal_defects.config import Settings
from metal_defects.pipeline.command import repeat_command


def test_command_names_what_differs_from_the_files(make_settings: Callable[..., Settings]) -> None:
    assert repeat_command(make_settings()) == "python main.py run"
    settings = make_settings("training.epochs=5", "data.path=../my steel", "classes=auto")
    assert repeat_command(settings) == (
        "python main.py run --data '../my steel' --set training.epochs=5 --set 'classes=\"auto\"'"
    )

"""The command line.

TensorFlow is imported by the stages alone, so help and plans come at once; nothing of the pipeline is imported before
a command needs it, so serving runs without the training requirements.
"""

import errno
import os
import sys

import typer

from metal_defects.cli.evaluate import evaluate
from metal_defects.cli.predict import predict
from metal_defects.cli.priors import priors
from metal_defects.cli.run import run, show_plan
from metal_defects.cli.serve import serve
from metal_defects.errors import UserError
from metal_defects.log import logger
from metal_defects.system import count_cores, remember_interrupts, was_interrupted

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130
INTERRUPTED = "Interrupted. Finished stages are kept; the same command goes on from there."
DISK_ERRORS = {
    errno.ENOSPC: "The disk is full. Free some space",
    errno.EDQUOT: "The disk quota is used up. Free some space",
    errno.EROFS: "The folder is on a read-only disk. Choose another with --set paths.artifacts=FOLDER",
    errno.EACCES: "Permission denied. Change the permissions or choose another folder",
    errno.ENOENT: "A file or folder is gone. Put it back",
    errno.EFBIG: "The file grew over the allowed size. Raise the limit",
}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "From a folder of surface images to a tuned, tested defect classifier.\n\n"
        "Without a command, every stage runs in order; what is up to date is skipped."
    ),
    epilog="Settings: config/config.yaml (where), params.yaml (how), schema.yaml (the classes).",
)


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        run()


app.command()(run)
app.command("plan")(show_plan)
app.command()(predict)
app.command()(evaluate)
app.command()(priors)
app.command()(serve)


def main() -> None:
    """Entry point: mistakes of the user become one sentence and a non-zero exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    for pool in ("INTRAOP", "INTEROP"):  # by itself TensorFlow counts the host's cores, not the container's share
        os.environ.setdefault(f"TF_NUM_{pool}_THREADS", str(count_cores()))
    remember_interrupts()
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except SystemExit as error:  # typer makes one of Ctrl-C, without a word
        if error.code != EXIT_INTERRUPTED:
            raise
        _fail(INTERRUPTED, EXIT_INTERRUPTED)
    except OSError as error:
        # Copying a folder gathers the errors of its files in one of its own, without a number.
        is_full = error.errno is None and os.strerror(errno.ENOSPC) in str(error)
        number = errno.ENOSPC if is_full else error.errno or 0
        advice = DISK_ERRORS.get(number, f"{type(error).__name__}: {error.strerror or error}")
        _fail(f"{advice}. Got {error.filename or str(error).splitlines()[0]}.")
    except Exception as error:
        first_line = str(error).splitlines()[0] if str(error) else ""
        # TensorFlow and Keras Tuner wrap the operating system's error in their own.
        if os.strerror(errno.ENOSPC) in str(error):
            _fail(f"{DISK_ERRORS[errno.ENOSPC]}. Got {type(error).__name__}.")
        _fail(f"Unexpected {type(error).__name__}: {first_line} (the full traceback is in the log file).")


def _fail(message: str, code: int = EXIT_ERROR) -> None:
    if was_interrupted():  # whatever error Python or a library has made of it
        message, code = INTERRUPTED, EXIT_INTERRUPTED
    if logger.handlers:
        logger.error("failed: %s", message, exc_info=True)
    typer.secho(message, fg=typer.colors.RED, err=True)
    sys.exit(code)

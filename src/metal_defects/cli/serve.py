"""The command `serve`."""

from pathlib import Path
from typing import Annotated

import typer

from metal_defects.config import find_root, load_settings


def serve(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; default: serving.host, this machine alone.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", envvar="PORT", help="Port to listen on; default: serving.port.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="DIR", help="Model to serve; default: your own, else the shipped one."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on a public address without an API key.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as [b]serving.max_files=8[/b]."),
    ] = None,
) -> None:
    """Answer over HTTP; try http://127.0.0.1:8000/docs once it runs.

    The environment variable METAL_DEFECTS_API_KEY sets the key that every call but the health checks must show.
    """
    from metal_defects.api.server import run_server

    texts = list(overrides or [])
    texts += [] if host is None else [f"serving.host='{host}'"]
    texts += [] if port is None else [f"serving.port={port}"]
    run_server(load_settings(find_root(), texts), bundle, insecure)

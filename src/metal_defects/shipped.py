"""Data files: the settings and the model that come with the program, in a checkout or in an installed package."""

from collections.abc import Iterator
from pathlib import Path

from metal_defects.errors import ConfigError

DISTRIBUTION = "metal-defects"
SHARE = "share/metal-defects"  # of an installed package, as pyproject.toml declares it
_PACKAGE = Path(__file__).resolve().parent


def find_shipped(name: str) -> Path:
    """The file or folder of this name among those that come with the program.

    Args:
        name: path below the top of the project, such as "params.yaml" or "bundles/neu".

    Returns:
        Where it is on this machine; absolute.

    Raises:
        ConfigError: it is neither in a checkout nor among the files that were installed.
    """
    for folder in _list_folders():
        if (folder / name).exists():
            return folder / name
    raise ConfigError(f"{DISTRIBUTION} must come with '{name}'; install it again. Got no such file beside {_PACKAGE}.")


def _list_folders() -> Iterator[Path]:
    """Folders that may hold the files, the likeliest first."""
    checkout = _PACKAGE.parents[1]
    # What stands above an installed package belongs to others.
    if checkout / "src" / "metal_defects" == _PACKAGE and (checkout / "pyproject.toml").is_file():
        yield checkout
    # The record of the installation knows more than sys.prefix: `--user` and `--prefix` put files elsewhere.
    from importlib.metadata import PackageNotFoundError, files

    try:
        recorded = files(DISTRIBUTION) or []
    except PackageNotFoundError:
        recorded = []
    yield from (Path(str(path.locate())).resolve().parent for path in recorded if path.match(f"{SHARE}/schema.yaml"))
    yield _PACKAGE.parent / SHARE  # `pip install --target` moves files after it has recorded them

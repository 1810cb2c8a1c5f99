"""Dependencies of the package, read from the requirements files; the rest is declared in pyproject.toml."""

from pathlib import Path

from setuptools import setup


def read_requirements(*names: str) -> list[str]:
    """Requirement lines of the files, without comments and pip's options, which setuptools does not know."""
    lines = [line for name in names for line in Path(name).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "-"))]


setup(
    install_requires=read_requirements("requirements-base.txt", "requirements.txt"),
    extras_require={"test": read_requirements("requirements-test.txt")},
)

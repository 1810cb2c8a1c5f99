"""Dependencies of the package, read from the requirements files; the rest is declared in pyproject.toml."""

from pathlib import Path

from setuptools import setup


def read_requirements(*names: str) -> list[str]:
    """Packages that the files name, without the options for pip, which package metadata cannot hold."""
    texts = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "-"))]


setup(
    install_requires=read_requirements("requirements-base.txt", "requirements.txt"),
    extras_require={
        "serve": read_requirements("requirements-serve.txt"),
        "test": read_requirements("requirements-serve.txt", "requirements-test.txt"),
    },
)

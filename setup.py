"""Lets tools without PEP 517 support install the package; everything is declared in pyproject.toml."""

from setuptools import setup

setup()

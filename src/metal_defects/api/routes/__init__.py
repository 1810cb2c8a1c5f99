"""The routes. Every module of this folder with a `router` is served: a new endpoint needs no list."""

from importlib import import_module
from pkgutil import iter_modules

from fastapi import APIRouter

ROUTERS: tuple[APIRouter, ...] = tuple(
    import_module(f"{__name__}.{module.name}").router for module in iter_modules(__path__)
)

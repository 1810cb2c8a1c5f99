"""Whether the process lives, and whether calls should be sent to it."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from metal_defects.api.schemas import Health
from metal_defects.api.service import TheService

router = APIRouter()


@router.get("/healthz", summary="Is the process alive?", response_model=Health)
async def health() -> Response:
    """Answers 200 as long as the process can answer. Needs no key."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", summary="Should calls be sent here?", response_model=Health, responses={503: {"model": Health}})
async def ready(service: TheService) -> Response:
    """Answers 503 once the server was told to stop. Needs no key."""
    if service.is_draining:
        return JSONResponse({"status": "stopping"}, 503)
    return JSONResponse({"status": "ready"})

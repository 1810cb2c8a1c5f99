"""What operators watch."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from metal_defects.api.schemas import REFUSALS
from metal_defects.api.service import TheService

router = APIRouter()


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}, 401: REFUSALS[401]},
)
async def metrics(service: TheService) -> Response:
    """Calls, images by label and error, times, waiting images, memory."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

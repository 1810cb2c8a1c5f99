"""What is being served."""

from fastapi import APIRouter, Response

from metal_defects.api.schemas import REFUSALS, Limits, ModelCard
from metal_defects.api.service import TheService

router = APIRouter()


@router.get("/v1/model", summary="What is being served", response_model=ModelCard, responses={401: REFUSALS[401]})
async def model(service: TheService) -> Response:
    """The model's names, data, metrics and limits."""
    card, limits = service.bundle.card, service.limits
    own = {name: getattr(card, name) for name in ModelCard.model_fields if name in type(card).model_fields}
    described = ModelCard(
        **own,
        hash=service.bundle.hash,
        notice=service.bundle.notice,
        limits=Limits(**{name: getattr(limits, name) for name in Limits.model_fields}),
    )
    # What the bundle leaves out is left out here too, as in its file.
    return Response(described.model_dump_json(exclude_unset=True), media_type="application/json")

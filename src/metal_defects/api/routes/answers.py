"""Images in, answers or pictures out."""

from fastapi import APIRouter, Request, Response

from metal_defects.api.schemas import HEATMAP_ANSWERS, HEATMAP_BODY, PREDICT_BODY, REFUSALS, Answer, ModelName
from metal_defects.api.service import TheService

router = APIRouter()


@router.post(
    "/v1/predict",
    summary="Classify one or many images",
    response_model=Answer,
    responses=REFUSALS,
    openapi_extra={"requestBody": PREDICT_BODY},
)
async def predict(request: Request, service: TheService) -> Response:
    """Answers come in the order of the files, good ones beside bad ones.

    The status is 200 when at least one file was classified. When none was, it says what they have in common
    (413 too large, 415 not a known image, else 422), and `error` and `results` say more.
    """
    results = await service.predict(request)
    answer = Answer.model_construct(
        request_id=request.state.call.request_id,
        model=ModelName(name=service.bundle.card.name, hash=service.bundle.hash),
        notice=service.bundle.notice,
        results=results,
    )
    return Response(answer.model_dump_json(), media_type="application/json")


@router.post(
    "/v1/heatmap",
    summary="Show where the model looked",
    response_class=Response,
    responses=HEATMAP_ANSWERS,
    openapi_extra={"requestBody": HEATMAP_BODY},
)
async def heat_map(request: Request, service: TheService) -> Response:
    """The image with a heat map over it, yellow to red, and boxes around what was found: a PNG file."""
    return Response(await service.paint(request), media_type="image/png")

"""The REST API and its pages."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, FastAPI, Query, Request
from numpy.typing import NDArray
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, Response

from pocket_resnet.data.image import ImageError
from pocket_resnet.device import num_cores
from pocket_resnet.serving import pages, problems, uploads
from pocket_resnet.serving.batching import MAX_NUM_WORKERS, Batcher, ProbabilitiesOrError
from pocket_resnet.serving.guard import Guard, Hosts
from pocket_resnet.serving.metrics import CONTENT_TYPE, Metrics
from pocket_resnet.serving.problems import MAX_TOP, Problem, RequestError
from pocket_resnet.serving.served_model import ServedModel
from pocket_resnet.serving.uploads import Uploads
from pocket_resnet.version import __version__


class RankedClass(BaseModel):
    """A class and its probability, 0 to 1."""

    label: str
    probability: float


class PicturePrediction(RankedClass):
    """The most probable class of a picture, and the first few in order."""

    top: list[RankedClass]


class Predictions(BaseModel):
    """One prediction for each picture, in the order of the request."""

    predictions: list[PicturePrediction]


class ModelDescription(BaseModel):
    """The model that the server uses."""

    runtime: Literal["torch", "onnxruntime"]
    class_names: tuple[str, ...]
    image_size: int
    facts: Mapping[str, str]


class Health(BaseModel):
    """The state of the server."""

    status: Literal["ok"] = "ok"


@dataclass
class Service:
    """State that the routes share."""

    model: ServedModel
    batcher: Batcher
    metrics: Metrics
    uploads: Uploads = field(default_factory=Uploads)


router = APIRouter()


def create_app(model: ServedModel, hosts: Hosts | None = None) -> FastAPI:
    """The app for a model, by default for clients on this machine. It classifies in one thread per core."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        num_workers = min(num_cores(), MAX_NUM_WORKERS)
        batcher = Batcher(model.classify, model.image_size, num_workers=num_workers, on_batch=metrics.observe_batch)
        metrics.watch_waiting(lambda: batcher.num_waiting)
        app.state.service = Service(model, batcher, metrics)
        yield
        batcher.stop()

    app = FastAPI(
        title="PocketResNet",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=[Middleware(Guard, hosts=hosts or Hosts(), metrics=metrics)],
    )
    problems.install(app)
    app.include_router(router)
    return app


_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {
            "pictures": {
                "type": "array",
                "items": {"type": "string", "format": "binary"},
                "minItems": 1,
                "maxItems": uploads.MAX_NUM_PICTURES,
            }
        },
        "required": ["pictures"],
        "additionalProperties": False,
    }
}
_BODY = {"required": True, "content": {**dict.fromkeys(uploads.ONE, _PICTURE), uploads.SEVERAL: _FORM}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Not a whole picture, or a broken form"},
    403: {"model": Problem, "description": "A foreign host name or origin"},
    413: {"model": Problem, "description": f"Over {uploads.MAX_BODY_BYTES:,} bytes"},
    415: {"model": Problem, "description": "Another content type"},
    422: {"model": Problem, "description": f"`top` is not a whole number from 1 to {MAX_TOP}"},
    500: {"model": Problem, "description": "An internal error, with an id for the server's log"},
    503: {"model": Problem, "description": "Too many pictures are waiting; Retry-After says when to try again"},
}


@router.post("/v1/predict", responses=_REFUSALS, openapi_extra={"requestBody": _BODY})
async def predict(request: Request, top: Annotated[int, Query(ge=1, le=MAX_TOP)] = 3) -> Predictions:
    """Classify one picture, sent as its bytes, or several, sent as the files of a form.

    `top` is the number of classes to list for each picture, at most all of the model's.
    """
    service: Service = request.app.state.service
    async with service.uploads.pictures(request) as contents:
        outcomes = await service.batcher.outcomes(contents)
    names = service.model.class_names
    return Predictions(
        predictions=[
            _prediction(_probabilities(outcome, f"picture {number}: " if len(outcomes) > 1 else ""), names, top)
            for number, outcome in enumerate(outcomes, 1)
        ]
    )


@router.get("/v1/model")
async def describe_model(request: Request) -> ModelDescription:
    """The model's classes, and how it was made."""
    model: ServedModel = request.app.state.service.model
    return ModelDescription(
        runtime=model.runtime, class_names=model.class_names, image_size=model.image_size, facts=model.facts
    )


@router.get("/health")
async def health() -> Health:
    """Whether the server answers."""
    return Health()


@router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE: {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus metrics: requests, times, batch sizes and waiting pictures."""
    return Response(request.app.state.service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """A page that classifies a picture."""
    return HTMLResponse(pages.classify(request.app.state.service.model))


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """A page about the API, generated from its description."""
    return HTMLResponse(pages.docs(request.app.openapi()))


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str) -> Response:
    """The script and the style of the pages."""
    file = pages.STATIC.get(name)
    if file is None:
        raise RequestError(404, "not found", hint="see /docs")
    return Response(file.content, media_type=file.media_type)


def _probabilities(outcome: ProbabilitiesOrError, where: str) -> NDArray[np.float32]:
    """The probabilities of a picture. Raises RequestError if it is not a picture."""
    if isinstance(outcome, ImageError):
        raise RequestError(400, where + outcome.what, hint="send a whole picture in a common format")
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _prediction(probabilities_K: NDArray[np.float32], names: tuple[str, ...], top: int) -> PicturePrediction:
    order_K = np.argsort(-probabilities_K, kind="stable")[:top]
    ranked = [RankedClass(label=names[index], probability=float(probabilities_K[index])) for index in order_K]
    return PicturePrediction(label=ranked[0].label, probability=ranked[0].probability, top=ranked)

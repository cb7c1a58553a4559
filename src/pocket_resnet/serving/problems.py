"""The API's errors: JSON with the problem and how to fix it, but without details of the server."""

import secrets
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pocket_resnet.errors import PocketError
from pocket_resnet.serving.batching import BusyError

RETRY_AFTER_S = 1
MAX_TOP = 1_000  # maximum of the parameter `top`


class Problem(BaseModel):
    """Why a request was refused."""

    error: str
    """What is wrong."""
    hint: str | None = None
    """How to fix it."""
    id: str | None = None
    """For an internal error, the id that is also in the server's log."""


class RequestError(PocketError):
    """A request that the API refuses with this HTTP status."""

    def __init__(self, status: int, what: str, *, hint: str) -> None:
        super().__init__(what, hint=hint)
        self.status = status


def respond(status: int, problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """The response for a problem."""
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers)


def internal_error() -> tuple[str, Response]:
    """An id for the log, and a response that reveals nothing else."""
    error_id = secrets.token_hex(4)
    return error_id, respond(500, Problem(error="internal error", hint="ask the server's operator", id=error_id))


def install(app: FastAPI) -> None:
    """Make the app return all its errors as problems."""
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(HTTPException, _of_routing)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _refused(_: Request, error: Any) -> Response:
    return respond(error.status, Problem(error=error.what, hint=error.hint))


async def _busy(_: Request, __: Exception) -> Response:
    problem = Problem(error="too many pictures are waiting", hint="try again later")
    return respond(503, problem, {"Retry-After": str(RETRY_AFTER_S)})


async def _of_routing(_: Request, error: Any) -> Response:
    """No such path or method."""
    return respond(error.status_code, Problem(error=str(error.detail).lower(), hint="see /docs"), error.headers)


async def _invalid(_: Request, error: Any) -> Response:
    """A parameter out of range: `top` is the only one."""
    detail = error.errors()[0]
    problem = Problem(error=f"{detail['loc'][-1]}: {detail['msg'].lower()}", hint=f"use 1 to {MAX_TOP}")
    return respond(422, problem)

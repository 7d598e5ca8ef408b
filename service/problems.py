"""The only place that knows status codes of errors: one table, rendered as RFC 9457 problems."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from indexer import errors as data
from recognition import errors as vision
from service import errors as edge

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
CLIENT_CLOSED = 499
DATABASE_RETRY_S = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """How one type of error is told; `slug` is the stable end of the problem's `type`."""

    status: int
    slug: str
    title: str
    retry_after: int | None = None


TABLE: Mapping[type[Exception], Problem] = MappingProxyType(
    {
        vision.UndecodableImage: Problem(422, "undecodable-image", "The image cannot be decoded"),
        vision.ImageTooLarge: Problem(413, "image-too-large", "The image is too large"),
        vision.NoFace: Problem(422, "no-face", "No face was found"),
        vision.SpoofDetected: Problem(422, "spoof-detected", "A face does not look live"),
        vision.CannotJudge: Problem(422, "unsupported-option", "The option cannot be used here"),
        vision.UnknownName: Problem(422, "unknown-name", "There is nothing of that name"),
        vision.WeightsMissing: Problem(503, "weights-missing", "Model weights are missing", 60),
        vision.ModelUnavailable: Problem(503, "model-unavailable", "The model cannot be used", 60),
        vision.NoThreshold: Problem(422, "no-threshold", "There is no threshold for that metric"),
        vision.LicenceRefused: Problem(403, "licence-refused", "The licence is not accepted"),
        vision.BadWeights: Problem(503, "bad-weights", "Model weights are damaged", 60),
        vision.RecognitionError: Problem(500, "recognition-failed", "Recognition failed"),
        data.DatabaseUnavailable: Problem(
            503, "database-unavailable", "The database is not available", DATABASE_RETRY_S
        ),
        data.NotFound: Problem(404, "not-found", "Not found"),
        data.Conflict: Problem(409, "conflict", "Conflict with what is stored"),
        data.EmptyGallery: Problem(409, "empty-gallery", "The gallery is empty"),
        data.VersionAhead: Problem(409, "version-ahead", "There is no such version"),
        data.InvalidName: Problem(422, "invalid-name", "The name cannot be used"),
        data.InvalidFilter: Problem(422, "invalid-filter", "The filter cannot be understood"),
        data.TooManyVanished: Problem(409, "too-many-vanished", "Too many files are gone"),
        data.Cancelled: Problem(409, "cancelled", "The run was cancelled"),
        data.KeyMissing: Problem(
            503, "template-key-missing", "The key of the gallery is missing", 60
        ),
        data.BadKey: Problem(503, "bad-template-key", "The key cannot be used", 60),
        data.CannotReembed: Problem(409, "cannot-reembed", "Too many originals are gone"),
        data.IndexerError: Problem(500, "indexing-failed", "The data could not be handled"),
        edge.Overloaded: Problem(503, "overloaded", "The server is overloaded"),
        edge.ClientGone: Problem(CLIENT_CLOSED, "client-gone", "The client went away"),
        edge.RequestTooLarge: Problem(413, "request-too-large", "The request is too large"),
        edge.BodyTooSlow: Problem(408, "body-too-slow", "The request took too long to arrive"),
        edge.MalformedBody: Problem(400, "malformed-body", "The body cannot be parsed"),
        edge.UnsupportedBody: Problem(415, "unsupported-body", "The body's type is not supported"),
        edge.InvalidRequest: Problem(422, "invalid-request", "The request is not valid"),
        edge.UnsupportedOption: Problem(
            422, "unsupported-option", "The option cannot be used here"
        ),
        edge.ImageSourceRefused: Problem(
            403, "image-source-refused", "The image cannot be had from there"
        ),
        edge.ImageFetchFailed: Problem(422, "image-fetch-failed", "The URL gave no image"),
        edge.PathRefused: Problem(403, "path-refused", "The folder may not be indexed"),
        edge.NothingEnrolled: Problem(422, "nothing-enrolled", "No file could be enrolled"),
        edge.NothingEnrolledTooLarge: Problem(
            413, "nothing-enrolled-too-large", "All files are too large"
        ),
        edge.Unauthorized: Problem(401, "unauthorized", "An API key is needed"),
        edge.Forbidden: Problem(403, "forbidden", "The API key does not allow this"),
        edge.TooManyRequests: Problem(429, "too-many-requests", "Too many requests"),
        edge.NotReady: Problem(503, "not-ready", "The service is not ready"),
        edge.ServiceError: Problem(500, "service-failed", "The request failed"),
        ClientDisconnect: Problem(CLIENT_CLOSED, "client-gone", "The client went away"),
        PoolTimeout: Problem(503, "overloaded", "The server is overloaded", 1),
    }
)
UNKNOWN = Problem(500, "internal-error", "Internal error")
NO_DATABASE = "the database cannot be reached at the moment; try again"
UNKNOWN_DETAIL = "something went wrong in the server; its log says more under this request id"


def problem_of(error: Exception) -> Problem:
    """The entry of the error's type or of its nearest base; UNKNOWN for bugs."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return UNKNOWN


def response_for(error: Exception, scope: Scope) -> Response:
    """The problem document; nothing of an unknown error but its existence is told."""
    problem = problem_of(error)
    detail = str(error)
    if isinstance(error, PoolTimeout):
        detail = "all connections to the database are busy; try again"
    if isinstance(error, data.DatabaseUnavailable):
        detail = NO_DATABASE  # the reason names hosts and files
        log.warning("%s", error, extra={"request_id": request_id(scope)})
    if problem is UNKNOWN:
        detail = UNKNOWN_DETAIL
        log.error("internal error", exc_info=error, extra={"request_id": request_id(scope)})
    members: Mapping[str, Any] = {}
    retry_after = problem.retry_after
    if isinstance(error, edge.ServiceError):
        members = error.members
        retry_after = error.retry_after or retry_after
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, edge.RequestTooLarge | edge.BodyTooSlow):
        headers["Connection"] = "close"
    return render(problem, detail, scope, members=members, headers=headers)


def render(
    problem: Problem,
    detail: str,
    scope: Scope,
    *,
    members: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = {
        "type": f"/problems/{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "instance": scope["path"],
        "request_id": request_id(scope),
        **(members or {}),
    }
    return Response(
        orjson.dumps(body, default=str), problem.status, dict(headers or {}), MEDIA_TYPE
    )


def request_id(scope: Scope) -> str:
    return str(scope.get("state", {}).get("request_id", ""))


def invalid(errors: list[Any], where: str) -> edge.InvalidRequest:
    """pydantic's errors as one of ours; the rejected values are not repeated."""
    told = [
        {
            "loc": [where, *error["loc"]] if where else list(error["loc"]),
            "msg": error["msg"],
            "type": error["type"],
        }
        for error in errors
    ]
    return edge.InvalidRequest("; ".join(map(_sentence, told[:3])), told)


def _sentence(error: Mapping[str, Any]) -> str:
    place = ".".join(map(str, error["loc"][1:]))
    return f"{place}: {error['msg']}" if place else str(error["msg"])


def install(app: FastAPI) -> None:
    """Let every error that a route raises become a problem document."""
    ours = (vision.RecognitionError, data.IndexerError, edge.ServiceError)
    for base in (*ours, ClientDisconnect, PoolTimeout):
        app.add_exception_handler(base, _handle)
    app.add_exception_handler(RequestValidationError, _handle_validation)
    app.add_exception_handler(HTTPException, _handle_http)


async def _handle(request: Request, error: Exception) -> Response:
    return response_for(error, request.scope)


async def _handle_validation(request: Request, error: Exception) -> Response:
    errors = list(error.errors()) if isinstance(error, RequestValidationError) else []
    return response_for(invalid(errors, ""), request.scope)


async def _handle_http(request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown routes, wrong methods."""
    status, headers = 500, None
    if isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
    phrase = HTTPStatus(status).phrase
    slug = phrase.lower().replace(" ", "-").replace("'", "")
    details = {
        404: "there is no such route; GET /openapi.json lists them",
        405: f"{request.method} is not possible here",
    }
    return render(
        Problem(status, slug, phrase), details.get(status, phrase), request.scope, headers=headers
    )

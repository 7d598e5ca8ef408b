"""The problems that routes can answer with, for OpenAPI."""

from __future__ import annotations

from typing import Any

from service.problems import MEDIA_TYPE
from service.schemas import ProblemDocument

Responses = dict[int | str, dict[str, Any]]

_TEXTS = {
    400: "The body cannot be parsed",
    401: "An API key is needed",
    403: "Not allowed",
    404: "There is no such gallery, identity, image or job",
    408: "The body took too long to arrive",
    409: "In conflict with what is stored",
    413: "Over a limit: bytes, pixels or number of files",
    415: "The Content-Type is not supported",
    422: "The request is not valid, or an image cannot be used",
    429: "The API key has had its share for now; see Retry-After",
    500: "Internal error",
    503: "Overloaded, or something needed is not available; see Retry-After",
}


def problems(*statuses: int) -> Responses:
    """Entries for `responses=` of a route."""
    return {
        status: {
            "description": _TEXTS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{NAME}"}}},
        }
        for status in statuses
    }


NAME = ProblemDocument.__name__
COMMON = problems(401, 403, 422, 429, 500, 503)
NOT_FOUND = problems(404)
CONFLICT = problems(409)
BODY_ERRORS = problems(400, 408, 413, 415)
IMAGE_ERRORS = {**COMMON, **BODY_ERRORS, **problems(403)}

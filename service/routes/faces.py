"""Routes that look at images and store nothing: verify, represent, analyze, extract."""

from __future__ import annotations

import time
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends
from starlette.requests import Request

from indexer.errors import Conflict, NotFound
from indexer.store import galleries, identities, images, spaces
from recognition.errors import NoFace
from recognition.pipeline import Recipe
from recognition.spec import Threshold
from recognition.types import Embeddings
from recognition.verification import compare
from service import vision
from service.access import DEFAULT_GALLERY
from service.body import body, described
from service.deps import Owned, admitted
from service.errors import InvalidRequest
from service.inference import while_connected
from service.routes.responses import CONFLICT, IMAGE_ERRORS, NOT_FOUND
from service.schemas import (
    AnalyzeRequest,
    AnalyzeResponse,
    ExtractRequest,
    ExtractResponse,
    FacialAreas,
    RepresentRequest,
    RepresentResponse,
    VerifyRequest,
    VerifyResponse,
)
from service.state import Services
from service.views import analyses, area, extracted, representations

router = APIRouter(tags=["faces"], dependencies=[Depends(admitted)], responses=IMAGE_ERRORS)

WHAT_TO_VERIFY = "send img1 and img2, or img with identity (and gallery, if it is not default)"


@router.post(
    "/represent", openapi_extra=described(RepresentRequest), response_model_exclude_unset=True
)
async def represent(
    request: Request,
    asked: Annotated[RepresentRequest, Depends(body(RepresentRequest))],
    owned: Owned,
) -> RepresentResponse:
    """Embeddings of all faces."""
    started = time.perf_counter()
    plan = vision.plan(asked, owned.settings, owned.recognizer.models)
    image = await owned.sources.get(asked.img)
    seen = await while_connected(
        request,
        owned.inference.run(lambda: vision.represent(owned.recognizer, image, plan, "img")),
    )
    return RepresentResponse(
        results=representations(seen, asked.encoding_format),
        model=plan.recipe.model,
        detector_backend=plan.recipe.detector,
        dimensions=owned.recognizer.spec(plan.recipe).dimension,
        time=_since(started),
    )


@router.post("/analyze", openapi_extra=described(AnalyzeRequest), response_model_exclude_unset=True)
async def analyze(
    request: Request,
    asked: Annotated[AnalyzeRequest, Depends(body(AnalyzeRequest))],
    owned: Owned,
) -> AnalyzeResponse:
    """Estimates of age, gender, emotion for every face, and of race where its weights are."""
    started = time.perf_counter()
    plan = vision.plan(asked, owned.settings, owned.recognizer.models)
    actions = vision.known_actions(asked.actions, owned.recognizer.usual_actions())
    image = await owned.sources.get(asked.img)
    found = await while_connected(
        request,
        owned.inference.run(lambda: vision.analyze(owned.recognizer, image, plan, actions)),
    )
    return AnalyzeResponse(
        results=analyses(found), detector_backend=plan.recipe.detector, time=_since(started)
    )


@router.post("/extract", openapi_extra=described(ExtractRequest), response_model_exclude_unset=True)
async def extract(
    request: Request,
    asked: Annotated[ExtractRequest, Depends(body(ExtractRequest))],
    owned: Owned,
) -> ExtractResponse:
    """Where the faces are, and how usable."""
    started = time.perf_counter()
    plan = vision.plan(asked, owned.settings, owned.recognizer.models)
    image = await owned.sources.get(asked.img)
    found = await while_connected(
        request, owned.inference.run(lambda: vision.extract(owned.recognizer, image, plan))
    )
    return ExtractResponse(
        results=extracted(found), detector_backend=plan.recipe.detector, time=_since(started)
    )


@router.post(
    "/verify",
    openapi_extra=described(VerifyRequest),
    response_model_exclude_unset=True,
    responses={**NOT_FOUND, **CONFLICT},
)
async def verify(
    request: Request,
    asked: Annotated[VerifyRequest, Depends(body(VerifyRequest))],
    owned: Owned,
) -> VerifyResponse:
    """Whether two images show one person, or an image shows a person of a gallery.

    The smallest distance of all pairs of faces decides.
    """
    if asked.img1 is not None and asked.img2 is not None:
        if asked.img is None and asked.gallery is None and asked.identity is None:
            return await _verify_pair(request, asked, owned)
    elif asked.img1 is None and asked.img2 is None and asked.img is not None and asked.identity:
        return await _verify_identity(request, asked, owned)
    raise InvalidRequest(WHAT_TO_VERIFY)


async def _verify_pair(request: Request, asked: VerifyRequest, owned: Services) -> VerifyResponse:
    started = time.perf_counter()
    plan = vision.plan(asked, owned.settings, owned.recognizer.models)
    own = _own_threshold(owned, asked, plan.recipe)
    first = await owned.sources.get(asked.img1 or b"")
    second = await owned.sources.get(asked.img2 or b"")
    pair = {"img1": first, "img2": second}
    a, b = await while_connected(
        request, owned.inference.run(lambda: vision.represent_all(owned.recognizer, pair, plan))
    )
    return _verdict(asked, (plan.recipe, own), a, b, _rows(b), started)


async def _verify_identity(
    request: Request, asked: VerifyRequest, owned: Services
) -> VerifyResponse:
    started = time.perf_counter()
    model = vision.known_model(owned.recognizer.models, asked.model_name)
    owned.trail.check()
    recipe, person, stored = await owned.threads.run(lambda: _stored(owned, asked, model))
    plan = vision.plan(asked, owned.settings, owned.recognizer.models, recipe)
    own = _own_threshold(owned, asked, plan.recipe)
    image = await owned.sources.get(asked.img or b"")
    seen = await while_connected(
        request,
        owned.inference.run(lambda: vision.represent(owned.recognizer, image, plan, "img")),
    )
    verdict = _verdict(asked, (plan.recipe, own), seen, None, stored, started)
    gallery = asked.gallery or DEFAULT_GALLERY
    owned.trail.search(request, "search.verify", gallery, [[person]] if verdict.verified else [[]])
    return verdict


def _stored(
    owned: Services, asked: VerifyRequest, model: str | None
) -> tuple[Recipe, int, Embeddings]:
    """The identity's number and embeddings in its gallery's active space. Raises NotFound, Conflict."""
    name = asked.identity or ""
    with owned.database.read() as connection:
        gallery = galleries.get(connection, asked.gallery or DEFAULT_GALLERY)
        identity_id = identities.find(connection, gallery.id, name)
        if gallery.active_space_id is None:
            raise NotFound("identity", name)
        recipe = spaces.get(connection, gallery.active_space_id).recipe
        if model is not None and model != recipe.model:
            raise Conflict(f"the gallery holds embeddings of {recipe.model}, not of {model}")
        rows = images.embeddings_of_identity(connection, gallery.active_space_id, identity_id)
    if len(rows) == 0:
        raise Conflict("no face of this identity is stored; enrol an image with a face")
    return recipe, identity_id, rows


def _own_threshold(owned: Services, asked: VerifyRequest, recipe: Recipe) -> Threshold:
    """Raises ModelUnavailable, NoThreshold."""
    return owned.recognizer.spec(recipe).threshold(
        recipe.detector, asked.distance_metric, recipe.align, asked.threshold
    )


def _verdict(
    asked: VerifyRequest,
    by: tuple[Recipe, Threshold],
    a: vision.Seen,
    b: vision.Seen | None,
    rows: Embeddings,
    started: float,
) -> VerifyResponse:
    recipe, own = by
    verdict = compare(_rows(a), rows, own, asked.threshold)
    first = area(a.faces[verdict.first].detection, a.width, a.height)
    second = None
    if b is not None:
        second = area(b.faces[verdict.second].detection, b.width, b.height)
    return VerifyResponse(
        verified=verdict.verified,
        distance=verdict.distance,
        threshold=verdict.threshold,
        confidence=verdict.confidence,
        model=recipe.model,
        detector_backend=recipe.detector,
        similarity_metric=asked.distance_metric,
        facial_areas=FacialAreas(img1=first, img2=second),
        time=_since(started),
    )


def _rows(seen: vision.Seen) -> Embeddings:
    if not seen.faces:
        raise NoFace("no face was found")
    return np.stack([face.embedding for face in seen.faces])


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 4)

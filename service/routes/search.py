"""Who is it: the nearest people of a gallery for every face of an image."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends
from starlette.requests import Request

from indexer.search import Engine, Found, Query, Target
from indexer.store import galleries
from recognition import registry
from recognition.pipeline import Recipe
from recognition.types import Embeddings
from service import vision
from service.body import body, described
from service.deps import Owned, admitted
from service.errors import InvalidRequest
from service.inference import while_connected
from service.routes.responses import CONFLICT, IMAGE_ERRORS, NOT_FOUND
from service.schemas import EngineView, FaceMatches, FindRequest, FindResponse
from service.state import Services
from service.views import area, match, score

router = APIRouter(tags=["search"], dependencies=[Depends(admitted)])

NOTHING = Engine("empty", True, 0, 0)


@router.post(
    "/find",
    openapi_extra=described(FindRequest),
    response_model_exclude_unset=True,
    responses={**IMAGE_ERRORS, **NOT_FOUND, **CONFLICT},
)
async def find(
    request: Request, asked: Annotated[FindRequest, Depends(body(FindRequest))], owned: Owned
) -> FindResponse:
    """The nearest people for every face of the image, most prominent face first."""
    started = time.perf_counter()
    if (asked.img is None) == (asked.embedding is None):
        raise InvalidRequest("send either img or embedding")
    model = vision.known_model(asked.model_name)
    target = await owned.threads.run(lambda: _target(owned, asked.gallery, model))
    plan = vision.plan(asked, owned.settings, target.space.recipe if target else None)
    probes, results = await _probes(request, asked, owned, plan)
    found = Found(tuple(() for _ in probes), NOTHING)
    if target is not None:
        query = _query(asked, target.space.recipe)
        found = await _search(owned, target, probes, query)
    recipe = target.space.recipe if target else plan.recipe
    return FindResponse(
        results=_with_matches(results, found, asked, recipe),
        gallery=target.gallery if target else asked.gallery,
        model=plan.recipe.model,
        detector_backend=plan.recipe.detector,
        similarity_metric=asked.distance_metric,
        engine=EngineView(**asdict(found.engine)),
        time=round(time.perf_counter() - started, 4),
    )


def _target(owned: Services, gallery: str, model: str | None) -> Target | None:
    """None for a gallery that nobody was ever enrolled in. Raises NotFound, Conflict."""
    with owned.database.read() as connection:
        if galleries.get(connection, gallery).active_space_id is None:
            return None
    return owned.searcher.target(gallery, model)


async def _probes(
    request: Request, asked: FindRequest, owned: Services, plan: vision.Plan
) -> tuple[Embeddings, list[FaceMatches]]:
    """(n, dimension) float32, and an answer without matches for each."""
    if asked.embedding is not None:
        rows = _embeddings(asked.embedding, registry.model(plan.recipe.model).dimension)
        return rows, [FaceMatches(facial_area=None, face_confidence=None, matches=[]) for _ in rows]
    image = await owned.sources.get(asked.img or b"")
    seen = await while_connected(
        request,
        owned.inference.run(lambda: vision.represent(owned.recognizer, image, plan, "img")),
    )
    results = [
        FaceMatches(
            facial_area=area(face.detection, seen.width, seen.height),
            face_confidence=score(face.detection),
            matches=[],
        )
        for face in seen.faces
    ]
    return np.stack([face.embedding for face in seen.faces]), results


def _embeddings(given: list[list[float]], dimension: int) -> Embeddings:
    if not given or any(len(row) != dimension for row in given):
        raise InvalidRequest(f"an embedding of this gallery has {dimension} numbers")
    with np.errstate(over="ignore", under="ignore"):
        rows = np.asarray(given, np.float32)
        usable = np.isfinite(rows).all() and (np.abs(rows).max(axis=1) > 0).all()
    if not usable:
        raise InvalidRequest("an embedding must hold finite numbers that are not all zero")
    return rows


def _query(asked: FindRequest, recipe: Recipe) -> Query:
    own = registry.model(recipe.model).threshold(
        recipe.detector, asked.distance_metric, recipe.align
    )
    chosen = asked.filter
    names = chosen.identities if chosen else None
    return Query(
        gallery=asked.gallery,
        metric=asked.distance_metric,
        k=asked.k,
        threshold=own.value if asked.threshold is None else asked.threshold,
        group_by=asked.group_by,
        identities=None if names is None else tuple(names),
        metadata=chosen.metadata if chosen else None,
        min_version=asked.min_version,
    )


async def _search(owned: Services, target: Target, probes: Embeddings, query: Query) -> Found:
    started = time.perf_counter()
    found = await owned.threads.run(lambda: owned.searcher.find(target, probes, query))
    owned.metrics.search(found.engine.name, time.perf_counter() - started)
    return found


def _with_matches(
    results: list[FaceMatches], found: Found, asked: FindRequest, recipe: Recipe
) -> list[FaceMatches]:
    own = registry.model(recipe.model).threshold(
        recipe.detector, asked.distance_metric, recipe.align
    )
    applied = own.value if asked.threshold is None else asked.threshold
    for result, matches in zip(results, found.matches, strict=True):
        result.matches = [match(m, asked.distance_metric, own, applied) for m in matches]
    return results

"""Who is it: the nearest people of a gallery for every face of an image."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends
from starlette.requests import Request

from indexer.errors import EmptyGallery, VersionAhead
from indexer.search import Decision, Engine, Found, Query, Target
from indexer.store.search import Scoring
from recognition.pipeline import Recipe
from recognition.registry import Models
from recognition.spec import Threshold
from recognition.types import Embeddings
from service import vision
from service.body import body, described
from service.deps import Owned, admitted
from service.errors import InvalidRequest, UnsupportedOption
from service.inference import while_connected
from service.routes.responses import CONFLICT, IMAGE_ERRORS, NOT_FOUND
from service.schemas import (
    EngineView,
    FaceMatches,
    FindRequest,
    FindResponse,
    FpirEstimate,
)
from service.state import Services
from service.threads import in_daemon_thread
from service.views import area, match, score

router = APIRouter(tags=["search"], dependencies=[Depends(admitted)])


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
    if asked.embedding is not None and asked.anti_spoofing:
        raise UnsupportedOption("anti_spoofing needs img: an embedding does not show a face")
    if asked.threshold is not None and asked.target_fpir is not None:
        raise InvalidRequest("send either threshold or target_fpir")
    owned.trail.check()
    target = await _target(owned, asked)
    models = owned.recognizer.models
    plan = vision.plan(asked, owned.settings, models, target.space.recipe if target else None)
    own = _own_threshold(owned, asked, target.space.recipe if target else plan.recipe)
    probes, results = await _probes(request, asked, owned, Probed(plan, target))
    limit = Limit(own.value if asked.threshold is None else asked.threshold)
    if target is None:
        found = _nothing(len(probes), asked)
    else:
        limit = await _limit(owned, target, asked, limit)
        found = await _search(owned, target, probes, asked, limit.threshold)
    gallery = target.gallery if target else asked.gallery
    told = [[match.identity_id for match in matches] for matches in found.matches]
    owned.trail.search(request, "search.find", gallery, told)
    return FindResponse(
        results=_with_matches(results, found, asked, (own, limit.threshold)),
        gallery=gallery,
        model=plan.recipe.model,
        detector_backend=plan.recipe.detector,
        similarity_metric=asked.distance_metric,
        **_told(limit, asked),
        engine=EngineView(**asdict(found.engine)),
        time=round(time.perf_counter() - started, 4),
    )


@dataclass(frozen=True, slots=True)
class Probed:
    """How probes are made, and what they are searched in, if anything."""

    plan: vision.Plan
    target: Target | None

    def dimension(self, models: Models) -> int:
        if self.target is not None:
            return self.target.space.dimension
        return models.installed(self.plan.recipe.model).dimension


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest distance answered, and what it was derived from."""

    threshold: float
    estimate: FpirEstimate | None = None


async def _target(owned: Services, asked: FindRequest) -> Target | None:
    """None for a gallery that nobody was ever enrolled in. Raises NotFound, Conflict."""
    model = vision.known_model(owned.recognizer.models, asked.model_name)
    known = owned.searcher.known(asked.gallery, model)
    if known is not None and owned.recognizer.usable(known.space.recipe):
        return known

    def look() -> Target | None:
        try:
            return owned.searcher.target(asked.gallery, model)
        except EmptyGallery:
            return None

    return await owned.threads.run(look)


async def _probes(
    request: Request, asked: FindRequest, owned: Services, probed: Probed
) -> tuple[Embeddings, list[FaceMatches]]:
    """(n, dimension) float32, and an answer without matches for each."""
    if asked.embedding is not None:
        rows = _embeddings(asked.embedding, probed.dimension(owned.recognizer.models))
        return rows, [FaceMatches(facial_area=None, face_confidence=None, matches=[]) for _ in rows]
    image = await owned.sources.get(asked.img or b"")
    seen = await while_connected(
        request,
        owned.inference.run(lambda: vision.represent(owned.recognizer, image, probed.plan, "img")),
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


def _own_threshold(owned: Services, asked: FindRequest, recipe: Recipe) -> Threshold:
    """Raises ModelUnavailable, NoThreshold."""
    return owned.recognizer.models.installed(recipe.model).threshold(
        recipe.detector, asked.distance_metric, recipe.align, asked.threshold
    )


async def _limit(owned: Services, target: Target, asked: FindRequest, otherwise: Limit) -> Limit:
    """The threshold for the rate of false alarms that is asked for. Raises Conflict."""
    rate = asked.target_fpir
    if rate is None:
        return otherwise
    metric, scoring = asked.distance_metric, _scoring(asked)
    impostors = await in_daemon_thread(lambda: owned.points.impostors(target, metric, scoring))
    threshold = impostors.threshold(rate)
    estimate = FpirEstimate(
        **asdict(impostors.rate(threshold)),
        people=impostors.people,
        sample=len(impostors.distances),
    )
    return Limit(threshold, estimate)


def _told(limit: Limit, asked: FindRequest) -> dict[str, Any]:
    """What the answer says of the threshold."""
    told: dict[str, Any] = {"threshold": limit.threshold}
    if limit.estimate is not None:
        told |= {"target_fpir": asked.target_fpir, "fpir_estimate": limit.estimate}
    return told


def _scoring(asked: FindRequest) -> Scoring:
    return Scoring(asked.score_by, asked.score_faces)


def _query(asked: FindRequest, threshold: float) -> Query:
    chosen = asked.filter
    names = chosen.identities if chosen else None
    return Query(
        gallery=asked.gallery,
        metric=asked.distance_metric,
        k=asked.k,
        threshold=threshold,
        group_by=asked.group_by,
        scoring=_scoring(asked),
        once=asked.person_once,
        identities=None if names is None else tuple(names),
        metadata=chosen.metadata if chosen else None,
        min_version=asked.min_version,
    )


def _nothing(probes: int, asked: FindRequest) -> Found:
    """What a gallery answers that nobody was enrolled in. Raises VersionAhead."""
    if asked.min_version:
        raise VersionAhead(asked.gallery, asked.min_version, 0)
    engine = Engine("empty", True, 0, 0)
    unknown: Decision = "unknown"
    return Found(tuple(() for _ in range(probes)), (unknown,) * probes, engine)


async def _search(
    owned: Services, target: Target, probes: Embeddings, asked: FindRequest, threshold: float
) -> Found:
    query = _query(asked, threshold)
    started = time.perf_counter()
    try:
        found = await owned.threads.run(lambda: owned.searcher.find(target, probes, query))
    except EmptyGallery:  # erased and made anew since this process last looked
        return _nothing(len(probes), asked)
    owned.metrics.search(found.engine.name, time.perf_counter() - started)
    return found


def _with_matches(
    results: list[FaceMatches],
    found: Found,
    asked: FindRequest,
    limits: tuple[Threshold, float],
) -> list[FaceMatches]:
    """`limits`: the gallery's own threshold, and the one that was applied."""
    own, applied = limits
    rows = zip(results, found.matches, found.decisions, strict=True)
    for result, matches, decision in rows:
        result.matches = [match(m, asked.distance_metric, own, applied) for m in matches]
        result.decision = decision
    return results

"""Alive, ready, measured."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text
from starlette.responses import Response

from indexer.errors import DatabaseUnavailable
from service.deps import Owned
from service.errors import NotReady, Overloaded
from service.problems import NO_DATABASE
from service.routes.responses import problems
from service.schemas import Check, Health, Readiness
from service.state import Services

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", responses=problems(503))
async def readyz(owned: Owned) -> Readiness:
    """Database, weights of the default model and detector, and search cache are there."""
    checks = {
        "database": await _database(owned),
        "weights": _check(owned.progress.weights, "loaded"),
        "cache": _cache(owned),
    }
    missing = [name for name, check in checks.items() if not check.ok]
    if missing:
        told = {name: check.model_dump() for name, check in checks.items()}
        raise NotReady(f"not ready: {', '.join(missing)}", told)
    return Readiness(status="ready", checks=checks)


@router.get("/metrics", response_class=Response, responses=problems(401))
async def metrics(owned: Owned) -> Response:
    """For Prometheus."""
    return Response(owned.metrics.render(), media_type=CONTENT_TYPE_LATEST)


async def _database(owned: Services) -> Check:
    if not owned.progress.database_ready:
        return Check(ok=False, detail=NO_DATABASE)

    def ask() -> None:
        with owned.database.read() as connection:
            connection.execute(text("SELECT 1"))

    try:
        await owned.threads.run(ask)
    except (DatabaseUnavailable, Overloaded):
        return Check(ok=False, detail=NO_DATABASE)
    return Check(ok=True, detail="answers")


def _cache(owned: Services) -> Check:
    if owned.cache is None:
        return Check(ok=True, detail="switched off")
    missing = "" if owned.cache.ready else f"loading; the database answers. {owned.cache.loading}"
    return _check(missing, "loaded")


def _check(missing: str, there: str) -> Check:
    return Check(ok=not missing, detail=missing or there)

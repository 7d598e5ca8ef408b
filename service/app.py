"""The application: `create_app` for uvicorn (--factory service.app:create_app) and for tests alike."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypedDict

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from indexer import own_models
from indexer.acknowledge import Acknowledger
from indexer.cache.build import Options
from indexer.cache.follower import SearchCache
from indexer.enrol import Enroller, Extractor
from indexer.operating import OperatingPoints
from indexer.search import Searcher
from indexer.store.engine import Database
from indexer.weights import weights_cache
from indexer.workshop import decoders
from recognition.idle import IdleCores
from recognition.images import read
from recognition.pipeline import Recognizer
from recognition.runtime import Runtime
from recognition.spec import Resources
from service import logs, problems
from service.access import Authentication, KeyRing, Limits, authorised
from service.images import ImageSources
from service.inference import InferencePool
from service.metrics import Metrics
from service.middleware import BodyBounds, BodyLimits, RequestContext
from service.routes import erasures, faces, galleries, health, identities, jobs, models, search
from service.runner import JobRunner
from service.schemas import ProblemDocument
from service.settings import ServiceSettings
from service.state import Services, keep_house, prepare_database, warm
from service.threads import DatabaseThreads
from service.trail import Trail

log = logging.getLogger(__name__)

VERSION = "0.1.0"
ROUTERS = (faces, search, galleries, identities, erasures, jobs, models, health)
ABOUT = """\
Verify, find, analyze and represent faces; enrol people and erase them. Every route that takes an
image takes JSON or a form; an image is a file part, base64 or a data URI. Errors are RFC 9457 problems.
"""


class State(TypedDict):
    services: Services


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """The whole service; without settings they are read from the environment."""
    settings = settings or ServiceSettings()
    metrics = Metrics()
    app = FastAPI(
        title="facesearch",
        version=VERSION,
        description=ABOUT,
        lifespan=_lifespan(settings, metrics),
        dependencies=[Depends(authorised)],
    )
    bounds = BodyBounds(
        settings.max_request_bytes, settings.max_buffered_bytes, settings.body_timeout
    )
    app.add_middleware(BodyLimits, bounds=bounds)
    app.add_middleware(Authentication, limits=Limits(settings.key_rate, settings.key_share))
    app.add_middleware(RequestContext, metrics=metrics)
    problems.install(app)
    for module in ROUTERS:
        app.include_router(module.router)
    app.openapi = _openapi(app)  # type: ignore[method-assign] # FastAPI's way
    return app


def _lifespan(
    settings: ServiceSettings, metrics: Metrics
) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
        logs.configure(settings.log_level)
        async with AsyncExitStack() as stack:
            services = _services(settings, metrics, stack)
            preparing = asyncio.ensure_future(prepare_database(services))
            tasks = [preparing, asyncio.ensure_future(warm(services))]
            tasks.append(asyncio.ensure_future(JobRunner(services).run()))
            tasks.append(asyncio.ensure_future(keep_house(services)))
            tasks.append(asyncio.ensure_future(services.trail.run()))
            stack.push_async_callback(_end, tasks)
            await _first_try(preparing, services)
            yield {"services": services}

    return lifespan


def _services(settings: ServiceSettings, metrics: Metrics, stack: AsyncExitStack) -> Services:
    """Everything in the order it depends on each other; the stack closes it in reverse."""
    database = Database.open(settings)
    stack.callback(database.close)
    weights = weights_cache(settings, addresses=False)  # no request may wait for so much
    models = own_models.load(settings.models_folder)
    for broken in models.broken:
        log.error("the model %s cannot be used: %s: %s", broken.name, broken.path, broken.reason)
    pool = decoders(settings, settings.concurrency)
    if pool is not None:
        stack.callback(pool.close)
        metrics.watch_decoders(pool)
    runtime = Runtime(settings.threads_per_run)
    inference = InferencePool(settings.concurrency, settings.queue_limit, settings.queue_timeout)
    cores = settings.own_threads
    idle = IdleCores(lambda: cores - inference.running, cores - 1)
    stack.callback(idle.close)
    stack.callback(inference.close)
    metrics.watch_inference(inference)
    resources = Resources(weights, runtime, read if pool is None else pool.read, idle)
    recognizer = Recognizer(resources, models, settings.attribute_models, observe=metrics.stage)
    cache = SearchCache(database, _options(settings)) if settings.cache else None
    if cache is not None:
        stack.callback(cache.close)
        metrics.watch_cache(cache)
    acknowledger = Acknowledger(database, cache)
    stack.callback(acknowledger.close)
    searcher = Searcher(
        database, cache, threads=settings.threads_per_run, recall=settings.recall_sample
    )
    searcher.recall.start()
    stack.callback(searcher.recall.close)
    metrics.watch_recall(searcher.recall)
    points = OperatingPoints(database, cache)
    stack.callback(points.close)
    threads = DatabaseThreads()
    return Services(
        settings=settings,
        database=database,
        threads=threads,
        keys=KeyRing(database, threads, settings.api_keys),
        trail=Trail(database, threads, on=settings.audit_searches),
        recognizer=recognizer,
        decoders=pool,
        inference=inference,
        cache=cache,
        acknowledger=acknowledger,
        searcher=searcher,
        points=points,
        enroller=Enroller(database, Extractor(recognizer, settings), settings),
        sources=ImageSources(settings),
        metrics=metrics,
    )


def _options(settings: ServiceSettings) -> Options:
    """Each of the processes has its share of the memory; snapshots they share."""
    return Options(
        memory=settings.cache_memory // settings.workers,
        folder=settings.snapshots_folder,
        threads=settings.threads_per_run,
        snapshot_from=settings.cache_snapshots,
    )


async def _first_try(preparing: asyncio.Future[None], services: Services) -> None:
    """Wait until the database is prepared or found missing; raise what cannot be waited out."""
    tried = asyncio.ensure_future(services.progress.tried.wait())
    await asyncio.wait((preparing, tried), return_when=asyncio.FIRST_COMPLETED)
    tried.cancel()
    if preparing.done():
        preparing.result()


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


def _openapi(app: FastAPI) -> Callable[[], dict[str, Any]]:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas[ProblemDocument.__name__] = ProblemDocument.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            made["components"]["securitySchemes"] = {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            }
            made["security"] = [{"key": []}, {"bearer": []}]
            app.openapi_schema = made
        return app.openapi_schema

    return document

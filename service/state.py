"""What an app owns while it runs; made and closed by its lifespan."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from indexer.acknowledge import Acknowledger
from indexer.cache.follower import SearchCache
from indexer.enrol import Enroller
from indexer.errors import DatabaseUnavailable
from indexer.maintain import maintain
from indexer.operating import OperatingPoints
from indexer.search import Searcher
from indexer.store import galleries
from indexer.store.engine import Database
from recognition import registry
from recognition.decoding import DecoderPool
from recognition.errors import RecognitionError
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.spec import available
from service.access import DEFAULT_GALLERY, KeyRing
from service.images import ImageSources
from service.inference import InferencePool
from service.metrics import Metrics
from service.settings import ServiceSettings
from service.threads import DatabaseThreads, in_daemon_thread
from service.trail import Trail

log = logging.getLogger(__name__)

RETRY_S = 2.0
WEIGHTS_RETRY_S = 30.0
HOUSEKEEPING_S = 300.0


@dataclass(slots=True)
class Progress:
    """How far the service is with starting; `weights` says why not further."""

    database_ready: bool = False
    weights: str = "loading"
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the database was found to be missing."""


@dataclass(frozen=True, slots=True)
class Services:
    settings: ServiceSettings
    database: Database
    threads: DatabaseThreads
    keys: KeyRing
    trail: Trail
    recognizer: Recognizer
    decoders: DecoderPool | None
    inference: InferencePool
    cache: SearchCache | None
    acknowledger: Acknowledger
    searcher: Searcher
    points: OperatingPoints
    enroller: Enroller
    sources: ImageSources
    metrics: Metrics
    streams: set[object] = field(default_factory=set)
    job_queued: asyncio.Event = field(default_factory=asyncio.Event)
    progress: Progress = field(default_factory=Progress)

    @property
    def recipe(self) -> Recipe:
        """Of the settings. Raises ModelUnavailable, UnknownName."""
        spec = self.recognizer.models.installed(self.settings.model)
        return Recipe.usual(spec, self.settings.detector)


async def prepare_database(services: Services) -> None:
    """Schema, the default gallery, the cache; tries again for as long as there is no database."""
    while True:
        try:
            await services.threads.run(lambda: _prepare(services.database))
        except DatabaseUnavailable as error:
            log.warning("waiting for the database: %s", error)
        except Exception:
            if not services.progress.tried.is_set():
                raise  # at the start somebody is there to see it
            log.exception("the database cannot be prepared")
        else:
            services.progress.database_ready = True
            if services.cache is not None:
                services.cache.start()
            services.acknowledger.start()
            return
        services.progress.tried.set()
        await asyncio.sleep(RETRY_S)


async def warm(services: Services) -> None:
    """Load the default recipe, then the attributes, so that no request has to wait for them."""
    if services.decoders is not None:
        await in_daemon_thread(services.decoders.warm)
    while services.progress.weights:
        try:
            await in_daemon_thread(lambda: _warm(services.recognizer, services.recipe))
            services.progress.weights = ""
        except RecognitionError as error:
            services.progress.weights = str(error)
            log.error("the default model cannot be loaded: %s", error)
            await asyncio.sleep(WEIGHTS_RETRY_S)
    for action in services.recognizer.usual_actions():
        try:
            await in_daemon_thread(partial(services.recognizer.attribute, action))
        except RecognitionError as error:
            log.warning("what estimates %s cannot be loaded: %s", action, error)
    await _warm_anti_spoofing(services.recognizer)


async def _warm_anti_spoofing(recognizer: Recognizer) -> None:
    """Only where its weights are: most servers never need it, and no package has them."""
    weights = recognizer.resources.weights
    for name, spec in registry.ANTI_SPOOFING.items():
        if available(spec, weights):
            try:
                await in_daemon_thread(partial(recognizer.anti_spoofing, name))
            except RecognitionError as error:
                log.warning("anti-spoofing %s cannot be loaded: %s", name, error)


async def keep_house(services: Services) -> None:
    """Trim the log and build missing indexes now and then; one process of all does it."""
    while True:
        await asyncio.sleep(HOUSEKEEPING_S)
        try:
            await in_daemon_thread(lambda: maintain(services.database, services.settings))
        except DatabaseUnavailable as error:
            log.warning("housekeeping waits for the database: %s", error)
        except Exception:
            log.exception("housekeeping failed")


def _prepare(database: Database) -> None:
    database.upgrade()
    with database.write() as connection:
        galleries.ensure(connection, DEFAULT_GALLERY)


def _warm(recognizer: Recognizer, recipe: Recipe) -> None:
    """Run each network once: the first run is the slow one."""
    recognizer.warm(recipe)
    height, width = recognizer.spec(recipe).input_size
    recognizer.detect([np.zeros((240, 240, 3), np.uint8)], recipe.detector, Selection())
    recognizer.embed([np.zeros((height, width, 3), np.uint8)], recipe)

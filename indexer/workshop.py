"""What every worker of an indexing run needs, in whichever process or machine it is."""

from __future__ import annotations

import hashlib

from indexer import own_models
from indexer.enrol import Extracted
from indexer.errors import IndexerError
from indexer.settings import Settings
from indexer.weights import weights_cache
from recognition.pipeline import Recognizer
from recognition.runtime import Runtime
from recognition.sources import Watch, unwatched
from recognition.spec import Resources

TRIES = 2
"""Workers that a photograph may end."""


class WorkerFailed(IndexerError):
    """A worker cannot do its work at all: the run stops, and can be carried on."""


def recognizer(settings: Settings, watch: Watch = unwatched) -> Recognizer:
    """For runs over many images: they run beside each other, each on one core."""
    weights = weights_cache(settings, addresses=True, watch=watch)
    models = own_models.load(settings.models_folder)
    resources = Resources(weights=weights, runtime=Runtime(threads=1))
    return Recognizer(resources, models, settings.attribute_models)


def fatal(data: bytes) -> Extracted:
    """What a photograph gave that ended every worker it was given to."""
    sha256 = hashlib.sha256(data).digest()
    reason = f"reading it ended {TRIES} worker processes"
    return Extracted(sha256, len(data), "unreadable", reason, None, None, {})

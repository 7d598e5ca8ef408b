"""What every worker of an indexing run needs, in whichever process or machine it is."""

from __future__ import annotations

import hashlib

from indexer import own_models
from indexer.enrol import Extracted
from indexer.errors import IndexerError
from indexer.settings import Settings
from indexer.weights import weights_cache
from recognition.decoding import DecoderPool
from recognition.images import read
from recognition.pipeline import Recognizer
from recognition.runtime import Runtime
from recognition.sources import Watch, unwatched
from recognition.spec import Resources
from recognition.stages import Observe, unobserved

TRIES = 2
"""Workers that a photograph may end."""


class WorkerFailed(IndexerError):
    """A worker cannot do its work at all: the run stops, and can be carried on."""


def recognizer(
    settings: Settings,
    watch: Watch = unwatched,
    *,
    isolated: bool = True,
    observe: Observe = unobserved,
) -> Recognizer:
    """For runs over many images: they run beside each other, each on one core.

    `isolated`: images are decoded in processes of their own, unless the settings are against it.
    """
    weights = weights_cache(settings, addresses=True, watch=watch)
    models = own_models.load(settings.models_folder)
    pool = decoders(settings, settings.images_at_once) if isolated else None
    resources = Resources(weights, Runtime(threads=1), read if pool is None else pool.read)
    return Recognizer(resources, models, settings.attribute_models, observe=observe)


def decoders(settings: Settings, at_once: int) -> DecoderPool | None:
    """None where the settings want images decoded in this process. What is not closed ends with this process."""
    if not settings.isolate_decoding:
        return None
    return DecoderPool(at_once, settings.max_image_pixels, timeout_s=settings.decode_timeout)


def fatal(data: bytes) -> Extracted:
    """What a photograph gave that ended every worker it was given to."""
    sha256 = hashlib.sha256(data).digest()
    reason = f"reading it ended {TRIES} worker processes"
    return Extracted(sha256, len(data), "unreadable", reason, None, None, {})

"""What Prometheus sees; one registry per app."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from indexer.cache import SearchCache
from service.inference import InferencePool

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "facesearch_http_requests", "Requests by route and status.",
            ("method", "route", "status"), registry=self.registry,
        )  # fmt: skip
        self._latency = Histogram(
            "facesearch_http_request_seconds", "Time to answer, by route.",
            ("method", "route"), buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._search = Histogram(
            "facesearch_search_seconds", "Time of the search itself, without the probe's embedding.",
            ("engine",), buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(method, route).observe(seconds)

    def search(self, engine: str, seconds: float) -> None:
        self._search.labels(engine).observe(seconds)

    def watch_inference(self, pool: InferencePool) -> None:
        self._gauge("facesearch_inference_running", "Images worked on.", lambda: pool.running)
        self._gauge("facesearch_inference_waiting", "Requests in the queue.", lambda: pool.waiting)

    def watch_cache(self, cache: SearchCache) -> None:
        self.registry.register(_CacheCollector(cache))

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(name, text, registry=self.registry).set_function(read)


class _CacheCollector(Collector):
    def __init__(self, cache: SearchCache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[GaugeMetricFamily]:
        states = self._cache.states()
        version = _family("version", "Version of a space that the cache holds.")
        lag = _family("lag_versions", "Versions that the cache is behind the database.")
        faces = _family("faces", "Faces in the cache.")
        size = _family("bytes", "Memory of the cache's vectors.")
        for state in states:
            space = [str(state.space_id)]
            version.add_metric(space, state.version)
            lag.add_metric(space, state.lag)
            faces.add_metric(space, state.faces)
            size.add_metric(space, state.bytes)
        return (version, lag, faces, size)


def _family(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"facesearch_cache_{name}", text, labels=["space"])

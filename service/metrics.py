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
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from indexer.cache.follower import CacheState, SearchCache
from indexer.cache.recall import RecallSampler
from recognition.decoding import DecoderPool
from recognition.stages import Stage
from service.inference import InferencePool

SEARCH_BUCKETS = (
    0.0002, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 4.0,
)  # fmt: skip
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
            ("engine",), buckets=SEARCH_BUCKETS, registry=self.registry,
        )  # fmt: skip

        self._stages = Histogram(
            "facesearch_stage_seconds", "Time of each stage of an image's way, by stage.",
            ("stage",), buckets=SEARCH_BUCKETS, registry=self.registry,
        )  # fmt: skip

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(method, route).observe(seconds)

    def search(self, engine: str, seconds: float) -> None:
        self.stage("search", seconds)
        self._search.labels(engine).observe(seconds)

    def stage(self, stage: Stage, seconds: float) -> None:
        self._stages.labels(stage).observe(seconds)

    def watch_inference(self, pool: InferencePool) -> None:
        self._gauge("facesearch_inference_running", "Images worked on.", lambda: pool.running)
        self._gauge("facesearch_inference_waiting", "Requests in the queue.", lambda: pool.waiting)

    def watch_decoders(self, pool: DecoderPool) -> None:
        self._gauge(
            "facesearch_decoders_ended", "Decoder processes ended by files.", lambda: pool.ended
        )

    def watch_cache(self, cache: SearchCache) -> None:
        self.registry.register(_CacheCollector(cache))

    def watch_recall(self, recall: RecallSampler) -> None:
        self.registry.register(_RecallCollector(recall))

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(name, text, registry=self.registry).set_function(read)


GAUGES: tuple[tuple[str, str, Callable[[CacheState], float]], ...] = (
    ("version", "Version of a space that the cache holds.", lambda s: s.version),
    ("lag_versions", "Versions that the cache is behind the database.", lambda s: s.lag),
    ("faces", "Faces in the cache.", lambda s: s.faces),
    ("bytes", "Memory of the cache.", lambda s: s.bytes),
    ("mapped_bytes", "Vectors of the cache that are mapped from files.", lambda s: s.mapped),
    ("unsettled_faces", "Faces that came after the index was made.", lambda s: s.unsettled),
    ("dead_faces", "Erased faces that the index still steps over.", lambda s: s.dead),
)


class _CacheCollector(Collector):
    def __init__(self, cache: SearchCache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        states = self._cache.states()
        for name, text, read in GAUGES:
            gauge = GaugeMetricFamily(f"facesearch_cache_{name}", text, labels=["space"])
            for state in states:
                gauge.add_metric([str(state.space_id)], read(state))
            yield gauge
        engine = GaugeMetricFamily(
            "facesearch_cache_engine", "1 for the engine that answers.", labels=["space", "engine"]
        )
        builds = CounterMetricFamily(
            "facesearch_cache_builds", "Times that a space's index was made.", labels=["space"]
        )
        for state in states:
            engine.add_metric([str(state.space_id), state.engine], 1)
            builds.add_metric([str(state.space_id)], state.builds)
        yield engine
        yield builds


class _RecallCollector(Collector):
    """Online recall is found / expected."""

    def __init__(self, recall: RecallSampler) -> None:
        self._recall = recall

    def collect(self) -> Iterable[Metric]:
        told = (
            ("searches", "Compressed searches that were repeated exactly.", self._recall.searches),
            ("expected", "Results of the exact searches.", self._recall.expected),
            ("found", "Those of them that the compressed search gave too.", self._recall.found),
        )
        for name, text, value in told:
            yield CounterMetricFamily(f"facesearch_recall_{name}", text, value=value)
        if self._recall.expected:
            share = self._recall.found / self._recall.expected
            yield GaugeMetricFamily(
                "facesearch_recall_ratio", "Sampled recall of compressed searches.", value=share
            )

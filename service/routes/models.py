"""What there is to recognise with."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.to_thread
from fastapi import APIRouter

from recognition import registry
from recognition.spec import ModelSpec
from recognition.weights import Weights, WeightsCache
from service.deps import Owned
from service.routes.responses import problems
from service.schemas import (
    AttributeView,
    DetectorView,
    ModelList,
    ModelView,
    ThresholdView,
    WeightsView,
)

router = APIRouter(tags=["models"], responses=problems(401, 500))


@router.get("/models")
async def models(owned: Owned) -> ModelList:
    """Every model, detector and attribute, and where their weights are or come from."""
    return await anyio.to_thread.run_sync(_list, owned.recognizer.resources.weights)


def _list(cache: WeightsCache) -> ModelList:
    return ModelList(
        models=[_model(spec, cache) for spec in registry.MODELS.values()],
        detectors=[
            DetectorView(
                name=spec.name,
                summary=spec.summary,
                licence=spec.licence,
                origin=spec.origin,
                available=_available(spec.weights, cache),
                weights=_weights(spec.weights, cache),
                landmarks=spec.landmarks,
            )
            for spec in registry.DETECTORS.values()
        ],
        attributes=[
            AttributeView(
                name=spec.name,
                summary=spec.summary,
                licence=spec.licence,
                origin=spec.origin,
                available=_available(spec.weights, cache),
                weights=_weights(spec.weights, cache),
                classes=list(spec.classes),
            )
            for spec in registry.ATTRIBUTES.values()
        ],
    )


def _model(spec: ModelSpec, cache: WeightsCache) -> ModelView:
    return ModelView(
        name=spec.name,
        summary=spec.summary,
        licence=spec.licence,
        origin=spec.origin,
        available=_available(spec.weights, cache),
        weights=_weights(spec.weights, cache),
        dimension=spec.dimension,
        input_size=spec.input_size,
        thresholds={
            detector or "default": {
                metric: ThresholdView(value=t.value, data=t.data, accuracy=t.accuracy)
                for metric, t in of_detector.items()
            }
            for detector, of_detector in spec.thresholds.items()
        },
    )


def _available(weights: Sequence[Weights], cache: WeightsCache) -> bool:
    return all(cache.present(w) for w in weights)


def _weights(weights: Sequence[Weights], cache: WeightsCache) -> list[WeightsView]:
    return [
        WeightsView(
            file=w.name,
            sha256=w.sha256,
            licence=w.licence,
            present=cache.present(w),
            source=w.source,
        )
        for w in weights
    ]

"""What there is to recognise with."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from fastapi import APIRouter

from recognition import catalogue
from recognition.catalogue import Entry, File
from recognition.registry import Models
from recognition.spec import AntiSpoofingSpec, AttributeSpec, DetectorSpec, ModelSpec
from recognition.weights import WeightsCache
from service.deps import Owned
from service.routes.responses import problems
from service.schemas import (
    AntiSpoofingView,
    AttributeView,
    BrokenModel,
    DetectorView,
    ModelList,
    ModelView,
    ThresholdView,
    WeightsView,
)

router = APIRouter(tags=["models"], responses=problems(401, 500))


@router.get("/models")
async def models(owned: Owned) -> ModelList:
    """Every model, detector, attribute and anti-spoofing method, and where their weights are or come from."""
    recognizer = owned.recognizer
    return await anyio.to_thread.run_sync(_list, recognizer.resources.weights, recognizer.models)


def _list(cache: WeightsCache, models: Models) -> ModelList:
    every = catalogue.entries(cache, models)
    return ModelList(
        models=[_model(e, e.spec) for e in every if isinstance(e.spec, ModelSpec)],
        detectors=[
            DetectorView(**_common(e), landmarks=e.spec.landmarks)
            for e in every
            if isinstance(e.spec, DetectorSpec)
        ],
        attributes=[
            AttributeView(**_common(e), action=e.spec.action, classes=list(e.spec.classes))
            for e in every
            if isinstance(e.spec, AttributeSpec)
        ],
        anti_spoofing=[
            AntiSpoofingView(**_common(e)) for e in every if isinstance(e.spec, AntiSpoofingSpec)
        ],
        broken=[BrokenModel(name=b.name, file=str(b.path), reason=b.reason) for b in models.broken],
    )


def _model(entry: Entry, spec: ModelSpec) -> ModelView:
    return ModelView(
        **_common(entry),
        dimension=spec.dimension,
        input_size=spec.input_size,
        described_in=None if spec.described_in is None else str(spec.described_in),
        thresholds={
            f"default{detector}" if detector.startswith("/") else detector or "default": {
                metric: ThresholdView(
                    value=t.value, data=t.data, accuracy=t.accuracy, slope=t.slope
                )
                for metric, t in of_detector.items()
            }
            for detector, of_detector in spec.thresholds.items()
            if of_detector
        },
    )


def _common(entry: Entry) -> dict[str, Any]:
    """The fields of ComponentView."""
    return {
        "name": entry.name,
        "summary": entry.spec.summary,
        "licence": entry.spec.licence,
        "origin": entry.spec.origin,
        "non_commercial": entry.non_commercial,
        "refused": entry.refused,
        "available": entry.available,
        "weights": [_weights(file) for file in entry.files],
        "alternatives": [_weights(file) for file in entry.alternatives],
    }


def _weights(file: File) -> WeightsView:
    weights = file.weights
    return WeightsView(
        file=weights.name,
        folder=str(file.path.parent),
        sha256=weights.sha256,
        size=weights.size,
        licence=weights.licence,
        non_commercial=weights.non_commercial,
        present=file.present,
        package=weights.package or None,
        urls=list(weights.urls),
        source=weights.source,
    )

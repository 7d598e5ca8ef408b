"""From the domain's values to what clients get."""

from __future__ import annotations

import base64
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.enrol import EnrolledImage
from indexer.search import Match
from indexer.store.identities import Identity
from indexer.store.images import FaceRow, StoredImage
from indexer.store.jobs import Job
from indexer.store.spaces import Space
from recognition import geometry
from recognition.metrics import confidence, similarity
from recognition.spec import Threshold
from recognition.types import Attributes, Authenticity, Box, Detection, Metric, Points
from service import schemas as s
from service.vision import Detected, Seen

Point = tuple[int, int]


def area(face: Detection, width: int, height: int) -> s.FacialArea:
    """Whole pixels within the image; nose and mouth only where the detector gives them."""
    points = face.landmarks
    more = {"nose": 2, "mouth_right": 3, "mouth_left": 4}
    known = {name: point for name, row in more.items() if (point := _point(points, row))}
    return s.FacialArea(
        **_clipped(face.box, width, height),
        left_eye=_point(points, 1),
        right_eye=_point(points, 0),
        **known,
    )


def landmarks(face: Detection) -> s.Landmarks:
    points = face.landmarks
    return s.Landmarks(
        right_eye=_point(points, 0),
        left_eye=_point(points, 1),
        nose=_point(points, 2),
        mouth_right=_point(points, 3),
        mouth_left=_point(points, 4),
    )


def representations(seen: Seen, encoding: s.EncodingFormat = "float") -> list[s.Representation]:
    return [
        s.Representation(
            embedding=encoded(face.embedding, encoding),
            facial_area=area(face.detection, seen.width, seen.height),
            face_confidence=score(face.detection),
        )
        for face in seen.faces
    ]


def encoded(embedding: NDArray[np.float32], encoding: s.EncodingFormat) -> list[float] | str:
    """(dimension,) numbers as they go into an answer."""
    if encoding == "base64":
        return base64.b64encode(embedding.astype("<f4").tobytes()).decode()
    numbers: list[float] = embedding.tolist()
    return numbers


def score(face: Detection) -> float:
    return round(float(face.score), 4)


def analyses(found: Detected) -> list[s.Analysis]:
    return [
        s.Analysis(
            region=area(face, found.width, found.height),
            face_confidence=score(face),
            **_estimates(attributes),
        )
        for face, attributes in zip(found.faces, found.attributes, strict=True)
    ]


def extracted(found: Detected) -> list[s.ExtractedFace]:
    verdicts = found.authenticity or (None,) * len(found.faces)
    rows = zip(found.faces, found.qualities, verdicts, strict=True)
    return [
        s.ExtractedFace(
            facial_area=area(face, found.width, found.height),
            landmarks=landmarks(face),
            face_confidence=score(face),
            quality=round(quality, 4),
            **_verdict(verdict),
        )
        for face, quality, verdict in rows
    ]


def match(found: Match, metric: Metric, own: Threshold, applied: float) -> s.MatchView:
    """`own` is the space's threshold, `applied` the one that the search was made with."""
    return s.MatchView(
        identity=found.identity,
        identity_id=found.identity_id,
        face_id=found.face_id,
        image=found.image,
        distance=round(found.distance, 6),
        similarity=round(similarity(found.distance, metric), 6),
        threshold=applied,
        confidence=confidence(found.distance, own.value, own.slope),
        verified=found.distance <= own.value,
        metadata=found.metadata,
    )


def space(found: Space) -> s.SpaceView:
    return s.SpaceView(
        model=found.recipe.model,
        detector=found.recipe.detector,
        align=found.recipe.align,
        normalization=found.recipe.normalization,
        dimension=found.dimension,
        version=found.version,
    )


def identity(found: Identity) -> s.IdentityView:
    return s.IdentityView(
        identity=found.name,
        identity_id=found.id,
        metadata=found.metadata,
        images=found.images,
        faces=found.faces,
        created_at=found.created_at,
    )


def image(found: StoredImage) -> s.ImageView:
    return s.ImageView(
        image_id=found.id,
        source=found.source,
        image=found.locator,
        sha256=found.sha256.hex(),
        state=found.state,
        reason=found.reason,
        width=found.width,
        height=found.height,
        flags=found.flags,
        faces=found.faces,
    )


def enrolled(found: EnrolledImage) -> s.EnrolledFile:
    width, height = found.width or 2**31, found.height or 2**31
    faces = [stored(face, width, height) for face in found.faces]
    file = s.EnrolledFile(
        image_id=found.image_id, sha256=found.sha256, status=found.status, faces=faces
    )
    more: dict[str, Any] = {} if found.reason is None else {"reason": found.reason}
    if found.concerns:
        more["concerns"] = [
            s.ConcernView(check=c.check, value=c.value, limit=c.limit, detail=c.told)
            for c in found.concerns
        ]
    return s.EnrolledFile(**file.model_dump(exclude_unset=True), **more)


def stored(face: FaceRow, width: int, height: int) -> s.StoredFace:
    return s.StoredFace(
        face_id=face.id,
        facial_area=area(Detection(Box(*face.box), 0.0, face.landmarks), width, height),
        quality=round(face.quality, 4),
    )


def job(found: Job) -> s.JobView:
    rate = _rate(found)
    left = found.total - found.done if found.total is not None else None
    running = found.state == "running"
    return s.JobView(
        job_id=found.id,
        kind=found.kind,
        gallery=found.gallery,
        model_name=found.params.get("model"),
        detector_backend=found.params.get("detector"),
        state=found.state,
        phase=found.phase,
        done=found.done,
        total=found.total,
        counts=found.counts,
        errors=found.errors,
        error=found.error,
        cancel_requested=found.cancel_requested,
        rate=rate,
        eta_seconds=round(left / rate, 1) if running and rate and left is not None else None,
        created_at=found.created_at,
        started_at=found.started_at,
        finished_at=found.finished_at,
    )


def _rate(found: Job) -> float | None:
    if found.started_at is None or not found.done:
        return None
    seconds = ((found.finished_at or datetime.now(UTC)) - found.started_at).total_seconds()
    return round(found.done / seconds, 3) if seconds > 0 else None


def _verdict(found: Authenticity | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {"is_real": found.is_real, "antispoof_score": round(found.score, 6)}


def _clipped(box: Box, width: int, height: int) -> dict[str, int]:
    inside = geometry.pixels(box, width, height)
    return {name: int(getattr(inside, name)) for name in ("x", "y", "w", "h")}


def _point(points: Points | None, row: int) -> Point | None:
    if points is None or not all(map(math.isfinite, points[row])):
        return None
    return round(float(points[row][0])), round(float(points[row][1]))


def _estimates(found: Attributes) -> dict[str, object]:
    estimates: dict[str, object] = {}
    if found.age is not None:
        estimates["age"] = round(found.age)
    for name in ("gender", "race", "emotion"):
        shares: dict[str, float] | None = getattr(found, name)
        if shares is not None:
            estimates[name] = {kind: round(share, 4) for kind, share in shares.items()}
            estimates[f"dominant_{name}"] = max(shares, key=lambda kind: shares[kind])
    return estimates

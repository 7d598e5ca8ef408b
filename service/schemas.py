"""What clients send and get. Requests refuse unknown fields; forms and JSON fill the same models."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from indexer.cache.ask import GroupBy
from indexer.gate import Check as Doubt
from indexer.search import Decision
from indexer.store.galleries import Policy
from recognition.types import NORMALIZATIONS, Align, Metric, Normalization

ScoreBy = Literal["best", "mean", "centroid"]
IMAGE = "facesearch-image"
FILE = {"type": "string", "contentMediaType": "application/octet-stream"}
MAX_EMBEDDINGS = 1000
MAX_NAMES = 10_000
MAX_METADATA_BYTES = 64 * 1024
CONFIDENCE = (
    "per cent, 50 at the model's own threshold: the probability of one person, by a logistic of the distance fitted on "
    "labelled pairs half of which are of one person; GET /models names the pairs (thresholds: data, slope); null where "
    "nobody measured it"
)


def _from_text(value: object) -> object:
    """JSON written into a form field."""
    if isinstance(value, str):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
    return value


def _names(value: object) -> object:
    """A list, a JSON list in text, or names with commas between them."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            return _from_text(value)
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str | bytes) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _normalization(value: object) -> object:
    """DeepFace's spelling, however it is written."""
    names = {name.casefold(): name for name in NORMALIZATIONS}
    return names.get(value.strip().casefold(), value) if isinstance(value, str) else value


def _probes(value: object) -> object:
    """One embedding, or a list of them, as a list of embeddings."""
    value = _from_text(value)
    if isinstance(value, list) and value and not isinstance(value[0], list):
        return [value]
    return value


def _usable(rows: list[list[float]] | None) -> list[list[float]] | None:
    for row in rows or ():
        if not all(map(math.isfinite, row)) or not any(row):
            raise ValueError("an embedding must hold finite numbers that are not all zero")
    return rows


def _storable(metadata: dict[str, Any]) -> dict[str, Any]:
    """What a jsonb column takes."""
    size = len(orjson.dumps(metadata))
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"metadata may have {MAX_METADATA_BYTES} bytes, not {size}")
    _check_values(metadata)
    return metadata


def _check_values(value: object) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_values(name)
            _check_values(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_values(inner)
    elif isinstance(value, str) and "\x00" in value:
        raise ValueError("text must not hold the character U+0000")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")


def _text_or_bytes(value: object) -> str | bytes:
    if isinstance(value, str | bytes):
        return value
    raise ValueError("an image is a file part or a string")


Metadata = Annotated[dict[str, Any], AfterValidator(_storable)]
Image = Annotated[
    str | bytes,
    PlainValidator(_text_or_bytes),
    WithJsonSchema({"type": "string", "format": IMAGE}),
]
IMAGE_IS = "a file part, base64, a data URI, or, where the server allows them, a URL or a path"


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)


class Options(Request):
    """The options that every route with an image shares; DeepFace's names and defaults."""

    model_name: str | None = Field(
        None, description="see GET /models; the server's default if absent"
    )
    detector_backend: str | None = Field(
        None, description="see GET /models; the server's default if absent"
    )
    distance_metric: Annotated[Metric, BeforeValidator(_lower)] = "cosine"
    align: Annotated[bool | Align, BeforeValidator(_lower)] = Field(
        True,
        description="true: as the model's thresholds want it; native: as in its training; "
        "deepface: exactly as DeepFace does; false or none: the plain box",
    )
    normalization: Annotated[Normalization, BeforeValidator(_normalization)] = Field(
        "base", description="DeepFace's arithmetic on pixels, for align=deepface; base: none"
    )
    expand_percentage: float = Field(
        0, ge=0, le=200, allow_inf_nan=False, description="grow the faces' boxes by this much"
    )
    enforce_detection: bool = Field(
        True, description="false: an image without a face counts as a face itself"
    )
    anti_spoofing: bool = Field(
        False,
        description="refuse faces that look like a picture of one; extract tells instead. "
        "An indication, not a certified detection of attacks",
    )
    max_faces: int | None = Field(None, ge=1, description="only the most prominent faces")
    threshold: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="largest distance that counts as the same person",
    )


EncodingFormat = Literal["float", "base64"]


class RepresentRequest(Options):
    img: Image = Field(description=f"the image: {IMAGE_IS}")
    encoding_format: EncodingFormat = Field(
        "float", description="of embeddings: numbers, or base64 of little-endian float32"
    )


class ExtractRequest(Options):
    img: Image = Field(description=f"the image: {IMAGE_IS}")


class AnalyzeRequest(Options):
    img: Image = Field(description=f"the image: {IMAGE_IS}")
    actions: Annotated[list[str] | None, BeforeValidator(_names)] = Field(
        None, description="attributes to estimate; all that there are if absent"
    )


class VerifyRequest(Options):
    img1: Image | None = Field(None, description=f"one image: {IMAGE_IS}")
    img2: Image | None = Field(None, description=f"the other image: {IMAGE_IS}")
    img: Image | None = Field(
        None, description=f"in place of img1 and img2, with gallery and identity: {IMAGE_IS}"
    )
    gallery: str | None = None
    identity: str | None = None


class Filter(Request):
    """Which identities a search looks at: both conditions hold for each of them."""

    identities: list[str] | None = Field(None, max_length=MAX_NAMES, description="only these names")
    metadata: Metadata | None = Field(
        None,
        description="only with these values; or conditions: eq, ne, in, gt, gte, lt, lte, exists",
    )


class FindRequest(Options):
    img: Image | None = Field(None, description=f"the image: {IMAGE_IS}")
    embedding: Annotated[
        list[list[float]] | None, BeforeValidator(_probes), AfterValidator(_usable)
    ] = Field(None, max_length=MAX_EMBEDDINGS, description="one embedding or several, not img")
    gallery: str = "default"
    k: int = Field(5, ge=1, le=1000, description="most matches for each face")
    group_by: GroupBy = Field("person", description="a person once, or every face")
    score_by: ScoreBy = Field(
        "best",
        description="a person's distance: that of the best face, the mean of the best faces, "
        "or that of the person's mean embedding",
    )
    score_faces: int = Field(3, ge=1, le=100, description="faces that the mean is taken of")
    person_once: bool = Field(
        False, description="nobody is found in two faces of the image: the best pairing of all"
    )
    target_fpir: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="in place of threshold: the share of strangers that may be taken for somebody "
        "of this gallery",
    )
    filter: Annotated[Filter | None, BeforeValidator(_from_text)] = None
    min_version: int = Field(0, ge=0, description="never answer from an older state than this")


class EnrolRequest(Request):
    files: Annotated[list[Image], BeforeValidator(_one_or_more)] = Field(
        min_length=1, description="the images: file parts, base64 or data URIs"
    )


class GalleryRequest(Request):
    quality: Policy | None = Field(
        None, description="what to do with doubtful photographs; unchanged if absent"
    )
    retention_days: int | None = Field(
        None, ge=0, le=36_500,
        description="uploads are erased after so many days; 0: never; unchanged if absent",
    )  # fmt: skip


class ConsentRequest(Request):
    basis: str = Field(
        min_length=1, max_length=1000, description="what allows to keep the person's face"
    )
    given_at: AwareDatetime | None = None
    until: AwareDatetime | None = Field(
        None, description="the person is erased then; absent: until further notice"
    )


class IdentityChange(Request):
    name: str | None = Field(None, description="the new name")
    metadata: Annotated[Metadata | None, BeforeValidator(_from_text)] = Field(
        None, description="takes the place of what is stored"
    )
    merge: bool = Field(False, description="join the identity that has the name already")


class ReindexRequest(Request):
    gallery: str = "default"
    model_name: str | None = Field(None, description="the gallery's present one if absent")
    detector_backend: str | None = Field(None, description="the gallery's present one if absent")
    path: str | None = Field(
        None, description="also index this folder: one that was indexed before"
    )


class FacialArea(BaseModel):
    """Pixels of the upright image; points are x, y. Left and right are the person's own."""

    x: int
    y: int
    w: int
    h: int
    left_eye: tuple[int, int] | None
    right_eye: tuple[int, int] | None
    nose: tuple[int, int] | None = None
    mouth_left: tuple[int, int] | None = None
    mouth_right: tuple[int, int] | None = None


class FacialAreas(BaseModel):
    img1: FacialArea
    img2: FacialArea | None


class VerifyResponse(BaseModel):
    verified: bool
    distance: float
    threshold: float
    confidence: float | None = Field(description=CONFIDENCE)
    model: str
    detector_backend: str
    similarity_metric: Metric
    facial_areas: FacialAreas
    time: float = Field(description="seconds")


class Representation(BaseModel):
    embedding: list[float] | str = Field(description="in the encoding_format that was asked for")
    facial_area: FacialArea
    face_confidence: float


class RepresentResponse(BaseModel):
    results: list[Representation]
    model: str
    detector_backend: str
    dimensions: int
    time: float = Field(description="seconds")


class Gender(BaseModel):
    Woman: float
    Man: float


class Analysis(BaseModel):
    """Fields of the actions that were asked for; percentages by class, and the likeliest class."""

    region: FacialArea
    face_confidence: float
    age: int | None = None
    gender: Gender | None = None
    dominant_gender: str | None = None
    race: dict[str, float] | None = None
    dominant_race: str | None = None
    emotion: dict[str, float] | None = None
    dominant_emotion: str | None = None


class AnalyzeResponse(BaseModel):
    results: list[Analysis]
    detector_backend: str
    time: float = Field(description="seconds")


class Landmarks(BaseModel):
    """Those that the detector gives, x, y in pixels."""

    left_eye: tuple[int, int] | None
    right_eye: tuple[int, int] | None
    nose: tuple[int, int] | None
    mouth_left: tuple[int, int] | None
    mouth_right: tuple[int, int] | None


class ExtractedFace(BaseModel):
    facial_area: FacialArea
    landmarks: Landmarks
    face_confidence: float
    quality: float = Field(description="0..1: how usable the face is for recognition")
    is_real: bool | None = Field(
        None, description="with anti_spoofing: whether the face looks live"
    )
    antispoof_score: float | None = Field(
        None, description="with anti_spoofing: 0..1, of the verdict that is_real states"
    )


class ExtractResponse(BaseModel):
    results: list[ExtractedFace]
    detector_backend: str
    time: float = Field(description="seconds")


class MatchView(BaseModel):
    identity: str
    identity_id: int
    face_id: int
    image: str | None = Field(description="the file below its folder; null for uploads")
    distance: float
    similarity: float
    threshold: float
    confidence: float | None = Field(description=CONFIDENCE)
    verified: bool = Field(description="whether the distance is within the gallery's own threshold")
    metadata: dict[str, Any]


class FaceMatches(BaseModel):
    """`decision`: ambiguous when a second person is hardly further away than the first."""

    facial_area: FacialArea | None = Field(description="null where an embedding was sent")
    face_confidence: float | None
    decision: Decision = "unknown"
    matches: list[MatchView]


class FpirEstimate(BaseModel):
    """The share of strangers that find somebody within the threshold, with its 95 % interval.

    Measured by searching `sample` people of the gallery among all others.
    """

    value: float
    low: float
    high: float
    extrapolated: bool = Field(description="rarer than the sample can count")
    people: int = Field(description="in the gallery")
    sample: int


class EngineView(BaseModel):
    """What answered, from which version of the gallery's space; `size` is the gallery's faces."""

    name: str
    exact: bool
    version: int
    size: int


class FindResponse(BaseModel):
    results: list[FaceMatches] = Field(description="one for each face, most prominent first")
    gallery: str
    model: str
    detector_backend: str
    similarity_metric: Metric
    threshold: float = Field(description="the largest distance that was answered")
    target_fpir: float | None = Field(None, description="as asked for")
    fpir_estimate: FpirEstimate | None = Field(None, description="with target_fpir")
    engine: EngineView
    time: float = Field(description="seconds")


class SpaceView(BaseModel):
    model: str
    detector: str
    align: str
    normalization: str
    dimension: int
    version: int


class Spaces(BaseModel):
    active: SpaceView | None
    building: SpaceView | None


class GalleryCounts(BaseModel):
    identities: int
    images: int
    faces: int
    states: dict[str, int] = Field(description="images by state")


class GalleryView(BaseModel):
    gallery: str
    state: Literal["ready", "empty", "reindexing"]
    counts: GalleryCounts
    spaces: Spaces
    quality: Policy = Field(description="what is done with doubtful photographs")
    protected: bool = Field(description="whether its embeddings are stored turned by a secret")
    retention_days: int | None = Field(description="uploads are erased after so many days")
    created_at: datetime


class GalleryList(BaseModel):
    galleries: list[GalleryView]


class ErasureProcess(BaseModel):
    """A live process with a search cache: since when it finds nothing of it, and holds nothing of it."""

    process_id: UUID
    host: str
    pid: int
    acknowledged_at: datetime | None
    clean_at: datetime | None


class ErasureView(BaseModel):
    erasure_id: UUID
    at: datetime
    kind: str = Field(description="gallery, identity or image")
    gallery: str
    version: int = Field(description="of the gallery, from which on nothing finds what was erased")
    versions: dict[int, int] = Field(description="the same by space")
    acknowledged: bool = Field(description="whether no live process finds it any more")
    clean: bool = Field(description="whether none holds it in memory or in a snapshot on disk")
    processes: list[ErasureProcess]


class GalleryErased(BaseModel):
    gallery: str
    version: int
    erasure_id: UUID = Field(description="its receipt: GET /erasures/{erasure_id}")


class IdentityView(BaseModel):
    identity: str
    identity_id: int
    metadata: dict[str, Any]
    images: int
    faces: int
    created_at: datetime


class IdentityPage(BaseModel):
    identities: list[IdentityView]
    next_cursor: str | None = Field(description="for the next page; null on the last one")


class ImageView(BaseModel):
    image_id: int
    source: str
    image: str | None
    sha256: str
    state: str
    reason: str | None
    width: int | None
    height: int | None
    flags: list[str] = Field(description="what was doubtful when it was enrolled")
    faces: int


class ConsentView(BaseModel):
    basis: str
    given_at: datetime | None
    until: datetime | None


class IdentityDetail(BaseModel):
    identity: str
    identity_id: int
    metadata: dict[str, Any]
    faces: int
    consent: ConsentView | None
    created_at: datetime
    images: list[ImageView]


class IdentityChanged(IdentityView):
    version: int


class IdentityErased(BaseModel):
    identity: str
    version: int
    erasure_id: UUID = Field(description="its receipt: GET /erasures/{erasure_id}")


class ImageErased(BaseModel):
    image_id: int
    version: int
    erasure_id: UUID = Field(description="its receipt: GET /erasures/{erasure_id}")


class StoredFace(BaseModel):
    face_id: int
    facial_area: FacialArea
    quality: float


class ConcernView(BaseModel):
    """A `value` that is beyond its `limit`."""

    check: Doubt
    value: float
    limit: float
    detail: str


class EnrolledFile(BaseModel):
    image_id: int | None
    sha256: str
    status: Literal["enrolled", "exists", "rejected"]
    reason: str | None = None
    concerns: list[ConcernView] = Field(
        default_factory=list, description="what is doubtful, in a gallery that minds"
    )
    faces: list[StoredFace]


class EnrolResponse(BaseModel):
    files: list[EnrolledFile]
    gallery: str
    identity: str
    version: int = Field(description="searches with this as min_version see it")


class JobCreated(BaseModel):
    job_id: UUID


class JobView(BaseModel):
    job_id: UUID
    kind: str
    gallery: str
    model_name: str | None
    detector_backend: str | None
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    phase: str
    done: int
    total: int | None
    counts: dict[str, int]
    errors: list[dict[str, str]]
    error: str | None
    cancel_requested: bool
    rate: float | None = Field(description="items a second")
    eta_seconds: float | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobList(BaseModel):
    jobs: list[JobView] = Field(description="newest first")


class WeightsView(BaseModel):
    file: str
    sha256: str | None = Field(description="null: published without one that is known")
    folder: str = Field(description="where the server looks for it")
    size: int | None = Field(description="bytes, where known")
    licence: str
    non_commercial: bool = Field(description="whether the licence forbids commercial use")
    present: bool
    package: str | None = Field(description="the Python package that carries it")
    urls: list[str] = Field(description="where it is published, the best mirror first")
    source: str = Field(description="where it comes from, in words")


class ThresholdView(BaseModel):
    """A distance threshold, and the logistic of the distance that `confidence` is."""

    value: float = Field(description="the largest distance that counts as the same person")
    data: str = Field(
        description="the labelled pairs that value and slope were fitted on, or who published the value"
    )
    accuracy: float | None = Field(
        description="the share of those pairs that the threshold gets right; null: nobody measured it here"
    )
    slope: float | None = Field(
        description="confidence is 100 / (1 + exp(slope (distance - value))): per unit of distance; "
        "null: there is no confidence"
    )


class ComponentView(BaseModel):
    name: str
    summary: str
    licence: str
    origin: str
    non_commercial: bool = Field(
        description="whether the licence of any of the weights forbids commercial use"
    )
    refused: bool = Field(description="whether the settings refuse it for that")
    available: bool = Field(description="whether all weights are there, or an alternative")
    weights: list[WeightsView]
    alternatives: list[WeightsView] = Field(description="files that do as well")


class ModelView(ComponentView):
    dimension: int
    input_size: tuple[int, int]
    described_in: str | None = Field(description="the file of a model of your own")
    thresholds: dict[str, dict[str, ThresholdView]] = Field(
        description="by detector, or detector/none for align=false, by metric; default: of detectors without their own"
    )


class DetectorView(ComponentView):
    landmarks: bool


class AttributeView(ComponentView):
    action: str = Field(description="what it answers in /analyze; one of several may do so")
    classes: list[str]


class AntiSpoofingView(ComponentView):
    pass


class BrokenModel(BaseModel):
    name: str
    file: str
    reason: str


class ModelList(BaseModel):
    models: list[ModelView]
    detectors: list[DetectorView]
    attributes: list[AttributeView]
    anti_spoofing: list[AntiSpoofingView]
    broken: list[BrokenModel] = Field(description="models of your own that cannot be used, and why")


class Health(BaseModel):
    status: Literal["ok"]


class Check(BaseModel):
    ok: bool
    detail: str


class Readiness(BaseModel):
    status: Literal["ready"]
    checks: dict[str, Check]


class ProblemDocument(BaseModel):
    """RFC 9457, application/problem+json. Some types have further members."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str

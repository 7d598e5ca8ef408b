"""The Keras networks, the attributes among them, against DeepFace's: both ways in, batches, whole pipelines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.settings import Settings
from proof import models_environment as environment
from proof import models_peer, models_seeded, rows
from proof.models_environment import say
from proof.rows import Row
from recognition import deepface, registry
from recognition.detectors import mediapipe
from recognition.images import ImageLimits, decode
from recognition.landmarks import WEIGHTS as LANDMARKS
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.runtime import Runtime
from recognition.samples import SAMPLES
from recognition.spec import AttributeSpec, ModelSpec, Resources
from recognition.types import NORMALIZATIONS, Attributes, Box, Detection, Rgb
from recognition.weights import WeightsCache

MODELS = (
    "DeepID", "OpenFace", "GhostFaceNet", "Facenet", "Facenet512", "ArcFace", "DeepFace", "VGG-Face",
)  # fmt: skip
ATTRIBUTES: Mapping[str, str] = {
    "Emotion": "emotion_deepface",
    "Age": "age_deepface",
    "Gender": "gender_deepface",
    "Race": "race",
}
"""DeepFace's names and ours."""
BACKENDS = {"tensorflow": "h5", "pytorch": "onnx"}
"""DeepFace's own engines, and what their networks are published as."""
CANONICAL = Path(__file__).parents[1] / "tests" / "recognition" / "canonical" / "keras.json"
KEPT = 24
"""Values of each vector that are kept for the ordinary tests."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is proved: DeepFace's name, our spec, and pictures of the network's size."""

    name: str
    spec: ModelSpec | AttributeSpec
    crops: list[Rgb]


def prove(scratch: Path, only: Sequence[str] = ()) -> Iterator[Row]:
    """A row for each network and way in, then for each pipeline; writes the canonical vectors."""
    cache = WeightsCache(Settings().weights_folder)
    photos = [cache.path(sample.weights) for sample in SAMPLES]
    subjects = [subject for subject in _subjects(cache, photos) if not only or subject.name in only]
    environment.install(scratch)
    shutil.copyfile(cache.path(LANDMARKS), environment.weights(scratch) / LANDMARKS.name)
    folder = scratch / "models"
    folder.mkdir(exist_ok=True)
    inputs = {s.name: deepface.tensor(s.crops, "base") for s in subjects}
    np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]
    jobs = {subject.name: _jobs(subject, photos) for subject in subjects}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    for subject in subjects:
        for backend, way in BACKENDS.items():
            say(f"{subject.name}, {way}")
            script = models_peer.__file__
            environment.run(scratch, script, [backend, str(folder), subject.name], backend)
            yield _network(subject, scratch, backend)
            if backend == "tensorflow":
                yield from _pipelines(subject, scratch, jobs[subject.name])
                _remember(subject, scratch)
            shutil.rmtree(_ours(subject, scratch, backend).folder)
            _file(subject, scratch, backend).unlink()


def _subjects(cache: WeightsCache, photos: Sequence[Path]) -> list[Subject]:
    """With crops of the sample people and with waves."""
    detector = mediapipe.SPECS[0].build(Resources(cache, Runtime(threads=2)))
    images = [decode(photo.read_bytes(), ImageLimits()) for photo in photos]
    faces = [found[0] for found in detector.detect(images)]

    def crops(size: tuple[int, int]) -> list[Rgb]:
        seen = [deepface.crop(image, face, size) for image, face in zip(images, faces, strict=True)]
        return seen + [(255 * wave).round().astype(np.uint8) for wave in models_seeded.waves(*size)]

    models = [registry.MODELS[name] for name in MODELS]
    found = [Subject(spec.name, spec, crops(spec.input_size)) for spec in models]
    attributes = [(name, registry.attribute(ours)) for name, ours in ATTRIBUTES.items()]
    return found + [Subject(name, spec, crops((224, 224))) for name, spec in attributes]


def _network(subject: Subject, scratch: Path, backend: str) -> Row:
    expected = np.load(scratch / "models" / f"{subject.name}.{backend}.npz")
    resources = Resources(_ours(subject, scratch, backend), Runtime(threads=2))
    alone, together = _answers(subject, resources)
    if isinstance(subject.spec, AttributeSpec) and subject.name != "Age":
        alone, together = alone / 100, together / 100
    if subject.name == "Age":  # one number: its cosine says nothing, what it differs by does
        alone, together = _as_angle(alone), _as_angle(together)
        single, batch = _as_angle(expected["single"]), _as_angle(expected["batch"])
    else:
        single, batch = expected["single"], expected["batch"]
    return Row(
        name=subject.name,
        way=BACKENDS[backend],
        single=rows.cosine(single, alone),
        batch=rows.cosine(batch, together),
        difference=float(max(abs(single - alone).max(), abs(batch - together).max())),
        others=rows.between(single),
    )


def _as_angle(years: NDArray[Any]) -> NDArray[Any]:
    """A point on the circle for each number of years, so that cosines tell ages apart."""
    return np.concatenate([np.cos(years), np.sin(years)], axis=1)


def _answers(subject: Subject, resources: Resources) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of ours: each picture alone, all together."""
    if isinstance(subject.spec, ModelSpec):
        embedder = subject.spec.build(resources)
        alone = [embedder.embed([crop], "deepface", "base") for crop in subject.crops]
        return np.concatenate(alone), embedder.embed(subject.crops, "deepface", "base")
    attribute = subject.spec.build(resources)
    each = [attribute.predict([crop])[0] for crop in subject.crops]
    return _values(each), _values(attribute.predict(subject.crops))


def _values(found: Sequence[Attributes]) -> NDArray[Any]:
    told = [a.gender or a.race or a.emotion or {"age": a.age or 0.0} for a in found]
    return np.array([list(values.values()) for values in told], np.float64)


def _jobs(subject: Subject, photos: Sequence[Path]) -> list[dict[str, Any]]:
    """What DeepFace's whole pipeline is asked."""
    if isinstance(subject.spec, AttributeSpec):
        return []
    asked = [("skip", "base"), ("opencv", "base")]
    if subject.name == "Facenet":
        asked += [("opencv", normalization) for normalization in NORMALIZATIONS[1:]]
        asked += [("mtcnn", "base"), ("dlib", "base")]
    return [
        {"img_path": str(photo), "detector_backend": detector, "normalization": normalization}
        for detector, normalization in asked
        for photo in photos
    ]


def _pipelines(subject: Subject, scratch: Path, jobs: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """By our detectors, and by DeepFace's faces, which leaves the detectors out."""
    if not jobs:
        return
    told = json.loads((scratch / "models" / f"{subject.name}.represent.json").read_text())
    recognizer = Recognizer(Resources(_ours(subject, scratch, "tensorflow"), Runtime(threads=2)))
    ways: dict[str, list[tuple[list[float], NDArray[np.float32]]]] = {}
    for job, (theirs, area) in zip(jobs, told, strict=True):
        detector, normalization = job["detector_backend"], job["normalization"]
        recipe = Recipe(subject.name, detector, "deepface", normalization)
        image = decode(Path(job["img_path"]).read_bytes(), ImageLimits())
        if detector != "skip":
            crop = recognizer.crop(image, _face(area), recipe)
            same = recognizer.embed([crop], recipe)[0]
            ways.setdefault(f"its face, {detector}, {normalization}", []).append((theirs, same))
        faces = recognizer.represent([image], recipe, Selection(max_faces=1))[0]
        if faces:
            way = f"represent, {detector}, {normalization}"
            ways.setdefault(way, []).append((theirs, faces[0].embedding))
    for way, pairs in ways.items():
        expected, found = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
        yield Row(
            name=subject.name,
            way=way,
            single=rows.cosine(expected, found),
            difference=float(abs(expected - found).max()),
            others=rows.between(expected),
            least=rows.LEAST_PIPELINE,
        )


def _face(area: Mapping[str, Any]) -> Detection:
    """DeepFace's answer as a detection; it has no landmarks without both eyes."""
    box = Box(area["x"], area["y"], area["w"], area["h"])
    if "left_eye" not in area or "right_eye" not in area:
        return Detection(box, 1.0)
    unknown = (np.nan, np.nan)
    points = [area["right_eye"], area["left_eye"], unknown, unknown, unknown]
    return Detection(box, 1.0, np.array(points, np.float32))


def _file(subject: Subject, scratch: Path, backend: str) -> Path:
    spec = subject.spec
    weights = spec.weights[0] if backend == "pytorch" else spec.alternatives[0][0]
    return environment.weights(scratch) / weights.name


def _ours(subject: Subject, scratch: Path, backend: str) -> WeightsCache:
    """A weights folder with this one file, and what detectors need."""
    folder = scratch / "ours" / f"{subject.name}.{backend}"
    folder.mkdir(parents=True, exist_ok=True)
    usual = Settings().weights_folder
    for source in (_file(subject, scratch, backend), *usual.glob("[!.]*")):
        target = folder / source.name
        if source.is_file() and not target.exists():
            target.symlink_to(source)
    return WeightsCache(folder)


def _remember(subject: Subject, scratch: Path) -> None:
    """The reference's answers to the waves, and the shapes of its weights in their order, for the ordinary tests."""
    known = json.loads(CANONICAL.read_text()) if CANONICAL.exists() else {}
    layers = json.loads((scratch / "models" / f"{subject.name}.layers.json").read_text())
    waves = np.load(scratch / "models" / f"{subject.name}.tensorflow.npz")["single"][-2:]
    told = [" ".join([kind, *("x".join(map(str, s)) for s in shapes)]) for kind, shapes in layers]
    known[subject.name] = {
        "layers": told,
        "waves": [[float(f"{value:.6g}") for value in row[:KEPT]] for row in waves],
        "lengths": [float(f"{value:.6g}") for value in np.linalg.norm(waves, axis=1)],
    }
    CANONICAL.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")

"""What the commands do, as functions that return plain data; `cli` only parses and prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from indexer import labelled, people, progress, report, weights
from indexer.errors import IndexerError
from indexer.evaluate import Evaluator
from indexer.plots import NoPlots
from indexer.progress import display
from indexer.settings import Settings
from indexer.store import galleries, identities, spaces
from indexer.store.engine import Database
from indexer.workshop import recognizer
from recognition import catalogue, registry
from recognition.errors import NoFace, RecognitionError, UnknownName
from recognition.images import ImageLimits, decode
from recognition.pipeline import Face, Recipe, Recognizer, Selection
from recognition.samples import SAMPLES
from recognition.sources import Watch
from recognition.spec import ACTIONS, ModelSpec, Spec
from recognition.types import METRICS, Align, Detection, Metric, Rgb
from recognition.verification import compare

PAGE = 1000
FORBIDS = " (forbids commercial use)"


class CannotWrite(IndexerError):
    """A folder named on the command line cannot be written."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an evaluation is to look at and to write; `align` None: the model's own; `metrics` empty: all."""

    source: Path
    root: Path | None = None
    align: Align | None = None
    metrics: tuple[str, ...] = ()
    output: Path | None = None
    failures: bool = False


class CannotRead(IndexerError):
    """A file named on the command line cannot be read."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a command works with. The database is opened, and upgraded, only where one is needed."""

    settings: Settings
    recognizer: Recognizer
    _database: Database | None

    @classmethod
    def open(cls, *, quiet: bool = False) -> Tools:
        """`quiet`: say nothing of downloads."""
        settings = Settings()
        database = Database.open(settings)
        database.upgrade()
        return cls(settings, recognizer(settings, _watch(quiet)), database)

    @classmethod
    def without_database(cls, *, quiet: bool = False) -> Tools:
        settings = Settings()
        return cls(settings, recognizer(settings, _watch(quiet)), None)

    @property
    def database(self) -> Database:
        if self._database is None:
            raise IndexerError("this command works without a database")
        return self._database

    def recipe(self, gallery: str | None, model: str | None, detector: str | None) -> Recipe:
        """The gallery's own recipe, or the settings', with what was asked for.

        Raises UnknownName, ModelUnavailable, LicenceRefused.
        """
        models = self.recognizer.models
        base = None if gallery is None else _recipe_of(self.database, gallery)
        if base is None:
            spec = models.installed(self.settings.model) if model is None else models.named(model)
            base = Recipe.usual(spec, self.settings.detector)
        elif model is not None:
            base = base.with_names(models, model, None)
        recipe = base.with_names(models, None, detector)
        self.recognizer.permit(recipe.model, recipe.detector)
        return recipe

    def image(self, path: Path) -> Rgb:
        """Raises CannotRead, UndecodableImage, ImageTooLarge."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CannotRead(f"{path} cannot be read: {error.strerror}") from error
        limits = ImageLimits(self.settings.max_image_bytes, self.settings.max_image_pixels)
        try:
            return decode(data, limits)
        except RecognitionError as error:
            raise type(error)(f"{path}: {error}") from error


def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Become the HTTP service: imports go down only, so it is started and not imported."""
    options = {"--host": host, "--port": port, "--workers": workers}
    given = [
        part for name, value in options.items() if value is not None for part in (name, str(value))
    ]
    os.execv(sys.executable, [sys.executable, "-m", "service", *given])  # noqa: S606 - no shell


def gallery_names(tools: Tools) -> list[str]:
    with tools.database.read() as connection:
        return [g.name for g in galleries.all_galleries(connection)]


def find(
    tools: Tools,
    image: Path,
    gallery: str,
    k: int,
    threshold: float | None,
    anti_spoofing: bool = False,
) -> dict[str, Any]:
    """Per face of the image, the nearest people."""
    from indexer.search import Query, Searcher  # noqa: PLC0415 - slow to import: faiss

    searcher = Searcher(tools.database, None)
    target = searcher.target(gallery)
    recipe = target.space.recipe
    faces = _faces(tools, image, recipe, anti_spoofing)
    limit = threshold
    if limit is None:
        spec = tools.recognizer.spec(recipe)
        limit = spec.threshold(recipe.detector, "cosine", recipe.align).value
    probes = tools.recognizer.embeddings(faces, recipe)
    found = searcher.find(target, probes, Query(gallery=gallery, k=k, threshold=limit))
    results = [
        {
            **_area(face.detection),
            "decision": decision,
            "matches": [asdict(match) for match in matches],
        }
        for face, decision, matches in zip(faces, found.decisions, found.matches, strict=True)
    ]
    return {
        "results": results,
        "gallery": gallery,
        "model": recipe.model,
        "detector_backend": recipe.detector,
        "similarity_metric": "cosine",
        "threshold": limit,
        "engine": asdict(found.engine),
    }


def match_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per match, or one that says that a face is unknown."""
    rows = []
    for number, face in enumerate(result["results"], 1):
        matches = face["matches"] or [{"identity": "unknown", "distance": None, "image": None}]
        rows += [
            {
                "face": number,
                "identity": m["identity"],
                "distance": m["distance"],
                "image": m["image"],
            }
            for m in matches
        ]
    return rows


def verify(
    tools: Tools,
    paths: tuple[Path, Path],
    recipe: Recipe,
    metric: str,
    threshold: float | None,
    anti_spoofing: bool = False,
) -> dict[str, Any]:
    """Whether two photographs show one person: the closest pair of their faces."""
    known = _metric(metric)
    spec = tools.recognizer.spec(recipe)
    own = spec.threshold(recipe.detector, known, recipe.align, threshold)
    a, b = (_faces(tools, path, recipe, anti_spoofing) for path in paths)
    verdict = compare(
        tools.recognizer.embeddings(a, recipe), tools.recognizer.embeddings(b, recipe),
        own, threshold,
    )  # fmt: skip
    return {
        "verified": verdict.verified,
        "distance": verdict.distance,
        "threshold": verdict.threshold,
        "confidence": verdict.confidence,
        "confidence_from": None if verdict.confidence is None else own.data,
        "model": recipe.model,
        "detector_backend": recipe.detector,
        "similarity_metric": known,
        "facial_areas": {
            "img1": _area(a[verdict.first].detection)["facial_area"],
            "img2": _area(b[verdict.second].detection)["facial_area"],
        },
    }


def evaluate(tools: Tools, asked: Asked, recipe: Recipe, *, quiet: bool) -> dict[str, Any]:
    """How well a model and detector tell people apart on labelled photographs; `written` names the files."""
    metrics = tuple(dict.fromkeys(_metric(name) for name in asked.metrics)) or METRICS
    recipe = replace(recipe, align=asked.align or recipe.align)
    source = labelled.read(asked.source, asked.root)
    shown = display(quiet)
    try:
        evaluator = Evaluator(tools.recognizer, tools.settings)
        found = evaluator.run(source, recipe, metrics, shown)
    finally:
        shown.close()
    result = report.data(found, failures=asked.failures)
    if asked.output is None:
        return result
    try:
        return result | {"written": report.write(found, result, asked.output), "no_plots": None}
    except NoPlots as error:
        return result | {"written": list(report.TEXTS), "no_plots": str(error)}
    except OSError as error:
        raise CannotWrite(f"{asked.output} cannot be written: {error.strerror}") from error


def represent(
    tools: Tools, image: Path, recipe: Recipe, anti_spoofing: bool = False
) -> dict[str, Any]:
    results = [
        {**_area(face.detection), "embedding": [float(v) for v in face.embedding]}
        for face in _faces(tools, image, recipe, anti_spoofing)
    ]
    return {
        "results": results,
        "model": recipe.model,
        "dimensions": tools.recognizer.spec(recipe).dimension,
    }


def analyze(
    tools: Tools,
    image: Path,
    detector: str | None,
    actions: Sequence[str],
    anti_spoofing: bool = False,
) -> dict[str, Any]:
    pixels = tools.image(image)
    for action in actions:
        if action not in ACTIONS:
            raise UnknownName("attribute", action, ACTIONS)
    chosen = [action for action in ACTIONS if action in actions]
    known = _detector(tools, detector)
    faces = _detections(tools, image, pixels, known)
    if anti_spoofing:
        tools.recognizer.refuse_spoofs(pixels, faces, known, str(image))
    found = tools.recognizer.analyze(pixels, faces, chosen or tools.recognizer.usual_actions())
    return {
        "results": [
            {**_area(face), **{k: v for k, v in asdict(attributes).items() if v is not None}}
            for face, attributes in zip(faces, found, strict=True)
        ]
    }


def extract(
    tools: Tools, image: Path, detector: str | None, anti_spoofing: bool = False
) -> dict[str, Any]:
    pixels, known = tools.image(image), _detector(tools, detector)
    faces = _detections(tools, image, pixels, known)
    results = [_area(face) for face in faces]
    if anti_spoofing:
        (found,) = tools.recognizer.judge([pixels], [faces], known)
        results = [
            {**area, "is_real": verdict.is_real, "antispoof_score": round(verdict.score, 6)}
            for area, verdict in zip(results, found, strict=True)
        ]
    return {"results": results}


def list_models(tools: Tools) -> list[dict[str, Any]]:
    """All of the catalogue with its files; then the user's models that cannot be used."""
    models = tools.recognizer.models
    return [
        {
            "kind": entry.kind,
            "name": entry.name,
            "dimension": entry.dimension,
            "licence": entry.spec.licence,
            "non_commercial": entry.non_commercial,
            "refused": entry.refused,
            "available": entry.available,
            "summary": entry.spec.summary,
            "described_in": _described_in(entry.spec),
            "broken": None,
            "files": [_file(file) for file in entry.files],
            "alternatives": [_file(file) for file in entry.alternatives],
        }
        for entry in catalogue.entries(tools.recognizer.resources.weights, models)
    ] + [
        {
            "kind": "model",
            "name": broken.name,
            "dimension": None,
            "licence": None,
            "non_commercial": False,
            "refused": False,
            "available": False,
            "summary": broken.reason,
            "described_in": str(broken.path),
            "broken": broken.reason,
            "files": [],
            "alternatives": [],
        }
        for broken in models.broken
    ]


def model_table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For people: one line each."""
    return [
        {k: row[k] for k in ("kind", "name", "dimension", "licence")}
        | {"commercial_use": _commercial(row), "weights": _weights_state(row)}
        for row in rows
    ]


def pull_models(
    tools: Tools, names: Sequence[str], everything: bool, *, quiet: bool
) -> list[dict[str, Any]]:
    """Fetch the weights of the named, of all, or of what is usual. Raises UnknownName, LicenceRefused."""
    cache, models = tools.recognizer.resources.weights, tools.recognizer.models
    if names:
        entries = catalogue.named(cache, models, names)
        for entry in entries:
            cache.permit((file.weights for file in entry.files), entry.name)
    else:
        entries = weights.usual(cache, models, tools.settings)
        if everything:
            entries = catalogue.entries(cache, models)
    shown = progress.downloads(quiet)
    try:
        done = weights.pull(cache, catalogue.weights_of(entries), shown.show)
    finally:
        shown.close()
    return [
        {
            "file": pulled.weights.name,
            "state": pulled.state,
            "bytes": pulled.bytes,
            "sha256": pulled.weights.sha256,
            "licence": pulled.weights.licence,
            "non_commercial": pulled.weights.non_commercial,
            "error": pulled.why or None,
        }
        for pulled in done
    ]


def pull_table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For people: one line each, without the errors."""
    return [
        {
            "file": row["file"],
            "state": row["state"],
            "bytes": row["bytes"],
            "verified": "by sha256" if row["sha256"] else "no hash is published",
            "licence": row["licence"] + (FORBIDS if row["non_commercial"] else ""),
        }
        for row in rows
    ]


def check_models(tools: Tools) -> list[dict[str, Any]]:
    """Every weights file: valid, wrong, unverifiable or missing; and every user's model that is wrong."""
    models = tools.recognizer.models
    return [
        {"file": checked.file.weights.name, "state": checked.state}
        | {"used_by": list(checked.used_by)}
        | {k: v for k, v in _file(checked.file).items() if k not in ("file", "present")}
        for checked in weights.check(tools.recognizer.resources.weights, models)
    ] + [
        {
            "file": broken.path.name,
            "state": "wrong",
            "used_by": [broken.name],
            "path": str(broken.path),
            "source": broken.reason,
        }
        for broken in models.broken
    ]


def check_table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For people: one line each."""
    return [
        {
            "file": row["file"],
            "state": row["state"],
            "used_by": ", ".join(row["used_by"]),
        }
        for row in rows
    ]


def list_galleries(tools: Tools) -> list[dict[str, Any]]:
    with tools.database.read() as connection:
        rows = []
        for gallery in galleries.all_galleries(connection):
            counts = galleries.counts(connection, gallery)
            space = gallery.active_space_id
            recipe = str(spaces.get(connection, space).recipe) if space is not None else None
            rows.append(
                {
                    "gallery": gallery.name,
                    "identities": counts.identities,
                    "images": counts.images,
                    "faces": counts.faces,
                    "space": recipe,
                    "protected": gallery.seal is not None,
                }
            )
    return rows


def delete_gallery(tools: Tools, name: str) -> dict[str, Any]:
    return {"gallery": name, **_receipt(people.erase_gallery(tools.database, name))}


def list_identities(tools: Tools, gallery: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tools.database.read() as connection:
        found = galleries.get(connection, gallery)
        after = ""
        while page := identities.page(
            connection, found.id, found.active_space_id, after=after, limit=PAGE
        ):
            rows += [
                {"identity": i.name, "images": i.images, "faces": i.faces, "metadata": i.metadata}
                for i in page
            ]
            after = page[-1].name
    return rows


def delete_identity(tools: Tools, gallery: str, name: str) -> dict[str, Any]:
    return {"identity": name, **_receipt(people.erase_identity(tools.database, gallery, name))}


def list_spaces(tools: Tools) -> list[dict[str, Any]]:
    with tools.database.read() as connection:
        return [
            {
                "space": found.id,
                "recipe": str(found.recipe),
                "dimension": found.dimension,
                "faces": spaces.count(connection, found.id),
                "version": found.version,
                "engine": found.engine,
            }
            for found in spaces.all_spaces(connection)
        ]


def set_engine(tools: Tools, space_id: int, engine: str) -> dict[str, Any]:
    """Raises NotFound, UnknownName."""
    for known in spaces.ENGINES:
        if known == engine:
            with tools.database.write() as connection:
                spaces.set_engine(connection, space_id, known)
            return {"space": space_id, "engine": engine}
    raise UnknownName("engine", engine, spaces.ENGINES)


def db_start() -> dict[str, Any]:
    database = Database.open(Settings())
    if database.embedded is not None:
        database.embedded.ensure_running()
    database.upgrade()
    return db_status()


def db_stop() -> dict[str, Any]:
    database = Database.open(Settings())
    if database.embedded is None:
        raise IndexerError("FACESEARCH_DATABASE_URL names a server; stop it where it runs")
    return {"stopped": database.embedded.stop()}


def db_status() -> dict[str, Any]:
    """Looks, and starts nothing."""
    database = Database.open(Settings())
    if database.embedded is None:
        return {"kind": "external", "running": True, "revision": database.revision()}
    status = database.embedded.status()
    return {
        "kind": "embedded",
        "running": status.running,
        "pid": status.pid,
        "folder": str(status.folder),
        "url": status.url,
        "version": status.version,
        "revision": database.revision() if status.running else None,
    }


def db_upgrade() -> dict[str, Any]:
    database = Database.open(Settings())
    database.upgrade()
    return {"revision": database.revision()}


def db_url() -> str:
    settings = Settings()
    database = Database.open(settings)
    return database.engine.url.render_as_string(hide_password=False)


def doctor() -> list[dict[str, Any]]:
    """One row per thing that the service needs."""
    settings = Settings()
    return [
        _checked("home folder", lambda: _writable(settings.home)),
        _checked("database", lambda: str(db_upgrade()["revision"])),
        _checked("model", lambda: _built(settings, "model", settings.model)),
        _checked("detector", lambda: _built(settings, "detector", settings.detector)),
    ]


def write_samples(tools: Tools) -> Path:
    """The sample people as a tree; returns its folder."""
    folder = tools.settings.home / "samples"
    paths = tools.recognizer.resources.weights.ensure([s.weights for s in SAMPLES])
    for sample, path in zip(SAMPLES, paths, strict=True):
        target = folder / sample.person / sample.file
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def _watch(quiet: bool) -> Watch:
    """Lines, for downloads in the middle of something else."""
    return progress.Silent().show if quiet else progress.DownloadLines().show


def _recipe_of(database: Database, gallery: str) -> Recipe | None:
    with database.read() as connection:
        for found in galleries.all_galleries(connection):
            if found.name == gallery and found.active_space_id is not None:
                return spaces.get(connection, found.active_space_id).recipe
    return None


def _faces(
    tools: Tools, path: Path, recipe: Recipe, anti_spoofing: bool = False
) -> tuple[Face, ...]:
    pixels = tools.image(path)
    (faces,) = tools.recognizer.locate([pixels], recipe, Selection())
    if not faces:
        raise NoFace(f"no face found in {path}")
    if anti_spoofing:
        tools.recognizer.refuse_spoofs(pixels, faces, recipe.detector, str(path))
    return tools.recognizer.describe([pixels], [faces], recipe)[0]


def _detector(tools: Tools, name: str | None) -> str:
    return registry.detector(name or tools.settings.detector).name


def _detections(tools: Tools, path: Path, pixels: Rgb, detector: str) -> tuple[Detection, ...]:
    faces = tools.recognizer.detect([pixels], detector, Selection())[0]
    if not faces:
        raise NoFace(f"no face found in {path}")
    return faces


def _area(face: Detection) -> dict[str, Any]:
    box = face.box
    area: dict[str, Any] = {k: round(getattr(box, k)) for k in ("x", "y", "w", "h")}
    return {"facial_area": area, "face_confidence": round(face.score, 4)}


def _metric(name: str) -> Metric:
    for metric in METRICS:
        if metric == name:
            return metric
    raise UnknownName("metric", name, METRICS)


def _file(file: catalogue.File) -> dict[str, Any]:
    weights = file.weights
    return {
        "file": weights.name,
        "present": file.present,
        "path": str(file.path),
        "sha256": weights.sha256,
        "size": weights.size,
        "licence": weights.licence,
        "non_commercial": weights.non_commercial,
        "package": weights.package or None,
        "urls": list(weights.urls),
        "source": weights.source,
    }


def _described_in(spec: Spec) -> str | None:
    """The user's file, of a model that is the user's own."""
    path = spec.described_in if isinstance(spec, ModelSpec) else None
    return None if path is None else str(path)


def _commercial(row: dict[str, Any]) -> str:
    if row["non_commercial"]:
        return "forbidden; refused by the settings" if row["refused"] else "forbidden"
    return "allowed"


def _weights_state(row: dict[str, Any]) -> str:
    if row["broken"]:
        return "cannot be used"
    if not row["files"]:
        return "built in"
    if row["available"]:
        return "here"
    missing = [file for file in row["files"] if not file["present"]]
    if all(file["package"] for file in missing):
        return f"fetched when needed ({missing[0]['package']})"
    return f"`facesearch models pull {row['name']}`"


def _checked(what: str, check: Any) -> dict[str, Any]:  # noqa: ANN401
    try:
        return {"check": what, "ok": True, "detail": check()}
    except (IndexerError, RecognitionError, OSError) as error:
        return {"check": what, "ok": False, "detail": str(error)}


def _writable(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".doctor"
    probe.write_text("")
    probe.unlink()
    return str(folder)


def _built(settings: Settings, kind: str, name: str) -> str:
    tools = recognizer(settings)
    if kind == "model":
        tools.embedder(name)
    else:
        tools.detector(name)
    return name


def _receipt(done: people.Receipt) -> dict[str, Any]:
    return {"version": done.version, "erasure_id": str(done.erasure_id)}

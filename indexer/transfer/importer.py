"""People of a source into a gallery: whole people, one transaction per batch, nothing twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from indexer.enrol import Extractor, prepare_gallery
from indexer.errors import Conflict
from indexer.index import exclusive
from indexer.maintain import build_ann_index
from indexer.progress import Run
from indexer.settings import Settings
from indexer.store import galleries, identities, images, spaces
from indexer.store import transfer as store
from indexer.store.engine import Database, WriteConnection
from indexer.store.galleries import Gallery
from indexer.store.spaces import Space
from indexer.transfer.source import Person, Photo, Source
from recognition.pipeline import Recipe, Recognizer

BATCH = 200
"""Images after which a batch is written, though never in the middle of a person."""
USABLE = ("ready", "no_face")
UNAVAILABLE = "its photograph is not at hand"
CHANGED = "its photograph is not the one that was enrolled"

Known = set[tuple[str, bytes]]
"""Name of a person and sha256 of an image that the gallery has already."""


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """People with what is to be stored of them, and the ids of the spaces that photos count by place."""

    people: Sequence[Person]
    space_ids: Sequence[int]


class Importer:
    """Into one gallery; make one of these per import."""

    def __init__(
        self, database: Database, recognizer: Recognizer, settings: Settings, gallery: str
    ) -> None:
        self._database = database
        self._extractor = Extractor(recognizer, settings)
        self._settings = settings
        self._gallery = gallery

    def same_space(self, source: Source) -> bool:
        """Whether the gallery, if it has a space at all, is searched in the source's."""
        with self._database.read() as connection:
            found = [g for g in galleries.all_galleries(connection) if g.name == self._gallery]
            if not found or found[0].active_space_id is None:
                return True
            return spaces.get(connection, found[0].active_space_id).recipe == source.recipe

    def take(self, source: Source, run: Run) -> int:
        """Store the source's own vectors in its own spaces; the version from which a search sees them all.

        Raises Conflict if the gallery is searched in another space.
        """
        with self._begun(source, run):
            made = self._prepare(source)
            run.phase("importing", source.photos)
            for people in _batches(source.people()):
                self._store(_Batch(people, [s.id for s in made]), run)
                run.step(sum(len(person.photos) for person in people))
            for space in made:
                build_ann_index(self._database, space, self._settings)
        return self._version()

    def embed(self, source: Source, recipe: Recipe, run: Run) -> int:
        """Embed the photographs anew, in the gallery's space or, in an empty gallery, the recipe's; the version.

        Photographs that are not at hand are reported. Raises Conflict if the gallery has another model.
        """
        with self._begun(source, run):
            recognizer = self._extractor.recognizer
            made = prepare_gallery(self._database, recognizer, self._gallery, lambda: recipe)
            if made[0].recipe != recipe:
                there = made[0].recipe
                raise Conflict(
                    f"gallery {self._gallery!r} holds embeddings of {there}, not of {recipe}; "
                    "import into another gallery, or without a model"
                )
            run.phase("embedding", source.photos)
            with ThreadPoolExecutor(self._settings.threads, "extract") as pool:
                for people in _batches(source.people(), small=True):
                    found = self._embedded(people, made, pool, run)
                    self._store(_Batch(found, [s.id for s in made]), run)
                    run.step(sum(len(person.photos) for person in people))
            for space in made:
                build_ann_index(self._database, space, self._settings)
        return self._version()

    def _version(self) -> int:
        """Of the active space, now; 0 without one."""
        with self._database.read() as connection:
            active = galleries.get(connection, self._gallery).active_space_id
            return 0 if active is None else spaces.get(connection, active).version

    def _begun(self, source: Source, run: Run) -> AbstractContextManager[None]:
        """The gallery is there, and nobody else writes to it. A new one minds what the source's did."""
        with self._database.write() as connection:
            if galleries.make(connection, self._gallery):
                held = galleries.lock(connection, self._gallery)
                galleries.set_quality(connection, held.id, source.quality)
        return exclusive(self._database, self._gallery, run)

    def _prepare(self, source: Source) -> list[Space]:
        """The source's spaces; an empty gallery is searched in the active one from now on."""
        with self._database.write() as connection:
            gallery = galleries.protected(connection, galleries.lock(connection, self._gallery))
            made = [
                spaces.ensure(connection, s.recipe, s.dimension, gallery.seal)
                for s in source.spaces
            ]
            for space, wanted in zip(made, source.spaces, strict=True):
                if space.dimension != wanted.dimension:
                    raise Conflict(
                        f"embeddings of {wanted.recipe} have {space.dimension} numbers here, "
                        f"not {wanted.dimension}"
                    )
            active = None if source.active is None else made[source.active].id
            if gallery.active_space_id is None and active is not None:
                galleries.set_spaces(
                    connection, gallery.id, active=active, building=gallery.building_space_id
                )
            elif gallery.active_space_id != active and active is not None:
                raise Conflict(f"gallery {self._gallery!r} is searched in another space")
        return made

    def _embedded(
        self, people: Sequence[Person], made: Sequence[Space], pool: ThreadPoolExecutor, run: Run
    ) -> list[Person]:
        """The people with the faces of those photographs that are at hand and new; whoever has none is left out."""
        known = self._known(people)
        jobs = [(person, photo) for person in people for photo in person.photos]
        done = pool.map(lambda job: self._extract(job[0].name, job[1], made, known), jobs)
        kept: dict[str, list[Photo]] = {}
        for (person, photo), result in zip(jobs, done, strict=True):
            if isinstance(result, str):
                run.count("unavailable" if result in (UNAVAILABLE, CHANGED) else "unreadable")
                run.problem(photo.named, result)
            elif result is None:
                run.count("exists")
            else:
                kept.setdefault(person.name, []).append(result)
        found = [replace(p, photos=tuple(kept[p.name])) for p in people if p.name in kept]
        return found + [person for person in people if not person.photos]

    def _extract(
        self, name: str, photo: Photo, made: Sequence[Space], known: Known
    ) -> Photo | str | None:
        """The photo with faces by place of the spaces; None if it is there already; or why there is none."""
        if photo.hashed and (name, photo.row.sha256) in known:
            return None
        data = None if photo.content is None else photo.content()
        if data is None:
            return UNAVAILABLE
        sha256 = hashlib.sha256(data).digest()
        if photo.hashed and sha256 != photo.row.sha256:
            return CHANGED
        if (name, sha256) in known:
            return None
        found = self._extractor.extract(data, made)
        if found.state == "unreadable":
            return found.reason or "it cannot be read"
        faces = {n: found.faces[space.id] for n, space in enumerate(made)}
        row = replace(
            photo.row, sha256=sha256, size=len(data), state=found.state, reason=found.reason,
            width=found.width, height=found.height,
        )  # fmt: skip
        keep = photo.keep or (self._settings.keep_uploads and photo.row.root is None)
        return replace(
            photo,
            row=row,
            hashed=True,
            faces=faces,
            outcomes={n: ("ready" if faces[n] else "no_face", None) for n in faces},
            keep=keep,
            content=(lambda: data) if keep else None,
        )

    def _known(self, people: Sequence[Person]) -> Known:
        with self._database.read() as connection:
            gallery = galleries.get(connection, self._gallery)
            ids = store.names(connection, gallery.id, [person.name for person in people])
            by_id = {identity_id: name for name, identity_id in ids.items()}
            return {(by_id[i], sha256) for i, sha256 in store.contents(connection, ids.values())}

    def _store(self, batch: _Batch, run: Run) -> None:
        """One transaction."""
        counts: Counter[str] = Counter()
        with self._database.write() as connection:
            gallery = galleries.hold(connection, self._gallery)
            if gallery.active_space_id not in (None, *batch.space_ids):
                raise Conflict(
                    f"gallery {self._gallery!r} was switched to another model; run again"
                )
            rows = _Rows(connection, gallery, batch, keep=self._settings.keep_uploads)
            added = rows.add(counts)
            changes = _add_faces(connection, gallery, added, batch.space_ids)
            spaces.publish(connection, changes)
        counts["faces"] = sum(len(faces) for faces in changes.values())
        for outcome, number in counts.items():
            run.count(outcome, number)


class _Rows:
    """The identities and images of a batch; what is there already is left as it is.

    `keep`: store files that are at hand and lie in no folder of people.
    """

    def __init__(
        self, connection: WriteConnection, gallery: Gallery, batch: _Batch, *, keep: bool
    ) -> None:
        self._connection = connection
        self._keep = keep
        self._gallery = gallery
        self._people = batch.people

    def add(self, counts: Counter[str]) -> list[tuple[int, Photo]]:
        """The new images' ids with their photos."""
        names = [person.name for person in self._people]
        there = store.names(self._connection, self._gallery.id, names)
        owners = identities.ensure(self._connection, self._gallery.id, names)
        known = store.contents(self._connection, there.values())
        places = store.places(self._connection, self._gallery.id, self._places())
        added = []
        for person in self._people:
            owner = owners[person.name]
            if person.name not in there:
                store.describe(self._connection, owner, person.metadata, person.created_at)
                counts["identities"] += 1
            for photo in person.photos:
                row = replace(photo.row, gallery_id=self._gallery.id, identity_id=owner)
                outcome = self._seen(row, known, places)
                counts[outcome] += 1
                if outcome == "images":
                    added.append((self._add(row, photo), photo))
        return added

    def _places(self) -> list[tuple[str, str]]:
        rows = [photo.row for person in self._people for photo in person.photos]
        return [(r.root, r.locator) for r in rows if r.root is not None and r.locator is not None]

    def _seen(
        self,
        row: images.ImageRow,
        known: set[tuple[int, bytes]],
        places: set[tuple[str, str]],
    ) -> str:
        """What becomes of it: `images` if it is to be added, which is noted."""
        if row.state not in USABLE and row.root is None:
            return "left out"  # it says only what a folder held
        content = (row.identity_id, row.sha256)
        if row.state in USABLE and content in known:
            return "exists"
        if row.root is not None and row.locator is not None:
            if (row.root, row.locator) in places:
                return "exists"
            places.add((row.root, row.locator))
        if row.state in USABLE:
            known.add(content)
        return "images"

    def _add(self, row: images.ImageRow, photo: Photo) -> int:
        image_id = store.add_photo(self._connection, row, photo.created_at)
        keep = photo.keep or (self._keep and row.root is None)
        if keep and photo.content is not None:
            data = photo.content()
            if data is not None and hashlib.sha256(data).digest() == row.sha256:
                images.keep_original(self._connection, image_id, data)
        return image_id


def _add_faces(
    connection: WriteConnection,
    gallery: Gallery,
    added: Sequence[tuple[int, Photo]],
    space_ids: Sequence[int],
) -> dict[int, list[tuple[int, str]]]:
    """Faces, embeddings and outcomes; what a follower must be told."""
    changes: dict[int, list[tuple[int, str]]] = {}
    for number, space_id in enumerate(space_ids):
        faces = [(i, face) for i, photo in added for face in photo.faces.get(number, ())]
        rows = images.add_faces(connection, space_id, gallery.id, faces)
        changes[space_id] = [(row.id, "I") for row in rows]
        told: dict[str | None, list[tuple[int, str]]] = {}
        for image_id, photo in added:
            if number in photo.outcomes:
                state, reason = photo.outcomes[number]
                told.setdefault(reason, []).append((image_id, state))
        for reason, outcomes in told.items():
            images.record_extractions(connection, space_id, outcomes, reason)
    return changes


def _batches(people: Iterator[Person], *, small: bool = False) -> Iterator[list[Person]]:
    """Whole people, until there are enough images or people."""
    most = BATCH // 6 if small else BATCH
    batch: list[Person] = []
    size = 0
    for person in people:
        batch.append(person)
        size += len(person.photos)
        if size >= most or len(batch) >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

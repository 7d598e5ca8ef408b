"""Moving a gallery to another model or detector while it is searched.

The new space is filled beside the old one. New enrolments go to both. When nothing is left to
embed, the gallery is switched in one transaction that keeps writers out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from indexer.engines import Engine, Local
from indexer.enrol import Extracted, store_faces
from indexer.errors import CannotReembed
from indexer.index import BATCH, Changes, Indexer, ahead, batches, exclusive
from indexer.maintain import build_ann_index
from indexer.progress import Run
from indexer.settings import Settings
from indexer.store import galleries, images, spaces
from indexer.store import tables as t
from indexer.store.engine import Database
from indexer.store.images import Source
from indexer.store.spaces import Space
from recognition.pipeline import Recipe, Recognizer

UNAVAILABLE = "its original is not stored and its file is gone"
PAGE = 500
CHANGED = "its file changed since; index the folder again"


class Reindexer:
    """Moves one gallery; make one of these per run."""

    def __init__(
        self,
        database: Database,
        recognizer: Recognizer,
        settings: Settings,
        gallery: str,
        engine: Engine | None = None,
    ) -> None:
        """`engine`: what turns photographs into faces; by default threads of this process."""
        self._database = database
        self._recognizer = recognizer
        self._engine = engine or Local(recognizer, settings)
        self._indexer = Indexer(database, recognizer, settings, gallery, self._engine)
        self._settings = settings
        self._gallery = gallery

    def run(self, recipe: Recipe, max_loss: float, run: Run) -> None:
        """Embed everything anew and switch; or, if the gallery uses that recipe, look for changes.

        Raises NotFound, CannotReembed when more than `max_loss` per cent of the images with a face
        have no original any more, Cancelled.
        """
        with self._database.read() as connection:
            gallery = galleries.get(connection, self._gallery)
            roots = galleries.roots(connection, gallery.id)
            space = spaces.find(connection, recipe, gallery.seal)
        if space is not None and gallery.active_space_id == space.id:
            for root in roots:
                if Path(root).is_dir():
                    self._indexer.run(Path(root), recipe, max_loss, run)
            return
        with exclusive(self._database, self._gallery, run):
            dimension = self._recognizer.spec(recipe).dimension
            self._move((recipe, dimension), max_loss, run)

    def protect(self, run: Run) -> None:
        """Let the embeddings be stored as the gallery's seal wants it. Photographs are not needed.

        Raises NotFound, KeyMissing, Cancelled.
        """
        with exclusive(self._database, self._gallery, run):
            with self._database.read() as connection:
                gallery = galleries.get(connection, self._gallery)
                if gallery.active_space_id is None:
                    return
                active = spaces.get(connection, gallery.active_space_id)
            if active.seal != gallery.seal:
                self._move((active.recipe, active.dimension), 0, run, active)
            self.drop_unused(run)

    def drop_unused(self, run: Run) -> None:
        """Remove the gallery's faces from every space but the active one."""
        with self._database.write() as connection:
            gallery = galleries.lock(connection, self._gallery)
            found = images.faces_of(connection, t.image.c.gallery_id == gallery.id)
            old = {s: faces for s, faces in found.items() if s not in gallery.target_spaces}
            for space_id in old:
                images.forget_space(connection, gallery.id, space_id)
            spaces.publish(connection, {s: [(f, "D") for f in faces] for s, faces in old.items()})
            for space_id in old:
                spaces.drop_unused(connection, space_id)
        run.count("dropped", sum(len(faces) for faces in old.values()))

    def _move(
        self, made: tuple[Recipe, int], max_loss: float, run: Run, origin: Space | None = None
    ) -> None:
        """Into the space of that recipe and dimension; `origin`: take the embeddings from there."""
        with self._database.write() as connection:
            gallery = galleries.lock(connection, self._gallery)
            space = spaces.ensure(connection, *made, gallery.seal)
            galleries.set_spaces(
                connection, gallery.id, active=gallery.active_space_id, building=space.id
            )
            images.retry_unavailable(connection, gallery.id, space.id)
        switched = False
        try:
            while not switched:
                self._fill(gallery.id, space, run, origin)
                self._check_loss(gallery.id, space, max_loss)
                build_ann_index(self._database, space, self._settings)
                switched = self._switch(space)
        finally:
            if not switched:
                self._give_up()

    def _fill(self, gallery_id: int, space: Space, run: Run, origin: Space | None) -> None:
        with self._database.read() as connection:
            left = images.count_pending(connection, gallery_id, space.id)
        run.phase("embedding", left)

        def work(source: Source) -> tuple[Source, Extracted | str]:
            return source, self._extract(source, space, origin)

        with ThreadPoolExecutor(self._engine.at_once, "extract") as pool:
            done = ahead(pool, self._sources(gallery_id, space), work)
            for results in batches(done, BATCH):
                self._store(gallery_id, space, results, run)
                run.step(len(results))

    def _sources(self, gallery_id: int, space: Space) -> Iterator[Source]:
        """What is left, as it is wanted; what arrives meanwhile may be missed."""
        after = 0
        while True:
            with self._database.read() as connection:
                page = images.pending(connection, gallery_id, space.id, PAGE, after)
            if not page:
                return
            yield from page
            after = page[-1].image_id

    def _extract(self, source: Source, space: Space, origin: Space | None) -> Extracted | str:
        """The faces, or why the pixels cannot be had."""
        if origin is not None:
            return self._copied(source, space, origin)
        data = self._read(source)
        if data is None:
            return UNAVAILABLE
        if hashlib.sha256(data).digest() != source.sha256:
            return CHANGED
        return self._engine.extract(data, [space])

    def _copied(self, source: Source, space: Space, origin: Space) -> Extracted:
        with self._database.read() as connection:
            faces = images.stored_faces(connection, origin, source.image_id)
        state = "ready" if faces else "no_face"
        return Extracted(source.sha256, 0, state, None, None, None, {space.id: faces})

    def _read(self, source: Source) -> bytes | None:
        if source.root is not None and source.locator is not None:
            try:
                return Path(source.root, source.locator).read_bytes()
            except OSError:
                pass
        with self._database.read() as connection:
            return images.original(connection, source.image_id)

    def _store(
        self,
        gallery_id: int,
        space: Space,
        results: Sequence[tuple[Source, Extracted | str]],
        run: Run,
    ) -> None:
        with self._database.write() as connection:
            galleries.hold(connection, self._gallery)
            alive = images.still_there(connection, [s.image_id for s, _ in results])
            found = [(s.image_id, r) for s, r in results if isinstance(r, Extracted)]
            changes: Changes = {}
            store_faces(connection, gallery_id, [(i, r) for i, r in found if i in alive], changes)
            lost: dict[str, list[tuple[int, str]]] = {}
            for source, result in results:
                if source.image_id in alive and isinstance(result, str):
                    lost.setdefault(result, []).append((source.image_id, "unavailable"))
            unreadable = [
                (i, "unreadable") for i, r in found if i in alive and r.state == "unreadable"
            ]
            images.record_extractions(connection, space.id, unreadable, "its file is damaged")
            for reason, outcomes in lost.items():
                images.record_extractions(connection, space.id, outcomes, reason)
            spaces.publish(connection, changes)
        for source, result in results:
            outcome, problem = _outcome(result)
            run.count(outcome)
            if problem is not None:
                run.problem(source.locator or f"image {source.image_id}", problem)

    def _check_loss(self, gallery_id: int, space: Space, max_loss: float) -> None:
        with self._database.read() as connection:
            lost, total = images.losses(connection, gallery_id, space.id)
        if 100.0 * lost > max_loss * total:
            raise CannotReembed(
                f"{lost} of {total} images with a face cannot be embedded anew, more than "
                f"{max_loss:g} %: their files are gone and uploads were not kept "
                "(FACESEARCH_KEEP_UPLOADS). The gallery stays as it is; "
                "--max-delete 100 goes on without them"
            )

    def _switch(self, space: Space) -> bool:
        """False when an image arrived meanwhile that is not yet in the new space."""
        with self._database.write() as connection:
            gallery = galleries.lock(connection, self._gallery)
            if images.pending(connection, gallery.id, space.id, 1):
                return False
            galleries.set_spaces(connection, gallery.id, active=space.id, building=None)
            images.take_states(connection, gallery.id, space.id)
            if gallery.active_space_id is not None:  # its versions go on where they were
                version = spaces.get(connection, gallery.active_space_id).version
                spaces.raise_to(connection, space.id, version)
        return True

    def _give_up(self) -> None:
        """What was embedded stays for the next try; enrolments go to one space again."""
        with self._database.write() as connection:
            gallery = galleries.lock(connection, self._gallery)
            galleries.set_spaces(
                connection, gallery.id, active=gallery.active_space_id, building=None
            )


def _outcome(result: Extracted | str) -> tuple[str, str | None]:
    """What to count it as, and what to report."""
    if isinstance(result, str):
        return "unavailable", result
    return "embedded" if result.state == "ready" else result.state, result.reason

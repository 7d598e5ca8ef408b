"""Bringing a gallery in line with a folder of people: batches, each whole or not at all."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from indexer import crawl
from indexer.crawl import Move, Plan, TreeFile
from indexer.diff import Diff, guard
from indexer.diff import diff as compare
from indexer.engines import Engine, Local
from indexer.enrol import Extracted, gate_of, prepare_gallery, store_faces
from indexer.errors import Conflict, NotFound
from indexer.gate import Concern, Gate
from indexer.gate import reason as told
from indexer.maintain import build_ann_index
from indexer.progress import Run
from indexer.settings import Settings
from indexer.store import galleries, identities, images, spaces
from indexer.store import tables as t
from indexer.store.additions import Additions
from indexer.store.engine import Database, WriteConnection
from indexer.store.galleries import Gallery
from indexer.store.images import ImageRow, Known
from indexer.store.spaces import Space
from recognition.images import suffixes
from recognition.pipeline import Recipe, Recognizer

BATCH = 32
ROWS_BATCH = 500
RETRY_STAMP = -1
"""Stored as the modification time of a file that could not be read, so that it is tried again."""

T = TypeVar("T")
U = TypeVar("U")
Job = tuple[Path, TreeFile, Known | None, Sequence[Space]]
Changes = dict[int, list[tuple[int, str]]]


@dataclass(frozen=True, slots=True)
class Item:
    """A file that was read: its row if it has one, and what it gave (None: same content)."""

    file: TreeFile
    known: Known | None
    sha256: bytes
    extracted: Extracted | None
    problem: str | None = None
    """Why a known file could not be read this time; what is stored of it stays."""
    concerns: tuple[Concern, ...] = ()
    """What is doubtful about it, if the gallery minds."""


@contextmanager
def exclusive(database: Database, gallery: str, run: Run | None = None) -> Iterator[None]:
    """One run over a gallery at a time; a second one waits and then finds little left to do."""
    while True:
        with database.locked(f"facesearch:index:{gallery}") as taken:
            if taken:
                yield
                return
        if run is not None:
            run.phase("waiting for another run over this gallery", None)
        time.sleep(0.5)


class Indexer:
    """Runs over one gallery; share the recognizer, make one of these per run."""

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
        self._settings = settings
        self._max_bytes = settings.max_image_bytes
        self._gallery = gallery

    def diff(self, root: Path) -> Diff:
        """What a run would do now. Changes nothing. Raises NoSuchTree."""
        tree = crawl.scan(root, suffixes())
        with self._database.read() as connection:
            try:
                gallery = galleries.get(connection, self._gallery)
            except NotFound:
                return compare(tree, [], [])
            known = images.known_files(connection, gallery.id, str(tree.root))
            elsewhere = images.elsewhere(connection, gallery.id, str(tree.root))
        return compare(tree, known, elsewhere)

    def run(self, root: Path, recipe: Recipe, max_delete: float, run: Run) -> None:
        """Reconcile; `recipe` is for a gallery that is still empty. Counts and errors go to `run`.

        Raises NoSuchTree, TooManyVanished, Conflict (another model is in use), Cancelled.
        """
        with self._database.write() as connection:
            galleries.ensure(connection, self._gallery)
        with exclusive(self._database, self._gallery, run):
            targets = prepare_gallery(
                self._database, self._recognizer, self._gallery, lambda: recipe
            )
            _check_recipe(self._gallery, targets[0], recipe)
            run.phase("looking for changes", None)
            diff = self.diff(root)
            guard(diff, max_delete)
            for skipped in diff.skipped:
                run.problem(skipped.locator, skipped.reason)
            run.count("unchanged", diff.plan.unchanged)
            run.count("skipped", len(diff.skipped))
            self._move(diff, root.resolve(), run)
            self._process(diff, root.resolve(), targets, run)
            self._remove(diff, run)
            self._take_copies(diff.plan, root.resolve(), targets, run)
            for space in targets:
                build_ann_index(self._database, space, self._settings)

    def _move(self, diff: Diff, root: Path, run: Run) -> None:
        for batch in batches(diff.moves, ROWS_BATCH):
            with self._database.write() as connection:
                gallery = galleries.hold(connection, self._gallery)
                owners = identities.ensure(
                    connection, gallery.id, [diff.plan.owner(m.file) for m in batch]
                )
                changes: Changes = {}
                for move in batch:
                    owner = owners[galleries.clean_name(diff.plan.owner(move.file), "an identity")]
                    _move_one(connection, root, move, owner, changes)
                identities.prune(connection, [m.known.identity_id for m in batch])
                spaces.publish(connection, changes)
            run.count("moved", len(batch))

    def _process(self, diff: Diff, root: Path, targets: Sequence[Space], run: Run) -> None:
        work: list[tuple[TreeFile, Known | None]] = [(file, None) for file in diff.fresh]
        work += [(move.file, move.known) for move in diff.plan.touched]
        run.phase("indexing", len(work))
        self._work(work, diff.plan, root, targets, run)

    def _take_copies(self, plan: Plan, root: Path, targets: Sequence[Space], run: Run) -> None:
        """Let copies stand for files that are gone or have changed: their faces went with these."""
        with self._database.read() as connection:
            gallery = galleries.get(connection, self._gallery)
            copies = images.left_copies(connection, gallery.id, str(root))
        work: list[tuple[TreeFile, Known | None]] = []
        for copy in copies:
            folder = crawl.folder_of(copy.locator)
            file = TreeFile(copy.locator, folder, copy.size, copy.mtime_ns)
            work.append((file, replace(copy, sha256=b"")))  # looked at as if it were new
        self._work(work, plan, root, targets, run)

    def _work(
        self,
        work: Sequence[tuple[TreeFile, Known | None]],
        plan: Plan,
        root: Path,
        targets: Sequence[Space],
        run: Run,
    ) -> None:
        with ThreadPoolExecutor(self._engine.at_once, "extract") as pool:
            jobs = ((root, file, known, targets) for file, known in work)
            for items in batches(ahead(pool, jobs, self._extract), BATCH):
                self._store(items, plan, root, targets, run)
                run.step(len(items))

    def _extract(self, job: Job) -> Item:
        root, file, known, targets = job
        if file.size > self._max_bytes:
            reason = f"it has {file.size} bytes; at most {self._max_bytes} are taken"
            return Item(file, known, bytes(32), _unreadable(file, reason))
        try:
            data = (root / file.locator).read_bytes()
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
            if known is not None:
                return Item(file, known, known.sha256, None, problem=reason)
            again = replace(file, mtime_ns=RETRY_STAMP)
            return Item(again, None, bytes(32), _unreadable(file, reason))
        sha256 = hashlib.sha256(data).digest()
        file = replace(file, size=len(data))
        if known is not None and known.sha256 == sha256:
            return Item(file, known, sha256, None)
        return Item(file, known, sha256, self._engine.extract(data, targets))

    def _store(
        self, items: Sequence[Item], plan: Plan, root: Path, targets: Sequence[Space], run: Run
    ) -> None:
        with self._database.write() as connection:
            gallery = galleries.hold(connection, self._gallery)
            if gallery.target_spaces != tuple(space.id for space in targets):
                raise Conflict(
                    f"gallery {self._gallery!r} was switched to another model; run again"
                )
            owners = identities.ensure(connection, gallery.id, [plan.owner(i.file) for i in items])
            changes: Changes = {}
            outcomes = []
            gate = gate_of(connection, gallery, targets[0], self._recognizer.models)
            people = [
                owners[galleries.clean_name(plan.owner(i.file), "an identity")] for i in items
            ]
            contents = [(p, i.sha256) for p, i in zip(people, items, strict=True)]
            place = _Place(connection, gallery, root, Additions(connection, contents))
            for owner, given in zip(people, items, strict=True):
                item = given if gate is None else _judged(gate, gallery, owner, given)
                if item.known is not None and item.extracted is not None:
                    _log_deletion(connection, item.known.id, changes)
                outcomes.append(_store_one(place, owner, item))
                if gate is not None:  # the next one is compared with it
                    store_faces(connection, gallery.id, place.added(), changes)
            store_faces(connection, gallery.id, place.added(), changes)
            spaces.publish(connection, changes)
        for item, (outcome, reason) in zip(items, outcomes, strict=True):
            run.count(outcome)
            if reason is not None:
                run.problem(item.file.locator, reason)

    def _remove(self, diff: Diff, run: Run) -> None:
        run.phase("removing", len(diff.vanished))
        for batch in batches(diff.vanished, ROWS_BATCH):
            with self._database.write() as connection:
                galleries.hold(connection, self._gallery)
                kept = [k.id for k in batch if k.uploaded]
                gone = [k.id for k in batch if not k.uploaded]
                for image_id in kept:
                    values = {"source": "upload", "root": None, "locator": None, "mtime_ns": None}
                    images.update_image(connection, image_id, values)
                faces = images.faces_of(connection, t.image.c.id.in_(gone))
                images.remove_images(connection, gone)
                identities.prune(connection, list({k.identity_id for k in batch}))
                deletions = {s: [(face, "D") for face in ids] for s, ids in faces.items()}
                spaces.publish(connection, deletions)
            run.count("removed", len(gone))
            run.step(len(batch))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a batch goes; a new image waits with its faces, which a copy has none of."""

    connection: WriteConnection
    gallery: Gallery
    root: Path
    additions: Additions[Extracted | None]

    def added(self) -> list[tuple[int, Extracted]]:
        """Write the images that wait; those whose faces are to be stored."""
        return [(i, found) for i, found in self.additions.flush() if found is not None]


def _judged(gate: Gate, gallery: Gallery, owner: int, item: Item) -> Item:
    """With what is doubtful about it; without its faces if the gallery rejects it."""
    found = item.extracted
    if found is None or found.state != "ready":
        return item
    if images.with_content(gate.connection, owner, item.sha256) is not None:
        return item
    faces = found.faces.get(gate.scope.space.id, ())
    besides = None if item.known is None else item.known.id
    concerns = gate.concerns(owner, faces, besides)
    if concerns and gallery.quality == "reject":
        found = replace(found, state="rejected", reason=told(concerns), faces={})
    return replace(item, extracted=found, concerns=concerns)


def _unreadable(file: TreeFile, reason: str) -> Extracted:
    return Extracted(bytes(32), file.size, "unreadable", reason, None, None, {})


def _check_recipe(gallery: str, space: Space, recipe: Recipe) -> None:
    there, wanted = space.recipe, recipe
    if (there.model, there.detector) == (wanted.model, wanted.detector):
        if there.version == wanted.version:
            return
        raise Conflict(
            f"gallery {gallery!r} is indexed with {there.model} as it was; it has changed since: "
            f"`facesearch reindex --gallery {gallery} --model {recipe.model}` embeds it anew"
        )
    raise Conflict(
        f"gallery {gallery!r} is indexed with {there.model} + {there.detector}; "
        f"`facesearch reindex --gallery {gallery} --model {wanted.model} "
        f"--detector {wanted.detector}` moves it"
    )


def _move_one(
    connection: WriteConnection, root: Path, move: Move, owner: int, changes: Changes
) -> None:
    """Let the image lie at its new path; its faces need not be embedded again."""
    known, file = move.known, move.file
    images.remove_at(connection, known.id, str(root), file.locator)
    twin = images.with_content(connection, owner, known.sha256)
    if twin is not None and twin.id != known.id:
        _log_deletion(connection, known.id, changes)
        images.remove_images(connection, [known.id])
        row = _row(file, root, known.sha256, "duplicate", "same content as another file")
        images.add(connection, replace(row, gallery_id=twin.gallery_id, identity_id=owner))
        return
    values = {
        "source": "tree",
        "root": str(root),
        "locator": file.locator,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "identity_id": owner,
    }
    images.update_image(connection, known.id, values)
    if known.identity_id != owner:
        for space, faces in images.faces_of(connection, t.image.c.id == known.id).items():
            changes.setdefault(space, []).extend((face, "I") for face in faces)


def _store_one(place: _Place, owner: int, item: Item) -> tuple[str, str | None]:
    """Let the image's row be as the file is; returns the outcome and a reason to report."""
    file, known, found, additions = item.file, item.known, item.extracted, place.additions
    if item.problem is not None:
        return "unreadable", item.problem
    if found is None:
        if known is not None:
            stamp = {"size": file.size, "mtime_ns": file.mtime_ns}
            images.update_image(place.connection, known.id, stamp)
        return "unchanged", None
    twin = additions.twin(owner, item.sha256) if found.state in images.USABLE else None
    if known is not None:
        additions.remove(known.id)
    if twin is not None and twin.root is None:
        additions.place(twin, _row(file, place.root, item.sha256, found.state, None))
        return "unchanged", None
    state, reason = found.state, found.reason
    if twin is not None:
        state, reason = "duplicate", f"same content as {twin.locator}"
    row = replace(
        _row(file, place.root, item.sha256, state, reason),
        gallery_id=place.gallery.id,
        identity_id=owner,
        width=found.width,
        height=found.height,
        flags=tuple(concern.check for concern in item.concerns),
    )
    additions.add(row, found if twin is None else None)
    outcome = ("changed" if known is not None else "added") if state == "ready" else state
    if item.concerns and state == "ready":
        reason = f"flagged: {told(item.concerns)}"
    return outcome, reason


def _log_deletion(connection: WriteConnection, image_id: int, changes: Changes) -> None:
    for space, faces in images.faces_of(connection, t.image.c.id == image_id).items():
        changes.setdefault(space, []).extend((face, "D") for face in faces)


def _row(file: TreeFile, root: Path, sha256: bytes, state: str, reason: str | None) -> ImageRow:
    return ImageRow(
        gallery_id=0,
        identity_id=0,
        sha256=sha256,
        size=file.size,
        state=state,
        reason=reason,
        root=str(root),
        locator=file.locator,
        mtime_ns=file.mtime_ns,
    )


def ahead(pool: ThreadPoolExecutor, jobs: Iterable[T], work: Callable[[T], U]) -> Iterator[U]:
    """Results in order, with at most a few batches under way."""
    iterator = iter(jobs)
    waiting = deque(pool.submit(work, job) for job in islice(iterator, 2 * BATCH))
    try:
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(work, job) for job in islice(iterator, 1))
    finally:
        for future in waiting:
            future.cancel()


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch

"""What a run over a folder would do: the plan, with vanished images found again by content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer import crawl
from indexer.crawl import Move, Plan, Tree, TreeFile
from indexer.errors import TooManyVanished
from indexer.store.images import Elsewhere, Known


@dataclass(frozen=True, slots=True)
class Diff:
    """Moves known by content, and the rest of the plan."""

    plan: Plan
    moves: tuple[Move, ...]
    fresh: tuple[TreeFile, ...]
    vanished: tuple[Known, ...]
    skipped: tuple[crawl.Skipped, ...]

    def counts(self) -> dict[str, int]:
        return {
            "unchanged": self.plan.unchanged,
            "new": len(self.fresh),
            "changed": len(self.plan.touched),
            "moved": len(self.moves),
            "vanished": len(self.vanished),
            "skipped": len(self.skipped),
        }


def diff(tree: Tree, known: Sequence[Known], elsewhere: Sequence[Elsewhere]) -> Diff:
    """Reads the content of files only where it may be that of a vanished image."""
    plan = crawl.reconcile(tree, known)
    search = _Search(plan, elsewhere)
    moves: list[Move] = []
    fresh: list[TreeFile] = []
    for file in plan.fresh:
        source = search.find(tree.root, file)
        if source is None:
            fresh.append(file)
        else:
            moves.append(Move(source, file))
    moves += _promoted(known, plan, search)
    found = {move.known.id for move in moves}
    vanished = tuple(k for k in plan.vanished if k.id not in found)
    return Diff(plan, tuple(moves), tuple(fresh), vanished, tree.skipped)


def guard(diff: Diff, max_delete: float) -> None:
    """Raises TooManyVanished when more per cent of the known files are gone than allowed."""
    plan = diff.plan
    known = plan.unchanged + len(plan.touched) + len(plan.vanished)
    gone = len(diff.vanished)
    if gone and 100.0 * gone > max_delete * known:
        raise TooManyVanished(
            f"{gone} of {known} known files are gone, more than {max_delete:g} %: "
            "is the folder mounted? Nothing was changed; --max-delete 100 removes them"
        )


class _Search:
    """Vanished images by content, each found at most once."""

    def __init__(self, plan: Plan, elsewhere: Sequence[Elsewhere]) -> None:
        self._plan = plan
        self._vanished: dict[bytes, list[Known]] = {}
        for known in plan.vanished:
            if known.state in ("ready", "no_face"):
                self._vanished.setdefault(known.sha256, []).append(known)
        self._elsewhere = {(e.known.identity, e.known.sha256): e for e in elsewhere}
        self._sizes = {k.size for k in plan.vanished} | {e.known.size for e in elsewhere}

    def find(self, root: Path, file: TreeFile) -> Known | None:
        """The image that now lies at `file`."""
        if file.size not in self._sizes:
            return None
        sha256 = _content(root, file)
        if sha256 is None:
            return None
        owner = self._plan.owner(file)
        return self.claim(sha256, owner) or self._adopt(sha256, owner)

    def claim(self, sha256: bytes, owner: str, *, only: bool = False) -> Known | None:
        """A vanished image of that content: the owner's if there is one, else anybody's."""
        rows = self._vanished.get(sha256, [])
        own = [k for k in rows if k.identity == owner]
        best = next(iter(own if only else own + rows), None)
        if best is not None:
            rows.remove(best)
        return best

    def _adopt(self, sha256: bytes, owner: str) -> Known | None:
        """The same person's image from another root, if its file is no longer there."""
        found = self._elsewhere.get((owner, sha256))
        if found is None or Path(found.root, found.known.locator).exists():
            return None
        del self._elsewhere[owner, sha256]
        return found.known


def _promoted(known: Sequence[Known], plan: Plan, search: _Search) -> list[Move]:
    """Copies whose first file vanished: the image moves to where the copy lies."""
    gone = {k.id for k in plan.vanished}
    moves = []
    for copy in known:
        if copy.state != "duplicate" or copy.id in gone:
            continue
        first = search.claim(copy.sha256, copy.identity, only=True)
        if first is not None:
            folder = crawl.folder_of(copy.locator)
            moves.append(Move(first, TreeFile(copy.locator, folder, copy.size, copy.mtime_ns)))
    return moves


def _content(root: Path, file: TreeFile) -> bytes | None:
    try:
        with (root / file.locator).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").digest()
    except OSError:
        return None

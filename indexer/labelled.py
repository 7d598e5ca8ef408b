"""Photographs with known answers: a file of pairs, or a folder of people, as pairs in folds."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer import crawl
from indexer.errors import IndexerError
from recognition import protocol
from recognition.images import suffixes
from recognition.protocol import Flags, Ints

COLUMNS = (("file_a", "file_b", "same"), ("file_x", "file_y", "Decision"))
FEW = "as many as can hold two people each, one with two photographs"
YES, NO = ("1", "yes", "true"), ("0", "no", "false")


class CannotEvaluate(IndexerError):
    """The pairs or the folder cannot be used to measure accuracy; the message says why."""


@dataclass(frozen=True, slots=True)
class Folds:
    """`origin`: file or made. `disjoint`: whether nobody is in two folds; None: not known."""

    number: int
    origin: str
    disjoint: bool | None
    note: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """`files` lie below `root`; `pairs` (n, 2) are numbers of files, `owners` numbers of people by file.

    `owners` is None where people cannot be told from the paths. `skipped`: files that a folder holds and that were
    not taken, with their reasons.
    """

    name: str
    kind: str
    root: Path
    files: tuple[str, ...]
    owners: Ints | None
    pairs: Ints
    same: Flags
    fold_of: Ints
    folds: Folds
    skipped: tuple[crawl.Skipped, ...] = ()

    @property
    def people(self) -> Ints:
        """(n, 2) of the pairs; each pair's own number where people are not known."""
        if self.owners is None:
            return np.repeat(np.arange(len(self.pairs))[:, None], 2, axis=1)
        return self.owners[self.pairs]


def read(source: Path, root: Path | None) -> Labelled:
    """Raises CannotEvaluate, NoSuchTree."""
    if source.is_dir():
        if root is not None:
            raise CannotEvaluate("--root is for files of pairs; a folder is its own")
        return read_tree(source)
    return read_pairs(source, root or source.parent)


def read_tree(root: Path) -> Labelled:
    """Folders are people, by the rules of `index`. Raises NoSuchTree, CannotEvaluate."""
    tree = crawl.scan(root, suffixes())
    files = sorted(tree.files, key=lambda file: file.locator)
    names, owners = np.unique([file.folder for file in files], return_inverse=True)
    owners = owners.astype(np.int64)
    photos = np.bincount(owners, minlength=len(names)).astype(np.int64)
    if len(names) < 2 or photos.max() < 2:
        raise CannotEvaluate(
            f"{root} has photographs of {len(names)} people; two are needed, one with two photographs"
        )
    fold_of = protocol.folds_of_people(photos)[owners]
    genuine = protocol.genuine_pairs(owners)
    pairs = np.concatenate([genuine, protocol.impostor_pairs(owners, fold_of)])
    number = len(np.unique(fold_of))
    note = None if number == protocol.FOLDS else FEW
    return Labelled(
        name=tree.root.name,
        kind="tree",
        root=tree.root,
        files=tuple(file.locator for file in files),
        owners=owners,
        pairs=pairs,
        same=np.arange(len(pairs)) < len(genuine),
        fold_of=fold_of[pairs[:, 0]],
        folds=Folds(number, "made", True, note),
        skipped=tree.skipped,
    )


def read_pairs(path: Path, root: Path) -> Labelled:
    """A CSV with file_a, file_b, same and perhaps fold, or file_x, file_y, Decision. Raises CannotEvaluate."""
    rows = _rows(path)
    a, b, answer = _columns(path, rows[0])
    same = np.array([_answer(path, number, row[answer]) for number, row in enumerate(rows, 2)])
    if same.all() or not same.any():
        raise CannotEvaluate(f"{path} has pairs of one kind only; both kinds are needed")
    files = tuple(sorted({row[key] for row in rows for key in (a, b)}))
    if not any((root / file).is_file() for file in files):
        raise CannotEvaluate(f"none of the files of {path} is in {root}; say where with --root")
    numbers = {file: number for number, file in enumerate(files)}
    pairs = np.array([(numbers[row[a]], numbers[row[b]]) for row in rows], np.int64)
    owners = owners_of(files, pairs, same)
    fold_of, folds = _folds(rows, same, None if owners is None else owners[pairs])
    return Labelled(path.name, "pairs", root, files, owners, pairs, same, fold_of, folds)


def owners_of(files: Sequence[str], pairs: Ints, same: Flags) -> Ints | None:
    """People by the paths' first folders, or their last, if that agrees with every pair's answer; else None."""
    parts = [tuple(p for p in file.replace("\\", "/").split("/")[:-1] if p) for file in files]
    if not all(parts):
        return None
    for names in ([p[0] for p in parts], ["/".join(p) for p in parts]):
        owners = np.unique(names, return_inverse=True)[1].astype(np.int64)
        if np.array_equal(owners[pairs[:, 0]] == owners[pairs[:, 1]], same):
            return owners
    return None


def _rows(path: Path) -> list[Mapping[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows: list[Mapping[str, str]] = list(csv.DictReader(file))
    except OSError as error:
        raise CannotEvaluate(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CannotEvaluate(f"{path} is not a CSV file: {error}") from error
    if not rows:
        raise CannotEvaluate(f"{path} has no pairs")
    return rows


def _columns(path: Path, row: Mapping[str, str]) -> tuple[str, str, str]:
    for names in COLUMNS:
        if set(names) <= set(row):
            return names
    known = " or ".join(", ".join(names) for names in COLUMNS)
    raise CannotEvaluate(f"{path} has other columns than {known}")


def _answer(path: Path, line: int, text: str | None) -> bool:
    answer = (text or "").strip().lower()
    if answer not in YES + NO:
        raise CannotEvaluate(f"{path}, line {line}: {text!r} is neither yes nor no (1 nor 0)")
    return answer in YES


def _folds(
    rows: Sequence[Mapping[str, str]], same: Flags, people: Ints | None
) -> tuple[Ints, Folds]:
    names = [(row.get("fold") or "").strip() for row in rows]
    if all(names):
        known, fold_of = np.unique(names, return_inverse=True)
        number = len(known)
        note = None if number == protocol.FOLDS else f"the file has {number} folds; all were used"
        disjoint = None if people is None else _disjoint(fold_of, people)
        return fold_of.astype(np.int64), Folds(number, "file", disjoint, note)
    fold_of, apart = protocol.folds_of_pairs(same, people)
    note = None
    if people is None:
        note = "people cannot be told from the paths: the same person may be in two folds"
    elif not apart:
        note = "pairs join too many people: the same person may be in two folds"
    return fold_of, Folds(len(np.unique(fold_of)), "made", None if people is None else apart, note)


def _disjoint(fold_of: Ints, people: Ints) -> bool:
    """Whether every person is in one fold."""
    codes = np.unique(np.column_stack([people.ravel(), np.repeat(fold_of, 2)]), axis=0)
    return len(codes) == len(np.unique(people))

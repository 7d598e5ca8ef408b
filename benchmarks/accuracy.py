"""The table of docs/accuracy.md: every model and detector whose weights are here, on labelled pairs and their people.

    python -m benchmarks.accuracy PAIRS.csv --root FOLDER [--models A,B] [--detectors C,D] [--deepface PAIRS] [--resume]

Verification on the pairs of the file as they are, and on the tree of all photographs that the folder has of the people
in them: many more pairs of strangers, and people to identify. `--deepface` also sets DeepFace, in an environment of its
own, beside facesearch on so many of the pairs. What was measured is kept in the scratch folder, as
`facesearch evaluate --output` writes it; the page is made from all that is there.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import deepface_env
from benchmarks.machine import ROOT, say, this_machine
from benchmarks.report import put
from indexer import evaluate, report
from indexer.evaluate import Evaluation, Evaluator, Seen
from indexer.labelled import Labelled, read_pairs, read_tree
from indexer.progress import Silent
from indexer.settings import Settings
from indexer.workshop import recognizer
from recognition import registry
from recognition.pipeline import Recipe, Recognizer
from recognition.protocol import Ints
from recognition.spec import Spec, alternatives
from recognition.types import ALIGNS, METRICS, Embeddings, Metric
from recognition.weights import WeightsCache

PAGE = ROOT / "docs" / "accuracy.md"
DIRECT: tuple[Metric, ...] = ("cosine", "euclidean")
"""The others put pairs in the same order as the cosine does."""
COMPARED = ("opencv", "mtcnn")
PAIRS, TREE, BESIDE = "pairs", "tree", "beside"
NOTHING = (np.nan, np.nan, np.nan, np.nan)


@dataclass(frozen=True, slots=True)
class Bench:
    """`kept`: the folder of what was measured; `resume`: leave out what is there."""

    settings: Settings
    recognizer: Recognizer
    kept: Path
    resume: bool

    def place(self, part: str, by: str, recipe: Recipe) -> Path:
        return self.kept / part / f"{by}_{recipe.model}_{recipe.detector}_{recipe.align}"

    def done(self, place: Path) -> bool:
        return self.resume and (place / "evaluation.json").exists()

    def look(self, labelled: Labelled, recipe: Recipe) -> list[Seen]:
        say(f"{recipe} over {len(labelled.files):,} files")
        return Evaluator(self.recognizer, self.settings).look(labelled, recipe, Silent())

    def measured(
        self, labelled: Labelled, recipe: Recipe, seen: list[Seen], metrics: Sequence[Metric]
    ) -> Evaluation:
        spec = self.recognizer.spec(recipe)
        return evaluate.measured(labelled, spec, recipe, seen, metrics, Silent())


def here(spec: Spec, cache: WeightsCache) -> bool:
    """Whether its weights may be used and are in the cache or in packages."""
    return any(
        all(cache.permits(w) and (w.package or cache.present(w)) for w in files)
        for files in (spec.weights, *alternatives(spec))
    )


def recipes(bench: Bench, models: str, detectors: str) -> Iterator[Recipe]:
    """Each model with each detector that was asked for, whose weights are here or come from packages."""
    cache = bench.recognizer.resources.weights
    for model, spec in bench.recognizer.models.specs.items():
        for detector, finder in registry.DETECTORS.items():
            asked = (not models or model in models.split(",")) and (
                detector in detectors.split(",") if detectors else detector != "skip"
            )
            if asked and here(spec, cache) and here(finder, cache):
                yield Recipe.usual(spec, detector)


def measure(bench: Bench, recipe: Recipe, pairs: Labelled, tree: Labelled) -> None:
    """Every photograph once, for both protocols."""
    places = [bench.place(part, "facesearch", recipe) for part in (PAIRS, TREE)]
    if all(map(bench.done, places)):
        return
    seen = bench.look(tree, recipe)
    by_file = dict(zip(tree.files, seen, strict=True))
    of_pairs = [by_file[file] for file in pairs.files]
    keep(bench.measured(pairs, recipe, of_pairs, METRICS), places[0])
    keep(bench.measured(tree, recipe, seen, DIRECT), places[1])


def beside(bench: Bench, pairs: Labelled, scratch: Path) -> None:
    """DeepFace, and facesearch with the same detectors in both ways, and with the default one."""
    spec = registry.MODELS["Dlib"]
    ours = [
        Recipe.usual(spec, bench.settings.detector),
        *(
            replace(Recipe.usual(spec, detector), align=align)
            for detector in COMPARED
            for align in ALIGNS
            if align != "none"
        ),
    ]
    for recipe in ours:
        place = bench.place(BESIDE, "facesearch", recipe)
        if not bench.done(place):
            seen = bench.look(pairs, recipe)
            keep(bench.measured(pairs, recipe, seen, METRICS), place)
    for detector in COMPARED:
        recipe = replace(Recipe.usual(spec, detector), align="deepface")
        place = bench.place(BESIDE, "DeepFace", recipe)
        if not bench.done(place):
            weights = bench.recognizer.resources.weights
            told = np.load(deepface_env.embed(scratch, weights, detector, pairs.root, pairs.files))
            seen = theirs(told["rows"], told["counts"])
            found = bench.measured(pairs, recipe, seen, METRICS)
            keep(found, place, deepface_ms=1000 * float(np.median(told["seconds"])))


def theirs(rows: Embeddings, counts: Ints) -> list[Seen]:
    """DeepFace's embeddings by file; its stages are not told apart."""
    parts = np.split(rows, np.cumsum(counts)[:-1])
    return [Seen(part, None if len(part) else evaluate.NO_FACE, NOTHING) for part in parts]


def keep(found: Evaluation, place: Path, **facts: float) -> None:
    result = report.data(found, failures=False) | {"machine": str(this_machine()), **facts}
    report.write(found, result, place)


def tree_of(pairs: Labelled, scratch: Path) -> Labelled:
    """All photographs that the folder has of the people in the pairs, as a tree of its own."""
    folder = scratch / "tree"
    for name in sorted({Path(file).parts[0] for file in pairs.files}):
        if not (folder / name).exists():
            shutil.copytree(pairs.root / name, folder / name)
    return read_tree(folder)


def thinned(source: Path, root: Path, most: int, scratch: Path) -> Labelled:
    """So many of the pairs, evenly from the whole file."""
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    chosen = [rows[at] for at in np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
    path = scratch / source.name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(chosen)
    return read_pairs(path, root)


def render(kept: Path) -> str:
    """The tables of everything that was kept."""
    pairs, tree, compared = (_results(kept / part) for part in (PAIRS, TREE, BESIDE))
    parts = []
    if pairs:
        parts += ["### Verification", _counts(pairs[0][1]), _table(pairs, report.VERIFICATION)]
        parts += ["### Confidence", _table(pairs, report.CONFIDENCE)]
    if tree:
        parts += ["### Low false accept rates", _counts(tree[0][1]), _table(tree, report.TARS)]
        parts += ["### Identification", _ranks(tree[0][1])]
        parts += [_table(tree, report.IDENTIFICATION)]
        parts += ["### Photographs and time", f"Time: {report.MS}."]
        parts += [_table(tree, report.PHOTOGRAPHS)]
    if compared:
        parts += ["### Beside DeepFace", _counts(compared[0][1])]
        parts += [_table(compared, report.VERIFICATION, by=True)]
        parts += [_table(compared, report.PHOTOGRAPHS, by=True), *_deepface_times(compared)]
    machines = dict.fromkeys(r["machine"] for _, r in (*pairs, *tree, *compared))
    return "\n\n".join([*parts, *(f"Measured on {machine}." for machine in machines)])


Kept = list[tuple[str, Mapping[str, Any]]]


def _results(folder: Path) -> Kept:
    """Who made it, and `evaluation.json`."""
    return [
        (path.parent.name.partition("_")[0], json.loads(path.read_text()))
        for path in sorted(folder.glob("*/evaluation.json"))
    ]


def _table(results: Kept, title: str, *, by: bool = False) -> str:
    rows = []
    for maker, result in results:
        recipe = {key: result["recipe"][key] for key in ("model", "detector", "align")}
        who = {"by": maker, **recipe} if by else recipe
        rows += [who | row for row in dict(report.tables(result)).get(title, [])]
    return report.markdown_table(rows)


def _counts(result: Mapping[str, Any]) -> str:
    source, folds = result["source"], result["folds"]
    origin = "as in the file" if folds["origin"] == "file" else "made by people"
    return (
        f"{source['pairs']:,} pairs of {source['files']:,} photographs of {source['people']:,} people:"
        f" {source['same']:,} of one person, {source['strangers']:,} of strangers;"
        f" number of folds: {folds['number']} ({origin})."
    )


def _ranks(result: Mapping[str, Any]) -> str:
    ranks = result["identification"]
    return (
        f"{ranks['enrolled']:,} people enrolled with one photograph each, {ranks['probes']:,} other photographs"
        " of them searched for."
    )


def _deepface_times(results: Kept) -> list[str]:
    return [
        f"DeepFace {deepface_env.VERSION} with {result['recipe']['detector']}: {result['deepface_ms']:.0f} ms of"
        " processor time a photograph (the median, all its threads together)."
        for maker, result in results
        if maker == "DeepFace"
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--root", type=Path, help="folder of the files; the CSV's by default")
    parser.add_argument("--models", default="", help="all whose weights are here by default")
    parser.add_argument("--detectors", default="", help="likewise")
    parser.add_argument("--deepface", type=int, default=0, metavar="PAIRS", help="0: not at all")
    parser.add_argument("--resume", action="store_true", help="leave out what is kept")
    scratch = Path(tempfile.gettempdir()) / "facesearch-accuracy"
    parser.add_argument("--scratch", type=Path, default=scratch)
    parser.add_argument("--page", type=Path, default=PAGE)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    given.scratch.mkdir(parents=True, exist_ok=True)
    root = given.root or given.pairs.parent
    settings = Settings()
    bench = Bench(settings, recognizer(settings), given.scratch / "kept", given.resume)
    pairs = read_pairs(given.pairs, root)
    tree = tree_of(pairs, given.scratch)
    for recipe in recipes(bench, given.models, given.detectors):
        measure(bench, recipe, pairs, tree)
    if given.deepface:
        beside(bench, thinned(given.pairs, root, given.deepface, given.scratch), given.scratch)
    put(given.page, "accuracy", render(bench.kept), "# Accuracy\n\n")


if __name__ == "__main__":
    main()

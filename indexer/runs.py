"""What the commands that run over a whole gallery do: `index`, `index --watch`, `reindex`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from indexer.audit import COMMAND
from indexer.commands import Tools
from indexer.engines import Choice, Engine, opened
from indexer.errors import IndexerError
from indexer.index import Indexer
from indexer.progress import Run, display
from indexer.reindex import Reindexer
from indexer.store import jobs
from indexer.store.engine import Database
from recognition.images import suffixes
from recognition.pipeline import Recipe


@dataclass(frozen=True, slots=True)
class Order:
    """`max_delete`: how many per cent of the known files may be gone; `quiet`: show no progress."""

    gallery: str
    max_delete: float
    engine: Choice = field(default_factory=Choice)
    quiet: bool = False


def index(tools: Tools, tree: Path, recipe: Recipe, order: Order) -> dict[str, Any]:
    """One reconciliation; the summary."""
    # The answer's place is not for what a cluster prints of its workers.
    with (
        redirect_stdout(sys.stderr),
        opened(order.engine, tools.recognizer, tools.settings) as engine,
    ):
        return _index(tools, engine, tree, recipe, order)


def _index(
    tools: Tools, engine: Engine, tree: Path, recipe: Recipe, order: Order
) -> dict[str, Any]:
    indexer = Indexer(tools.database, tools.recognizer, tools.settings, order.gallery, engine)
    with started(tools.database, "index", order.gallery, order.quiet) as run:
        indexer.run(tree, recipe, order.max_delete, run)
    return summary(order.gallery, run)


def watch(tools: Tools, tree: Path, recipe: Recipe, order: Order) -> Iterator[dict[str, Any]]:
    """Reconcile after every change of the folder, until interrupted."""
    import watchfiles  # noqa: PLC0415

    endings, silent = suffixes(), replace(order, quiet=True)
    with opened(order.engine, tools.recognizer, tools.settings) as engine:
        for changes in watchfiles.watch(tree, raise_interrupt=False):
            if any(
                Path(path).suffix.lower() in endings or Path(path).is_dir() for _, path in changes
            ):
                try:
                    with redirect_stdout(sys.stderr):
                        done = _index(tools, engine, tree, recipe, silent)
                except IndexerError as error:
                    print(error, file=sys.stderr, flush=True)
                else:
                    yield done


def reindex(tools: Tools, recipe: Recipe, drop_old: bool, order: Order) -> dict[str, Any]:
    """Move a gallery; the summary."""
    with (
        redirect_stdout(sys.stderr),
        opened(order.engine, tools.recognizer, tools.settings) as engine,
        started(tools.database, "reindex", order.gallery, order.quiet) as run,
    ):
        reindexer = Reindexer(
            tools.database, tools.recognizer, tools.settings, order.gallery, engine
        )
        reindexer.run(recipe, order.max_delete, run)
        if drop_old:
            reindexer.drop_unused(run)
    return summary(order.gallery, run) | {"model": recipe.model, "detector": recipe.detector}


def dry_run(tools: Tools, tree: Path, gallery: str, max_delete: float) -> dict[str, Any]:
    """The difference between folder and gallery, by file."""
    diff = Indexer(tools.database, tools.recognizer, tools.settings, gallery).diff(tree)
    known = diff.plan.unchanged + len(diff.plan.touched) + len(diff.plan.vanished)
    return {
        "counts": diff.counts(),
        "new": [file.locator for file in diff.fresh],
        "changed": [move.file.locator for move in diff.plan.touched],
        "moved": [f"{move.known.locator} -> {move.file.locator}" for move in diff.moves],
        "vanished": [k.locator for k in diff.vanished],
        "skipped": [asdict(skipped) for skipped in diff.skipped],
        "would_stop": bool(diff.vanished) and 100 * len(diff.vanished) > max_delete * known,
    }


@contextmanager
def started(database: Database, command: str, gallery: str, quiet: bool) -> Iterator[Run]:
    """The run's job row, finished whatever happens."""
    with database.write() as connection:
        params = {"command": command}
        job = jobs.create(connection, "command", gallery, params, "running")
        COMMAND.record(connection, command, gallery, job_id=str(job))
    with Run(database, job, display(quiet)) as run:
        yield run


def summary(gallery: str, run: Run) -> dict[str, Any]:
    return {"gallery": gallery, "counts": dict(run.counts), "errors": run.errors}

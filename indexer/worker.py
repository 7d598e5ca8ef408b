"""Runs one job from the database: `python -m indexer.worker JOB_ID`, started by a service."""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from pathlib import Path

from indexer.errors import IndexerError
from indexer.index import Indexer
from indexer.progress import Run, Silent
from indexer.reindex import Reindexer
from indexer.settings import Settings
from indexer.store import galleries, jobs, spaces
from indexer.store.engine import Database
from indexer.store.jobs import Job
from indexer.workshop import recognizer
from recognition.errors import RecognitionError
from recognition.pipeline import Recipe, Recognizer
from recognition.registry import Models

MAX_DELETE = 20.0
NICENESS = 5


def run(settings: Settings, job_id: uuid.UUID, stop: threading.Event) -> int:
    """The exit code; the job's row tells more."""
    database = Database.open(settings)
    with database.read() as connection:
        job = jobs.get(connection, job_id)
    recognise = recognizer(settings)
    try:
        with Run(database, job_id, Silent()) as progress:
            progress.interrupted = stop.is_set
            _work(database, recognise, settings, job, progress)
    except (IndexerError, RecognitionError) as error:
        print(error, file=sys.stderr)
        if stop.is_set():
            with database.write() as connection:
                jobs.requeue(connection, job_id)
        return 1
    finally:
        database.close()
    return 0


def _work(
    database: Database, recognise: Recognizer, settings: Settings, job: Job, progress: Run
) -> None:
    recipe = _recipe(database, settings, recognise.models, job)
    recognise.permit(recipe.model, recipe.detector)
    reindexer = Reindexer(database, recognise, settings, job.gallery)
    reindexer.run(recipe, MAX_DELETE, progress)
    if job.params.get("path"):
        indexer = Indexer(database, recognise, settings, job.gallery)
        indexer.run(Path(job.params["path"]), recipe, MAX_DELETE, progress)


def _recipe(database: Database, settings: Settings, models: Models, job: Job) -> Recipe:
    """What the job asks for; the gallery's present model and detector where it says nothing."""
    with database.read() as connection:
        gallery = galleries.get(connection, job.gallery)
        if gallery.active_space_id is not None:
            recipe = spaces.get(connection, gallery.active_space_id).recipe
        else:
            recipe = Recipe.usual(models.installed(settings.model), settings.detector)
    return recipe.with_names(models, job.params.get("model"), job.params.get("detector"))


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    os.nice(NICENESS)
    sys.exit(run(Settings(), uuid.UUID(sys.argv[1]), stop))


if __name__ == "__main__":
    main()

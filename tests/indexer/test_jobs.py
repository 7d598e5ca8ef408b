"""The queue of jobs, without anybody to run them."""

from __future__ import annotations

from sqlalchemy import text

from indexer.store import jobs
from indexer.store.engine import Database


def create(database: Database, kind: str = "reindex", state: str = "queued") -> jobs.Job:
    with database.write() as connection:
        job_id = jobs.create(connection, kind, "nobody's", {}, state)  # type: ignore[arg-type]
        return jobs.get(connection, job_id)


def age(database: Database, job: jobs.Job) -> None:
    with database.write() as connection:
        connection.execute(
            text("UPDATE job SET heartbeat_at = now() - interval '2 minutes' WHERE id = :id"),
            {"id": job.id},
        )


def drain(database: Database) -> None:
    """No other job is left waiting."""
    with database.write() as connection:
        connection.execute(text("UPDATE job SET state = 'cancelled' WHERE state = 'queued'"))


def test_a_queued_job_is_cancelled_at_once(database: Database) -> None:
    job = create(database)
    with database.write() as connection:
        assert jobs.cancel(connection, job.id).state == "cancelled"


def test_a_running_job_is_asked_to_stop(database: Database) -> None:
    job = create(database, state="running")
    with database.write() as connection:
        asked = jobs.cancel(connection, job.id)
        assert (asked.state, asked.cancel_requested) == ("running", True)
        assert jobs.report(connection, job.id, jobs.Progress("x", 1, 2, {}))
        jobs.finish(connection, job.id, "cancelled")
        jobs.finish(connection, job.id, "done")
        assert jobs.get(connection, job.id).state == "cancelled", "the first end counts"


def test_the_oldest_job_is_claimed_first_and_only_once(database: Database) -> None:
    drain(database)
    first, second = create(database), create(database)
    with database.write() as connection:
        claimed = [jobs.claim(connection) for _ in range(3)]
    assert [job.id if job else None for job in claimed] == [first.id, second.id, None]


def test_a_job_whose_process_died_is_queued_again_but_not_for_ever(database: Database) -> None:
    drain(database)
    job = create(database)
    for _ in range(jobs.MAX_ATTEMPTS):
        with database.write() as connection:
            claimed = jobs.claim(connection)
            assert claimed is not None
            assert claimed.id == job.id
        age(database, job)
    with database.write() as connection:
        assert jobs.claim(connection) is None
        assert jobs.get(connection, job.id).state == "failed"


def test_the_run_of_a_command_that_died_is_failed(database: Database) -> None:
    job = create(database, kind="command", state="running")
    age(database, job)
    with database.write() as connection:
        jobs.reap(connection)
        assert jobs.get(connection, job.id).error == "its process died"

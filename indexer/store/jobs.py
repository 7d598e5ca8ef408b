"""Jobs: queued by the API or the commands, claimed by one runner, watched by many."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Row, Select, case, func, insert, not_, select, text, update

from indexer.errors import NotFound
from indexer.store import tables as t
from indexer.store.engine import ReadConnection, WriteConnection

STALE_AFTER = text("interval '60 seconds'")
MAX_ATTEMPTS = 3
DIED = "its process died"
FINISHED = ("done", "failed", "cancelled")
State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Job:
    id: uuid.UUID
    kind: str
    gallery: str
    params: dict[str, Any]
    state: State
    phase: str
    done: int
    total: int | None
    counts: dict[str, int]
    errors: list[dict[str, str]]
    error: str | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: `done` of `total` (None while unknown) and counts by outcome."""

    phase: str
    done: int
    total: int | None
    counts: dict[str, int]
    errors: tuple[dict[str, str], ...] = ()


def create(
    connection: WriteConnection, kind: str, gallery: str, params: dict[str, Any], state: str
) -> uuid.UUID:
    """`state` is queued, or running when the caller does the work itself."""
    values: dict[str, Any] = {"kind": kind, "gallery": gallery, "params": params, "state": state}
    if state == "running":
        values |= {"started_at": func.now(), "heartbeat_at": func.now()}
    made = connection.scalar(insert(t.job).values(values).returning(t.job.c.id))
    if made is None:
        raise NotFound("job", "new")
    return uuid.UUID(str(made))


def get(connection: ReadConnection | WriteConnection, job_id: uuid.UUID) -> Job:
    row = connection.execute(_columns().where(t.job.c.id == job_id)).one_or_none()
    if row is None:
        raise NotFound("job", str(job_id))
    return _job(row)


def latest(connection: ReadConnection, limit: int) -> list[Job]:
    """Newest first."""
    rows = connection.execute(_columns().order_by(t.job.c.created_at.desc()).limit(limit))
    return [_job(row) for row in rows]


def claim(connection: WriteConnection) -> Job | None:
    """The oldest queued job, now running. First gives up on, or queues again, what has died."""
    c = t.job.c
    reap(connection)
    row = connection.execute(
        select(c.id)
        .where(c.state == "queued")
        .order_by(c.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if row is None:
        return None
    now = {"started_at": func.now(), "heartbeat_at": func.now(), "attempts": c.attempts + 1}
    connection.execute(update(t.job).where(c.id == row.id).values({"state": "running", **now}))
    return get(connection, row.id)


def reap(connection: WriteConnection) -> None:
    """Jobs whose process has been silent for a minute: queued anew, or failed if nobody would run them.

    A command's own run is failed at once: running the command again carries on.
    """
    c = t.job.c
    # A heartbeat in the future is one from before the clock was put back.
    apart = not_(c.heartbeat_at.between(func.now() - STALE_AFTER, func.now() + STALE_AFTER))
    silent = (c.state == "running") & apart
    lost = silent & ((c.kind == "command") | (c.attempts >= MAX_ATTEMPTS))
    failed = {"state": "failed", "error": DIED, "finished_at": func.now()}
    connection.execute(update(t.job).where(lost).values(failed))
    connection.execute(update(t.job).where(silent).values(state="queued"))


def report(connection: WriteConnection, job_id: uuid.UUID, progress: Progress) -> bool:
    """Store the progress; returns whether the job was asked to stop.

    One that was given up because it was silent, or because the clock jumped, is running after all.
    """
    c = t.job.c
    given_up = (c.state == "queued") | ((c.state == "failed") & (c.error == DIED))
    values = {
        "state": case((given_up, "running"), else_=c.state),
        "error": case((given_up, None), else_=c.error),
        "finished_at": case((given_up, None), else_=c.finished_at),
        "phase": progress.phase,
        "done": progress.done,
        "total": progress.total,
        "counts": progress.counts,
        "errors": list(progress.errors),
        "heartbeat_at": func.now(),
    }
    return bool(
        connection.scalar(
            update(t.job)
            .where(t.job.c.id == job_id)
            .values(values)
            .returning(t.job.c.cancel_requested)
        )
    )


def finish(
    connection: WriteConnection, job_id: uuid.UUID, state: str, error: str | None = None
) -> None:
    connection.execute(
        update(t.job)
        .where(t.job.c.id == job_id, t.job.c.state.not_in(FINISHED))
        .values(state=state, error=error, finished_at=func.now())
    )


def requeue(connection: WriteConnection, job_id: uuid.UUID) -> None:
    """Let another runner carry on with a job whose process was told to end."""
    connection.execute(
        update(t.job)
        .where(t.job.c.id == job_id, t.job.c.state != "done")
        .values(state="queued", finished_at=None, error=None, attempts=0)
    )


def cancel(connection: WriteConnection, job_id: uuid.UUID) -> Job:
    """Ask a running job to stop; a queued one is cancelled at once."""
    connection.execute(select(t.job.c.id).where(t.job.c.id == job_id).with_for_update())
    job = get(connection, job_id)
    if job.state == "queued":
        finish(connection, job_id, "cancelled")
    elif not job.finished:
        connection.execute(update(t.job).where(t.job.c.id == job_id).values(cancel_requested=True))
    return get(connection, job_id)


def _columns() -> Select[Any]:
    c = t.job.c
    return select(
        c.id,
        c.kind,
        c.gallery,
        c.params,
        c.state,
        c.phase,
        c.done,
        c.total,
        c.counts,
        c.errors,
        c.error,
        c.cancel_requested,
        c.created_at,
        c.started_at,
        c.finished_at,
    )


def _job(row: Row[*tuple[Any, ...]]) -> Job:
    return Job(*row)


def scrub(connection: WriteConnection, gallery: str, person: str | None) -> None:
    """Forget what the gallery's jobs say of a person's files; of a gallery that is erased, everything.

    A path names its person by its first folder, or by the file's own name.
    """
    c = t.job.c
    mine = c.gallery == gallery
    if person is None:
        gone: dict[str, Any] = {"errors": [], "params": {}, "error": None}
        connection.execute(update(t.job).where(mine, c.state.in_(FINISHED)).values(gone))
        return
    rows = connection.execute(
        select(c.id, c.errors).where(mine, func.jsonb_array_length(c.errors) > 0)
    )
    for job_id, errors in rows.all():
        left = [error for error in errors if not _of(error.get("path", ""), person)]
        if len(left) < len(errors):
            connection.execute(update(t.job).where(c.id == job_id).values(errors=left))


def _of(path: str, person: str) -> bool:
    first, separator, _ = path.partition("/")
    return (first if separator else first.rpartition(".")[0] or first) == person

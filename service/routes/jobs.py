"""Long work: ask for it, watch it, stop it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from indexer.audit import Actor
from indexer.errors import DatabaseUnavailable, NotFound
from indexer.store import galleries, jobs
from indexer.store.jobs import Job
from service import vision
from service.access import Access, Granted
from service.body import body, described
from service.deps import Owned
from service.errors import Overloaded, PathRefused
from service.routes.responses import BODY_ERRORS, COMMON, NOT_FOUND, problems
from service.schemas import JobCreated, JobList, JobView, ReindexRequest
from service.state import Services
from service.trail import actor
from service.views import job as job_view

router = APIRouter(tags=["jobs"], responses=COMMON)

POLL_S = 0.3
STREAM_S = 3600.0
MAX_STREAMS = 100
PATH_REFUSED = (
    "this folder may not be indexed over HTTP; use one that was indexed by command before"
)


@router.post(
    "/admin/reindex",
    status_code=202,
    openapi_extra=described(ReindexRequest),
    responses={**BODY_ERRORS, **NOT_FOUND, **problems(403)},
)
async def reindex(
    request: Request,
    asked: Annotated[ReindexRequest, Depends(body(ReindexRequest))],
    owned: Owned,
    response: Response,
) -> JobCreated:
    """Move a gallery to another model or detector while it is searched, or look for changes."""
    params: dict[str, Any] = {
        "model": vision.known_model(owned.recognizer.models, asked.model_name),
        "detector": vision.known_detector(asked.detector_backend),
        "path": None,
    }
    owned.recognizer.permit(params["model"], params["detector"])
    if asked.path is not None:
        params["path"] = await owned.threads.run(lambda: _folder(owned, asked))
    job_id = await owned.threads.run(lambda: _create(owned, asked.gallery, params, actor(request)))
    owned.job_queued.set()
    response.headers["Location"] = f"/jobs/{job_id}"
    return JobCreated(job_id=job_id)


@router.get("/jobs")
async def list_jobs(
    owned: Owned, granted: Granted, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> JobList:
    """The newest first, of galleries that the API key is for."""

    def read() -> list[JobView]:
        with owned.database.read() as connection:
            latest = jobs.latest(connection, limit)
            return [job_view(found) for found in latest if granted.may_see(found.gallery)]

    return JobList(jobs=await owned.threads.run(read))


@router.get("/jobs/{job_id}", responses=NOT_FOUND)
async def get_job(job_id: uuid.UUID, owned: Owned, granted: Granted) -> JobView:
    """State, counts, rate, time left, errors."""
    return job_view(await owned.threads.run(lambda: _read(owned, job_id, granted)))


@router.delete("/jobs/{job_id}", responses=NOT_FOUND)
async def cancel_job(
    request: Request, job_id: uuid.UUID, owned: Owned, granted: Granted
) -> JobView:
    """Ask a job to stop; what it has done so far stays."""

    def cancel() -> Job:
        _read(owned, job_id, granted)
        with owned.database.write() as connection:
            job = jobs.cancel(connection, job_id)
            actor(request).record(connection, "job.cancel", job.gallery, job_id=str(job_id))
            return job

    return job_view(await owned.threads.run(cancel))


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses={**NOT_FOUND, 200: {"content": {"text/event-stream": {}}, "description": "Events"}},
)
async def job_events(job_id: uuid.UUID, owned: Owned, granted: Granted) -> EventSourceResponse:
    """Server-sent events: `progress` with the job at every change, `finished` as the last one."""
    if len(owned.streams) >= MAX_STREAMS:
        raise Overloaded("too many event streams are open")
    first = await owned.threads.run(lambda: _read(owned, job_id, granted))
    return EventSourceResponse(_events(owned, first, granted), ping=15)


async def _events(owned: Services, job: Job, granted: Access) -> AsyncIterator[ServerSentEvent]:
    stream = object()
    owned.streams.add(stream)
    try:
        ends, told = asyncio.get_running_loop().time() + STREAM_S, None
        while asyncio.get_running_loop().time() < ends:
            if job != told:
                name = "finished" if job.finished else "progress"
                yield ServerSentEvent(job_view(job).model_dump_json(), event=name)
                told = job
            if job.finished:
                return
            await asyncio.sleep(POLL_S)
            with suppress(DatabaseUnavailable, Overloaded):  # the next look may succeed
                job = await owned.threads.run(lambda: _read(owned, job.id, granted))  # noqa: B023 - awaited here
    finally:
        owned.streams.discard(stream)


def _read(owned: Services, job_id: uuid.UUID, granted: Access) -> Job:
    """Raises NotFound, also for a job of a gallery that the API key is not for."""
    with owned.database.read() as connection:
        found = jobs.get(connection, job_id)
    if not granted.may_see(found.gallery):
        raise NotFound("job", str(job_id))
    return found


def _create(owned: Services, gallery: str, params: dict[str, Any], by: Actor) -> uuid.UUID:
    with owned.database.write() as connection:
        held = galleries.hold(connection, gallery)
        job = jobs.create(connection, "reindex", held.name, params, "queued")
        by.record(connection, "job.create", held.name, job_id=str(job))
        return job


def _folder(owned: Services, asked: ReindexRequest) -> str:
    """The folder, if it was indexed before or lies below a configured root. Raises PathRefused."""
    with owned.database.read() as connection:
        gallery = galleries.get(connection, asked.gallery)
        known = galleries.roots(connection, gallery.id)
    given = asked.path or ""
    if given in known:
        return given
    if "\x00" in given or not given:
        raise PathRefused(PATH_REFUSED)
    path = Path(given).resolve()
    roots = (root.resolve() for root in owned.settings.image_roots)
    if str(path) in known or any(path.is_relative_to(root) for root in roots):
        return str(path)
    raise PathRefused(PATH_REFUSED)

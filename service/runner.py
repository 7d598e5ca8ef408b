"""Runs queued jobs, one at a time, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys

from indexer.errors import DatabaseUnavailable
from indexer.store import jobs
from indexer.store.jobs import Job
from service.settings import environment
from service.state import Services

log = logging.getLogger(__name__)

POLL_S = 1.0
TERM_S = 20.0
LAST_WORDS = 500


class JobRunner:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def run(self) -> None:
        """Until cancelled; then the running job is told to stop and goes back to the queue."""
        while True:
            try:
                job = await self._claim()
                if job is not None:
                    await self._work(job)
                    continue
            except DatabaseUnavailable as error:
                log.warning("jobs wait for the database: %s", error)
            except Exception:
                log.exception("a job could not be run")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._services.job_queued.wait(), POLL_S)
            self._services.job_queued.clear()

    async def _claim(self) -> Job | None:
        if not self._services.progress.database_ready:
            return None

        def claim() -> Job | None:
            with self._services.database.write() as connection:
                return jobs.claim(connection)

        return await self._services.threads.run(claim)

    async def _work(self, job: Job) -> None:
        log.info("job %s starts", job.id)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "indexer.worker", str(job.id),
            env=environment(self._services.settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        talk = asyncio.ensure_future(process.communicate())
        try:
            _, said = await asyncio.shield(talk)
        except asyncio.CancelledError:
            await _stop(process, talk)
            raise
        log.info("job %s ended with code %s", job.id, process.returncode)
        await self._close(job, process.returncode, said or b"")

    async def _close(self, job: Job, code: int | None, said: bytes) -> None:
        """A job whose process ended without finishing it has failed."""
        lines = said.decode(errors="replace").strip().splitlines()
        reason = f"its process ended with code {code}"
        if lines:
            reason += f": {lines[-1][:LAST_WORDS]}"

        def close() -> None:
            with self._services.database.write() as connection:
                if jobs.get(connection, job.id).state == "running":
                    jobs.finish(connection, job.id, "failed", reason)

        await self._services.threads.run(close)


async def _stop(
    process: asyncio.subprocess.Process, talk: asyncio.Future[tuple[bytes, bytes]]
) -> None:
    """SIGTERM, some time to leave the job in order, then SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(TERM_S):
            await talk
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

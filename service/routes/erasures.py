"""Receipts of erasures: which processes have carried them out."""

from __future__ import annotations

import uuid

from fastapi import APIRouter

from indexer.errors import NotFound
from indexer.store import erasures
from indexer.store.erasures import Acknowledgement
from service.access import Granted
from service.deps import Owned
from service.routes.responses import COMMON, NOT_FOUND
from service.schemas import ErasureProcess, ErasureView

router = APIRouter(tags=["galleries"], responses=COMMON)


@router.get("/erasures/{erasure_id}", responses=NOT_FOUND)
async def get_erasure(erasure_id: uuid.UUID, owned: Owned, granted: Granted) -> ErasureView:
    """Whether every live process answers without what was erased, and holds nothing of it any more."""

    def read() -> ErasureView:
        with owned.database.read() as connection:
            found = erasures.get(connection, erasure_id)
            told = erasures.acknowledgements(connection, erasure_id)
        if not granted.may_see(found.gallery):
            raise NotFound("erasure", str(erasure_id))
        return ErasureView(
            erasure_id=found.id,
            at=found.at,
            kind=found.kind,
            gallery=found.gallery,
            version=found.version,
            versions=dict(found.versions),
            acknowledged=all(each.answered_at is not None for each in told),
            clean=all(each.clean_at is not None for each in told),
            processes=[_process(each) for each in told],
        )

    return await owned.threads.run(read)


def _process(told: Acknowledgement) -> ErasureProcess:
    return ErasureProcess(
        process_id=told.process_id,
        host=told.host,
        pid=told.pid,
        acknowledged_at=told.answered_at,
        clean_at=told.clean_at,
    )

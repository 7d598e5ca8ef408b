"""Galleries: list, make, erase."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from indexer import people
from indexer.store import galleries, retention, spaces
from indexer.store.engine import ReadConnection
from indexer.store.galleries import Gallery
from service.access import Granted
from service.body import body, described
from service.deps import Owned
from service.routes.responses import BODY_ERRORS, COMMON, NOT_FOUND
from service.schemas import (
    GalleryCounts,
    GalleryErased,
    GalleryList,
    GalleryRequest,
    GalleryView,
    Spaces,
    SpaceView,
)
from service.state import Services
from service.trail import actor
from service.views import space

router = APIRouter(tags=["galleries"], responses=COMMON)


@router.get("/galleries")
async def list_galleries(owned: Owned, granted: Granted) -> GalleryList:
    """All galleries by name that the API key is for."""

    def read() -> list[GalleryView]:
        with owned.database.read() as connection:
            every = galleries.all_galleries(connection)
            return [_view(connection, g) for g in every if granted.may_see(g.name)]

    return GalleryList(galleries=await owned.threads.run(read))


@router.get("/galleries/{gallery}", responses=NOT_FOUND)
async def get_gallery(gallery: str, owned: Owned) -> GalleryView:
    """Counts, spaces, state."""
    return await owned.threads.run(lambda: _read(owned, gallery))


@router.put(
    "/galleries/{gallery}",
    openapi_extra=described(GalleryRequest),
    responses={201: {"model": GalleryView, "description": "Made"}, **BODY_ERRORS},
)
async def put_gallery(
    request: Request,
    gallery: str,
    owned: Owned,
    response: Response,
    asked: Annotated[GalleryRequest, Depends(body(GalleryRequest))],
) -> GalleryView:
    """Make a gallery; of one that is there, only what is said of doubtful photographs and retention is changed."""

    def make() -> bool:
        with owned.database.write() as connection:
            made = galleries.make(connection, gallery)
            if asked.quality is not None:
                held = galleries.lock(connection, gallery)
                galleries.set_quality(connection, held.id, asked.quality)
            if asked.retention_days is not None:
                held = galleries.lock(connection, gallery)
                retention.set_days(connection, held.id, asked.retention_days or None)
            if made or asked.model_fields_set:
                held = galleries.get(connection, gallery)
                action = "gallery.make" if made else "gallery.change"
                actor(request).record(connection, action, held.name, gallery_id=held.id)
            return made

    if await owned.threads.run(make):
        response.status_code = 201
    return await owned.threads.run(lambda: _read(owned, gallery))


@router.delete("/galleries/{gallery}", responses=NOT_FOUND)
async def delete_gallery(request: Request, gallery: str, owned: Owned) -> GalleryErased:
    """Erase a gallery with all its people, images and embeddings."""
    done = await owned.threads.run(
        lambda: people.erase_gallery(owned.database, gallery, actor(request))
    )
    name = galleries.clean_name(gallery, "a gallery")
    return GalleryErased(gallery=name, version=done.version, erasure_id=done.erasure_id)


def _read(owned: Services, name: str) -> GalleryView:
    with owned.database.read() as connection:
        return _view(connection, galleries.get(connection, name))


def _view(connection: ReadConnection, gallery: Gallery) -> GalleryView:
    counts = galleries.counts(connection, gallery)
    state = "ready" if counts.faces else "empty"
    return GalleryView(
        gallery=gallery.name,
        state="reindexing" if gallery.building_space_id is not None else state,
        counts=GalleryCounts(
            identities=counts.identities,
            images=counts.images,
            faces=counts.faces,
            states=counts.states,
        ),
        spaces=Spaces(
            active=_space(connection, gallery.active_space_id),
            building=_space(connection, gallery.building_space_id),
        ),
        quality=gallery.quality,
        protected=gallery.seal is not None,
        retention_days=retention.days_of(connection, gallery.id),
        created_at=gallery.created_at,
    )


def _space(connection: ReadConnection, space_id: int | None) -> SpaceView | None:
    return None if space_id is None else space(spaces.get(connection, space_id))

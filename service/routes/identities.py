"""The people of a gallery: list, change, erase; enrolment by upload."""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from indexer import people
from indexer.audit import Actor
from indexer.enrol import Enrolment
from indexer.retention import set_consent
from indexer.store import galleries, identities, images, retention
from indexer.store.retention import Consent
from recognition.errors import RecognitionError
from service.body import body, described
from service.deps import Owned, admitted
from service.errors import InvalidRequest, NothingEnrolled, NothingEnrolledTooLarge, RequestTooLarge
from service.images import Pixels
from service.inference import while_connected
from service.routes.responses import BODY_ERRORS, COMMON, CONFLICT, IMAGE_ERRORS, NOT_FOUND
from service.schemas import (
    ConsentRequest,
    ConsentView,
    EnrolRequest,
    EnrolResponse,
    IdentityChange,
    IdentityChanged,
    IdentityDetail,
    IdentityErased,
    IdentityPage,
    IdentityView,
    ImageErased,
)
from service.state import Services
from service.trail import actor
from service.views import enrolled
from service.views import identity as identity_view
from service.views import image as image_view

router = APIRouter(tags=["identities"], responses={**COMMON, **NOT_FOUND})

MAX_ID = 2**63 - 1


@router.get("/galleries/{gallery}/identities")
async def list_identities(
    gallery: str,
    owned: Owned,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str, Query(max_length=2000, description="next_cursor of the last page")] = "",
) -> IdentityPage:
    """The people of a gallery by name, in pages."""
    after = _after(cursor)

    def read() -> list[IdentityView]:
        with owned.database.read() as connection:
            found = galleries.get(connection, gallery)
            page = identities.page(
                connection, found.id, found.active_space_id, after=after, limit=limit + 1
            )
            return [identity_view(each) for each in page]

    rows = await owned.threads.run(read)
    more = len(rows) > limit
    rows = rows[:limit]
    return IdentityPage(identities=rows, next_cursor=_cursor(rows[-1].identity) if more else None)


@router.get("/galleries/{gallery}/identities/{identity}")
async def get_identity(gallery: str, identity: str, owned: Owned) -> IdentityDetail:
    """One person with the images that are known."""

    def read() -> IdentityDetail:
        with owned.database.read() as connection:
            held = galleries.get(connection, gallery)
            found = identities.get(connection, held.id, held.active_space_id, identity)
            known = images.of_identity(connection, found.id, held.active_space_id)
            consent = retention.consent_of(connection, found.id)
        return IdentityDetail(
            identity=found.name,
            identity_id=found.id,
            metadata=found.metadata,
            faces=found.faces,
            consent=None if consent is None else ConsentView(**asdict(consent)),
            created_at=found.created_at,
            images=[image_view(each) for each in known],
        )

    return await owned.threads.run(read)


@router.patch(
    "/galleries/{gallery}/identities/{identity}",
    openapi_extra=described(IdentityChange),
    responses={**BODY_ERRORS, **CONFLICT},
)
async def patch_identity(
    request: Request,
    gallery: str,
    identity: str,
    owned: Owned,
    change: Annotated[IdentityChange, Depends(body(IdentityChange))],
) -> IdentityChanged:
    """Rename, set metadata, or merge into the person who has the name already."""

    def write() -> IdentityChanged:
        version = people.change_identity(
            owned.database, gallery, identity,
            people.Change(name=change.name, metadata=change.metadata, merge=change.merge),
            actor(request),
        )  # fmt: skip
        with owned.database.read() as connection:
            held = galleries.get(connection, gallery)
            name = identity if change.name is None else change.name
            found = identities.get(connection, held.id, held.active_space_id, name)
        return IdentityChanged(**identity_view(found).model_dump(), version=version)

    return await owned.threads.run(write)


@router.put(
    "/galleries/{gallery}/identities/{identity}/consent",
    openapi_extra=described(ConsentRequest),
    responses=BODY_ERRORS,
)
async def put_consent(
    request: Request,
    gallery: str,
    identity: str,
    owned: Owned,
    asked: Annotated[ConsentRequest, Depends(body(ConsentRequest))],
) -> ConsentView:
    """What allows to keep the person's face, and until when; they are erased within minutes of that."""
    consent = Consent(asked.basis, asked.given_at, asked.until)
    await owned.threads.run(
        lambda: set_consent(owned.database, gallery, identity, consent, actor(request))
    )
    return ConsentView(**asdict(consent))


@router.delete("/galleries/{gallery}/identities/{identity}")
async def delete_identity(
    request: Request, gallery: str, identity: str, owned: Owned
) -> IdentityErased:
    """Erase a person: rows, vectors, stored images, cache entries."""
    done = await owned.threads.run(
        lambda: people.erase_identity(owned.database, gallery, identity, actor(request))
    )
    name = galleries.clean_name(identity, "an identity")
    return IdentityErased(identity=name, version=done.version, erasure_id=done.erasure_id)


@router.post(
    "/galleries/{gallery}/identities/{identity}/images",
    dependencies=[Depends(admitted)],
    openapi_extra=described(EnrolRequest),
    response_model_exclude_unset=True,
    responses={
        **IMAGE_ERRORS,
        **CONFLICT,
        201: {"model": EnrolResponse, "description": "Enrolled"},
    },
)
async def enrol(
    request: Request,
    gallery: str,
    identity: str,
    owned: Owned,
    response: Response,
    asked: Annotated[EnrolRequest, Depends(body(EnrolRequest))],
) -> EnrolResponse:
    """Enrol images of a person; the same file twice is enrolled once."""
    if len(asked.files) > owned.settings.max_files:
        raise RequestTooLarge(f"at most {owned.settings.max_files} files are taken at once")
    arrived = [await owned.sources.get(file) for file in asked.files]
    done = await while_connected(
        request,
        owned.inference.run(lambda: _enrol(owned, actor(request), (gallery, identity), arrived)),
    )
    answer = EnrolResponse(
        files=[enrolled(each) for each in done.images],
        gallery=galleries.clean_name(gallery, "a gallery"),
        identity=galleries.clean_name(identity, "an identity"),
        version=done.version,
    )
    if all(each.status == "rejected" for each in done.images):
        raise _nothing(done, answer)
    if any(each.status == "enrolled" for each in done.images):
        response.status_code = 201
    return answer


def _enrol(owned: Services, by: Actor, whom: tuple[str, str], arrived: list[Pixels]) -> Enrolment:
    limit = owned.settings.max_image_bytes
    return owned.enroller.enrol(*whom, [_bytes(each, limit) for each in arrived], by)


def _bytes(image: Pixels, limit: int) -> bytes:
    """Text that is not base64 is passed on as it is: one bad file does not stop the others."""
    if isinstance(image, bytes):
        return image
    try:
        return image.decode(limit)
    except RecognitionError:
        return image.text.encode()


def _nothing(done: Enrolment, answer: EnrolResponse) -> NothingEnrolled:
    files = answer.model_dump(mode="json", exclude_unset=True)["files"]
    reasons = "; ".join(dict.fromkeys(each.reason or "" for each in done.images))
    kind = NothingEnrolledTooLarge if all(i.too_large for i in done.images) else NothingEnrolled
    return kind(reasons, files)


@router.delete("/galleries/{gallery}/images/{image_id}")
async def delete_image(
    request: Request, gallery: str, image_id: Annotated[int, Path(ge=1, le=MAX_ID)], owned: Owned
) -> ImageErased:
    """Erase one image with its faces; a person without images goes too."""
    done = await owned.threads.run(
        lambda: people.erase_image(owned.database, gallery, image_id, actor(request))
    )
    return ImageErased(image_id=image_id, version=done.version, erasure_id=done.erasure_id)


def _cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _after(cursor: str) -> str:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        name = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("the cursor is not one that this server gave") from error
    if "\x00" in name:
        raise InvalidRequest("the cursor is not one that this server gave")
    return name

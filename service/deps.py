"""What routes ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from service.state import Services


async def services(request: Request) -> Services:
    found: Services = request.state.services
    return found


async def admitted(request: Request) -> None:
    """Refuses a request that would have to be refused later, before its body is read."""
    (await services(request)).inference.check()


Owned = Annotated[Services, Depends(services)]

"""DICOMweb below /dicomweb: STOW-RS in, QIDO-RS and WADO-RS over what came in and what went out. PS3.18 10."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from service.api.desk import Desk
from service.api.dicomweb.addresses import PREFIX
from service.api.dicomweb.frames import add_frames
from service.api.dicomweb.holdings import Holdings
from service.api.dicomweb.rendered import add_rendering
from service.api.dicomweb.retrieve import add_metadata, add_retrieval
from service.api.dicomweb.search import add_search
from service.api.dicomweb.store import add_storing
from service.api.security import Scope

__all__ = ["dicomweb_routes"]


def dicomweb_routes(desk: Desk) -> tuple[APIRouter, ...]:
    """Searching and retrieving need `read`, storing needs `submit`. Not in the OpenAPI document: the standard describes them."""
    holdings = Holdings(desk.book, desk.store)
    may_read, may_submit = ([Depends(desk.guard.needs(scope))] for scope in (Scope.READ, Scope.SUBMIT))
    routers = []
    for add in (add_search, add_retrieval, add_metadata, add_frames, add_rendering):
        router = APIRouter(prefix=PREFIX, include_in_schema=False, dependencies=may_read)
        add(router, desk, holdings)
        routers.append(router)
    storing = APIRouter(prefix=PREFIX, include_in_schema=False, dependencies=may_submit)
    add_storing(storing, desk)
    return (*routers, storing)

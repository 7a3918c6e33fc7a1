"""WADO-RS: studies, series and instances as they are stored, and their metadata; PS3.18 10.4."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from service.api.desk import Desk
from service.api.dicomweb.accept import DICOM, choose, choose_json, read_accept
from service.api.dicomweb.addresses import INSTANCE, SERIES, STUDY, Uid, demand_uids, instance_url, service_url
from service.api.dicomweb.gone import find_gone
from service.api.dicomweb.holdings import Holdings, Instance
from service.api.dicomweb.multipart import Part, file_blocks, multipart_answer, single_answer, stream_answer
from service.api.dicomweb.objects import describe, opened
from service.headers import Unreadable
from service.records import AuditEvent


def add_retrieval(router: APIRouter, desk: Desk, holdings: Holdings) -> None:
    """Each resource as application/dicom."""

    async def give(request: Request, *uids: str) -> Response:
        found = await find(desk, holdings, *uids)
        audit_retrieval(desk, request, "objects", found)
        return answer_instances(desk, found, request, single=len(uids) == 3)

    @router.get(STUDY)
    async def retrieve_study(request: Request, study_uid: Uid) -> Response:
        return await give(request, study_uid)

    @router.get(SERIES)
    async def retrieve_series(request: Request, study_uid: Uid, series_uid: Uid) -> Response:
        return await give(request, study_uid, series_uid)

    @router.get(INSTANCE)
    async def retrieve_instance(request: Request, study_uid: Uid, series_uid: Uid, sop_instance_uid: Uid) -> Response:
        return await give(request, study_uid, series_uid, sop_instance_uid)


def add_metadata(router: APIRouter, desk: Desk, holdings: Holdings) -> None:
    """The headers of each resource as application/dicom+json."""

    async def tell(request: Request, *uids: str) -> Response:
        found = await find(desk, holdings, *uids)
        audit_retrieval(desk, request, "metadata", found)
        media_type = choose_json(read_accept(request.headers.get("accept")))
        return stream_answer(desk, _metadata(desk, found, service_url(request)), media_type)

    @router.get(STUDY + "/metadata")
    async def retrieve_study_metadata(request: Request, study_uid: Uid) -> Response:
        return await tell(request, study_uid)

    @router.get(SERIES + "/metadata")
    async def retrieve_series_metadata(request: Request, study_uid: Uid, series_uid: Uid) -> Response:
        return await tell(request, study_uid, series_uid)

    @router.get(INSTANCE + "/metadata")
    async def retrieve_instance_metadata(request: Request, study_uid: Uid, series_uid: Uid, sop_instance_uid: Uid) -> Response:
        return await tell(request, study_uid, series_uid, sop_instance_uid)


async def find(desk: Desk, holdings: Holdings, *uids: str) -> list[Instance]:
    """Give the instances at an address. Raises Problem: 400 no UID, 404 nothing is there, 410 what was there was withdrawn."""
    demand_uids(*uids)
    found = await desk.read(partial(holdings.find, *uids))
    if not found:
        raise await desk.read(partial(find_gone, desk.book, holdings, *uids))
    return found


def audit_retrieval(desk: Desk, request: Request, what: str, found: Sequence[Instance]) -> None:
    """Enter into the audit trail what of a study was asked for; the bytes follow."""
    about = {"study_uid": found[0].study_uid, "count": len(found)}
    desk.audit(request, AuditEvent.INSTANCES_TRANSFERRED, f"given over WADO-RS: {what}", **about)


def answer_instances(desk: Desk, found: Sequence[Instance], request: Request, *, single: bool) -> StreamingResponse:
    """Those of the instances whose transfer syntax is accepted: 200 where that is all of them, else 206."""
    offers = [(DICOM, instance.transfer_syntax_uid) for instance in found]
    choice = choose(read_accept(request.headers.get("accept")), offers, single=single)
    base = service_url(request)
    parts = [
        Part(
            f"{DICOM}; transfer-syntax={instance.transfer_syntax_uid}",
            instance_url(base, instance.study_uid, instance.series_uid, instance.sop_instance_uid),
            instance.size,
            partial(file_blocks, desk.store.path_of(instance.path)),
        )
        for instance in (found[place] for place in choice.kept)
    ]
    if not choice.multipart:
        return single_answer(desk, parts[0])
    return multipart_answer(desk, parts, DICOM, status=200 if len(parts) == len(found) else 206)


def _metadata(desk: Desk, found: Sequence[Instance], base: str) -> Iterator[bytes]:
    """A JSON array, an instance at a time: a whole series of headers is never in memory."""
    before = b"["
    for instance in found:
        place = instance_url(base, instance.study_uid, instance.series_uid, instance.sop_instance_uid)
        try:
            with opened(desk.store.path_of(instance.path)) as stored:
                text = json.dumps(describe(stored, lambda path, place=place: f"{place}/bulkdata/{path}"))  # type: ignore[misc]
        except (Unreadable, FileNotFoundError):
            continue  # cleaned away since it was found, or damaged on the disk
        yield before + text.encode()
        before = b",\n"
    yield b"]" if before != b"[" else b"[]"

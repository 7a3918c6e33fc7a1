"""STOW-RS: instances in by the same way as over DICOM; the answer says of each what became of it. PS3.18 10.5."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydicom.filereader import read_dataset
from python_multipart.multipart import parse_options_header

from service.api.desk import Desk
from service.api.dicomweb.accept import DICOM, MULTIPART, choose_json, read_accept
from service.api.dicomweb.addresses import STUDY, Uid, demand_uids, instance_url, service_url
from service.api.dicomweb.attributes import encoded, tag_of
from service.api.problems import Problem
from service.api.receiving import TooLarge, give_to_intake, receive_part, take_upload
from service.api.uploads import spool_file, spool_upload
from service.errors import Rejected, Unavailable
from service.headers import Unreadable, read_file
from service.headers.damage import unreadable
from service.headers.elements import uid
from service.intake.handover import Receipt, Source
from service.multipart import Part

FAILURES: Final[dict[str, tuple[int, str]]] = {
    "resources": (0xA700, "no space, the case book is away, or larger than any instance may be"),
    "other-study": (0xC409, "Study Instance UID is not that of the address"),
    "unreadable": (0xC000, "not a data set in its transfer syntax, UIDs missing, or cut short"),
    "class": (0x0122, "no MR image and no correction: recorded and discarded"),
}
"""Why an instance was not stored → Failure Reason (0008,1197); PS3.18 table I.2-2."""


@dataclass(frozen=True)
class Stored:
    """
    One instance of the request.

    Attributes
    ----------
    failure : a key of FAILURES, or None where it is durable and indexed
    offered : it can be retrieved (a correction cannot)
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str = ""
    series_uid: str = ""
    failure: str | None = None
    offered: bool = True


class _OtherStudy(Rejected):
    """The instance belongs to another study than the address."""


def add_storing(router: APIRouter, desk: Desk) -> None:
    """Store into any study, or into the one of the address only."""

    async def take(request: Request, study_uid: str | None) -> Response:
        demand_uids(study_uid)
        media_type = choose_json(read_accept(request.headers.get("accept")))
        stored = await take_upload(desk, request, _spool(desk, request), partial(_hand_over, desk, request, study_uid))
        return Response(json.dumps(render(stored, service_url(request))), status_of(stored), media_type=media_type)

    @router.post("/studies")
    async def store_instances(request: Request) -> Response:
        return await take(request, None)

    @router.post(STUDY)
    async def store_instances_of_study(request: Request, study_uid: Uid) -> Response:
        return await take(request, study_uid)


def status_of(stored: Sequence[Stored]) -> int:
    """200 all stored, 202 some, 409 none; PS3.18 table 10.5.3-1."""
    failures = sum(one.failure is not None for one in stored)
    return 200 if not failures else 409 if failures == len(stored) else 202


def render(stored: Sequence[Stored], url: str) -> dict[str, Any]:
    """The Store Instances Response Module in DICOM JSON; PS3.18 I.2."""
    found: dict[str, Any] = {}
    studies = {one.study_uid for one in stored if one.failure is None and one.offered}
    if len(studies) == 1:
        found["RetrieveURL"] = encoded("RetrieveURL", f"{url}/studies/{studies.pop()}")
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in stored:
        named = {"ReferencedSOPClassUID": one.sop_class_uid, "ReferencedSOPInstanceUID": one.sop_instance_uid}
        item: dict[str, Any] = {} if not one.sop_instance_uid else dict(named)
        if one.failure is None:
            item["RetrieveURL"] = instance_url(url, one.study_uid, one.series_uid, one.sop_instance_uid) if one.offered else ""
            sequence = "ReferencedSOPSequence"
        else:
            item["FailureReason"] = FAILURES[one.failure][0]
            sequence = "FailedSOPSequence" if one.sop_instance_uid else "OtherFailuresSequence"
        groups.setdefault(sequence, []).append({tag_of(name): encoded(name, *filter(None, [value])) for name, value in item.items()})
    found |= {sequence: encoded(sequence, *items) for sequence, items in groups.items()}
    return {tag_of(keyword): value for keyword, value in found.items()}


def _spool(desk: Desk, request: Request) -> Any:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind == DICOM.encode():
        spool = partial(spool_file)
    elif kind == MULTIPART.encode() and options.get(b"type", b"application/dicom").lower() == DICOM.encode():
        spool = partial(spool_upload, kind=MULTIPART)
    else:
        raise Problem("unsupported-media-type", f'Send {MULTIPART}; type="{DICOM}", or one instance as {DICOM}.')

    def spooling(body: AsyncIterator[bytes], folder: Path) -> Awaitable[list[Part]]:
        return spool(request.headers, body, folder, desk.limits, desk.work)

    return spooling


def _hand_over(desk: Desk, request: Request, study_uid: str | None, parts: list[Part]) -> list[Stored]:
    """
    Give every instance to the intake.

    Raises
    ------
    Problem
        There is none in the request.
    Unavailable
        Not one could be kept for now.
    """
    if not parts:
        raise Problem("malformed-upload", "The request holds no instance.")
    away = threading.Event()
    one = partial(_hand_over_one, desk, study_uid, away)
    stored = give_to_intake(desk, parts, request, one, lambda _outcomes: not away.is_set())
    if away.is_set() and all(one.failure == "resources" for one in stored):
        raise Unavailable("no instance could be kept for now; send them again")
    return stored


def _hand_over_one(desk: Desk, study_uid: str | None, away: threading.Event, part: Part, sender: Source) -> Stored:
    try:
        if away.is_set():
            raise Unavailable("another instance of the request has found it away")
        receipt = receive_part(desk, part, sender, partial(_demand_study, study_uid))
    except Unavailable:
        away.set()
        return _failed(part, "resources")
    except TooLarge:
        return _failed(part, "resources")
    except _OtherStudy:
        return _failed(part, "other-study")
    except Rejected:
        return _failed(part, "unreadable")
    return _taken(part, receipt)


def _taken(part: Part, receipt: Receipt) -> Stored:
    if receipt.outcome == "discarded":
        return _failed(part, "class")
    offered = receipt.outcome != "correction"
    return Stored(receipt.sop_class_uid, receipt.sop_instance_uid, receipt.study_uid, receipt.series_uid, offered=offered)


def _demand_study(study_uid: str | None, data: bytes) -> None:
    if study_uid is not None and read_file(BytesIO(data))[0].study_uid != study_uid:
        raise _OtherStudy("belongs to another study")


def _failed(part: Part, why: str) -> Stored:
    """Name the instance as its file meta information does, where that can be read."""
    try:
        with part.open() as file, unreadable("no file meta information"):
            file.seek(132)
            meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
            return Stored(uid(meta, "MediaStorageSOPClassUID"), uid(meta, "MediaStorageSOPInstanceUID"), failure=why)
    except Unreadable:
        return Stored("", "", failure=why)

"""Frames and bulk data, cut out of the stored file as they are encoded there; PS3.18 10.4.1.1.6, 10.4.1.1.5."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, Final

from fastapi import APIRouter, Request, Response
from fastapi import Path as PathPart
from pydicom.encaps import get_frame
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from service.api.desk import Desk
from service.api.dicomweb.accept import OCTETS, choose, read_accept
from service.api.dicomweb.addresses import INSTANCE, Uid, instance_url, service_url
from service.api.dicomweb.holdings import Holdings, Instance
from service.api.dicomweb.multipart import BLOCK, Part, multipart_answer, single_answer
from service.api.dicomweb.objects import StoredObject, data_set, load, opened
from service.api.dicomweb.retrieve import audit_retrieval, find
from service.api.problems import Problem
from service.headers import Unreadable
from service.headers.damage import unreadable
from service.headers.elements import raw, texts, whole

MEDIA_TYPES: Final[dict[str, str]] = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
}
"""Of a compressed frame; PS3.18 table 8.7.3-5. Any other is application/octet-stream."""

_SAME_PIXELS: Final = frozenset({ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
_BULK_PATH: Final = re.compile(r"[0-9A-Fa-f]{8}(/[1-9]\d{0,5}/[0-9A-Fa-f]{8}){0,8}")
_FRAME_LIST: Final = re.compile(r"[1-9]\d{0,6}(,[1-9]\d{0,6})*")
_NO_SUCH_FRAME: Final = "The object has no such frame."


@dataclass(frozen=True)
class Frames:
    """How the frames of an object lie in its file: from `start` on, `bits` each, or encapsulated (`bits` None)."""

    syntax: str
    count: int
    start: int
    bits: int | None
    extended_offsets: tuple[bytes, bytes] | None

    @property
    def media_type(self) -> str:
        """Of one frame as it is stored."""
        return OCTETS if self.bits is not None else MEDIA_TYPES.get(self.syntax, OCTETS)


def add_frames(router: APIRouter, desk: Desk, holdings: Holdings) -> None:
    """Frames by number, and bulk data by the address that the metadata give."""

    @router.get(INSTANCE + "/frames/{frames}")
    async def retrieve_frames(
        request: Request, study_uid: Uid, series_uid: Uid, sop_instance_uid: Uid, frames: Annotated[str, PathPart()]
    ) -> Response:
        if not _FRAME_LIST.fullmatch(frames):
            raise Problem("bad-request", "Frames are asked for by number, from 1, with commas between.")
        (instance, *_) = await find(desk, holdings, study_uid, series_uid, sop_instance_uid)
        audit_retrieval(desk, request, "frames", [instance])
        layout = await desk.read(partial(_frames_of, desk.store.path_of(instance.path)))
        wanted = [int(number) for number in frames.split(",")]
        if len(wanted) > layout.count or max(wanted) > layout.count:
            raise Problem("instance-not-found", _NO_SUCH_FRAME)
        return _answer(desk, request, _frame_parts(desk, request, instance, layout, wanted), layout.syntax)

    @router.get(INSTANCE + "/bulkdata/{path:path}")
    async def retrieve_bulk_data(
        request: Request, study_uid: Uid, series_uid: Uid, sop_instance_uid: Uid, path: Annotated[str, PathPart()]
    ) -> Response:
        if not _BULK_PATH.fullmatch(path):
            raise Problem("bad-request", "That is no address of bulk data: the metadata have them.")
        (instance, *_) = await find(desk, holdings, study_uid, series_uid, sop_instance_uid)
        audit_retrieval(desk, request, "bulk data", [instance])
        parts, syntax = await desk.read(partial(_bulk_parts, desk, request, instance, path.upper()))
        return _answer(desk, request, parts, syntax)


def _answer(desk: Desk, request: Request, parts: Sequence[Part], syntax: str) -> Response:
    """Labelled with their own media type where that is accepted, else as octets."""
    kinds = tuple(dict.fromkeys((parts[0].media_type.partition(";")[0], OCTETS)))
    choice = choose(read_accept(request.headers.get("accept")), [(kind, syntax) for kind in kinds], single=len(parts) == 1)
    kind = kinds[choice.kept[0]]
    labelled = [replace(part, media_type=f"{kind}; transfer-syntax={syntax}") for part in parts]
    return multipart_answer(desk, labelled, kind) if choice.multipart else single_answer(desk, labelled[0])


def _frames_of(path: Path) -> Frames:
    """Raises Problem (404) where the object has no pixels."""
    try:
        with opened(path) as stored, unreadable("damaged file"):
            return _layout(stored)
    except (Unreadable, FileNotFoundError):
        raise Problem("instance-not-found", "The file was cleaned away, or is damaged.") from None


def _layout(stored: StoredObject) -> Frames:
    if stored.pixels is None:
        raise Problem("instance-not-found", "The object has no pixels.")
    header = stored.dataset
    count = max(whole(header, "NumberOfFrames", "IS") or 1, 1)
    if stored.pixels.length is None:
        tables = raw(header, "ExtendedOffsetTable"), raw(header, "ExtendedOffsetTableLengths")
        return Frames(stored.transfer_syntax_uid, count, stored.pixels.start, None, tables if all(tables) else None)
    rows, columns, samples, bits = (whole(header, name, "US") or 0 for name in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated"))
    subsampled = any("422" in text for text in texts(header, "PhotometricInterpretation"))
    size = rows * columns * bits * (2 if subsampled else samples)
    syntax = ExplicitVRLittleEndian if stored.transfer_syntax_uid in _SAME_PIXELS else stored.transfer_syntax_uid
    return Frames(syntax, min(count, stored.pixels.length * 8 // size) if size else 0, stored.pixels.start, size, None)


def _frame_parts(desk: Desk, request: Request, instance: Instance, layout: Frames, numbers: Sequence[int]) -> list[Part]:
    base = instance_url(service_url(request), instance.study_uid, instance.series_uid, instance.sop_instance_uid)
    path = desk.store.path_of(instance.path)
    size = None if layout.bits is None else -(-layout.bits // 8)
    kind = layout.media_type
    return [Part(kind, f"{base}/frames/{number}", size, partial(_frame, path, layout, number - 1)) for number in numbers]


def _frame(path: Path, layout: Frames, place: int) -> Iterator[bytes]:
    with data_set(path) as (_, stream):
        stream.seek(layout.start)
        if layout.bits is None:
            with unreadable("damaged file"):
                yield get_frame(stream, place, number_of_frames=layout.count, extended_offsets=layout.extended_offsets)
            return
        first, last = place * layout.bits, (place + 1) * layout.bits
        stream.seek(layout.start + first // 8)
        if layout.bits % 8 == 0:
            yield from _blocks(stream, layout.bits // 8)
            return
        # Frames of single bits follow each other without a gap (PS3.5 8.1.1): this one is moved to begin at a byte.
        bits = int.from_bytes(stream.read(-(-last // 8) - first // 8), "little") >> first % 8
        yield (bits & ((1 << layout.bits) - 1)).to_bytes(-(-layout.bits // 8), "little")


def _blocks(stream: BinaryIO, left: int) -> Iterator[bytes]:
    while left > 0 and (block := stream.read(min(BLOCK, left))):
        left -= len(block)
        yield block


def _bulk_parts(desk: Desk, request: Request, instance: Instance, path: str) -> tuple[list[Part], str]:
    """The value of one element; of encapsulated pixels every frame is a part."""
    file = desk.store.path_of(instance.path)
    location = f"{instance_url(service_url(request), instance.study_uid, instance.series_uid, instance.sop_instance_uid)}/bulkdata/{path}"
    try:
        with opened(file) as stored, unreadable("damaged file"):
            if stored.pixels is None or path != f"{stored.pixels.tag:08X}":
                value = _value_at(stored, path.split("/"))
                return [Part(OCTETS, location, len(value), lambda: iter((value,)))], ExplicitVRLittleEndian
            layout = _layout(stored)
            if stored.pixels.length is None:
                return _frame_parts(desk, request, instance, layout, range(1, layout.count + 1)), layout.syntax
            size = stored.pixels.length
            return [Part(OCTETS, location, size, partial(_span, file, layout.start, size))], layout.syntax
    except (Unreadable, FileNotFoundError):
        raise Problem("instance-not-found", "The object has no such bulk data.") from None


def _span(path: Path, start: int, size: int) -> Iterator[bytes]:
    with data_set(path) as (_, stream):
        stream.seek(start)
        yield from _blocks(stream, size)


def _value_at(stored: StoredObject, steps: Sequence[str]) -> bytes:
    """The bytes of the element that tags and item numbers lead to. Raises what `unreadable` turns into Unreadable."""
    dataset = stored.dataset
    for tag, number in zip(steps[:-1:2], steps[1::2], strict=True):
        dataset = load(stored, dataset, Tag(int(tag, 16))).value[int(number) - 1]
    value = load(stored, dataset, Tag(int(steps[-1], 16))).value
    if not isinstance(value, bytes):
        raise TypeError("no bulk data")
    return value

"""One stored object: its header as DICOM JSON, and where its pixels lie in the file. No pixel is decoded here."""

from __future__ import annotations

import math
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from service.headers import Unreadable
from service.headers.damage import unreadable
from service.headers.elements import uid

INLINE_BYTES: Final = 1024
"""Binary values up to this size stand in the metadata, longer ones are named by a BulkDataURI."""

_DEFERRED_BYTES: Final = 64 << 10
_BLOCK: Final = 1 << 20
_PIXEL_TAGS: Final = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_LONG_FORM: Final = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN"})
_BULK: Final = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN"})
_UNDEFINED: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Pixels:
    """The element with the pixels: its tag and value representation, where its value begins, and its length (None: encapsulated)."""

    tag: int
    vr: str
    start: int
    length: int | None


@dataclass(frozen=True)
class StoredObject:
    """A stored object that is open: `stream` and `pixels` are of the inflated data set where it is stored deflated."""

    transfer_syntax_uid: str
    dataset: Dataset
    stream: BinaryIO
    pixels: Pixels | None


@contextmanager
def opened(path: Path, only: Sequence[BaseTag] | None = None) -> Iterator[StoredObject]:
    """
    Open a stored Part-10 file and read its header; values above 64 KiB stay on the disk until they are asked for.

    Parameters
    ----------
    only : read these elements and nothing beyond the last of them

    Raises
    ------
    Unreadable
        Damaged on the disk.
    FileNotFoundError
        Cleaned away.
    """
    with data_set(path) as (syntax, stream):
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        last = max(only) if only else None

        def at_end(tag: BaseTag, _vr: str | None, _length: int) -> bool:
            return tag in _PIXEL_TAGS or (last is not None and tag > last)

        with unreadable("damaged file"):
            dataset = read_dataset(
                stream, implicit, little, stop_when=at_end, defer_size=_DEFERRED_BYTES, specific_tags=list(only) if only else None
            )
            pixels = _find_pixels(stream, implicit, little)
        yield StoredObject(syntax, dataset, stream, pixels)


@contextmanager
def data_set(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Open a stored file at the first element of its data set, inflated where it is stored deflated; gives the transfer syntax too."""
    with ExitStack() as stack:
        stream: BinaryIO = stack.enter_context(path.open("rb"))
        stream.seek(132)
        with unreadable("damaged file"):
            syntax = uid(read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2), "TransferSyntaxUID")
        if syntax == DeflatedExplicitVRLittleEndian:
            stream = stack.enter_context(_inflated(stream))
        yield syntax, stream


@contextmanager
def _inflated(packed: BinaryIO) -> Iterator[BinaryIO]:
    """The intake has taken no bomb in: what is inflated here is as large as an instance may be (PS3.5 A.5)."""
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    with tempfile.TemporaryFile() as whole, unreadable("damaged deflated data set"):
        while block := packed.read(_BLOCK // 16):
            whole.write(inflater.decompress(block))
        whole.write(inflater.flush())
        whole.seek(0)
        yield cast(BinaryIO, whole)


def _find_pixels(stream: BinaryIO, implicit: bool, little: bool) -> Pixels | None:
    order = "<" if little else ">"
    head = stream.read(8)
    if len(head) < 8:
        return None
    group, element = struct.unpack(order + "HH", head[:4])
    tag = group << 16 | element
    if tag not in _PIXEL_TAGS:
        return None
    if implicit:
        vr, length = "OW", struct.unpack(order + "I", head[4:])[0]
    elif head[4:6] in _LONG_FORM:
        vr, length = head[4:6].decode(), struct.unpack(order + "I", stream.read(4))[0]
    else:
        raise Unreadable("damaged file")
    return Pixels(tag, vr, stream.tell(), None if length == _UNDEFINED else length)


def describe(stored: StoredObject, address: Callable[[str], str]) -> dict[str, Any]:
    """
    Give the header as DICOM JSON; what cannot be read of a vendor's odd element is left out, never guessed.

    Parameters
    ----------
    address : a path of bulk data within the object → its BulkDataURI

    References
    ----------
    PS3.18 F.2
    """
    found = _items_of(stored, stored.dataset, "", address)
    if "00080005" in found:
        found["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    found["00083002"] = {"vr": "UI", "Value": [stored.transfer_syntax_uid]}
    if stored.pixels is not None:
        path = f"{stored.pixels.tag:08X}"
        found[path] = {"vr": stored.pixels.vr, "BulkDataURI": address(path)}
    return dict(sorted(found.items()))


def _items_of(stored: StoredObject, dataset: Dataset, path: str, address: Callable[[str], str]) -> dict[str, Any]:
    found = {}
    for tag in list(dataset.keys()):
        name = f"{tag:08X}"
        try:
            found[name] = _describe_element(stored, dataset, BaseTag(tag), path + name, address)
        except Unreadable:
            continue
    return found


def _describe_element(stored: StoredObject, dataset: Dataset, tag: BaseTag, path: str, address: Callable[[str], str]) -> dict[str, Any]:
    with unreadable("an element that cannot be read"):
        element = load(stored, dataset, tag)
        if element.VR == "SQ":
            items = enumerate(element.value or (), start=1)
            return {"vr": "SQ", "Value": [_items_of(stored, item, f"{path}/{number}/", address) for number, item in items]}
        if element.VR in _BULK and len(element.value or b"") > INLINE_BYTES:
            return {"vr": element.VR, "BulkDataURI": address(path)}
        return cast(dict[str, Any], _plain(element.to_json_dict(None, 0)))


def load(stored: StoredObject, dataset: Dataset, tag: BaseTag) -> DataElement:
    """Give an element with its value, read from the disk where it was left there."""
    raw: object = dataset.get_item(tag, keep_deferred=True)
    if isinstance(raw, RawDataElement) and raw.value is None and raw.length:
        stored.stream.seek(raw.value_tell)
        dataset[tag] = raw._replace(value=stored.stream.read(raw.length))
    return dataset[tag]


def _plain(value: Any) -> Any:
    """Numbers that JSON has none for become strings (PS3.18 F.2.3)."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read_attributes(path: Path, keywords: Sequence[str]) -> dict[str, Any]:
    """
    Give these attributes of a stored object, by keyword, each as DICOM JSON has it; those it lacks are left out.

    Raises
    ------
    Unreadable, FileNotFoundError
    """
    tags = sorted(Tag(tag) for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None)
    with opened(path, tags) as stored:
        found = _items_of(stored, stored.dataset, "", lambda path: path)
        named = {keyword_for_tag(int(tag, 16)): value for tag, value in found.items()}
        return named | {"TransferSyntaxUID": {"vr": "UI", "Value": [stored.transfer_syntax_uid]}}

"""What a segmentation says it is about, and by whom it is: read from its header, no pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from service.headers.damage import unreadable
from service.headers.elements import repertoires, sequence, text, uid
from service.headers.inflating import inflate

_PIXELS = 0x7FE0


@dataclass(frozen=True)
class References:
    """
    What an object refers to.

    Attributes
    ----------
    series : Series Instance UIDs of what it was drawn on (PS3.3 C.12.1.1 Common Instance Reference)
    instances : SOP Instance UIDs of the images its frames derive from (PS3.3 C.7.6.16.2.6)
    creator : Content Creator's Name, else Operators' Name, as people write it
    """

    series: tuple[str, ...]
    instances: tuple[str, ...]
    creator: str


def read_references(stream: BinaryIO, transfer_syntax_uid: str) -> References:
    """Read a dataset without file meta from the stream's position up to its pixels. Raises Unreadable."""
    with unreadable("damaged header"):
        if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
            stream, _ = inflate(stream)
        implicit, little = transfer_syntax_uid == ImplicitVRLittleEndian, transfer_syntax_uid != ExplicitVRBigEndian
        dataset = read_dataset(stream, implicit, little, stop_when=_at_pixels)
        named = (uid(item, "SeriesInstanceUID") for item in sequence(dataset, "ReferencedSeriesSequence"))
        encodings = repertoires(dataset)
        creator = text(dataset, "ContentCreatorName", encodings) or text(dataset, "OperatorsName", encodings)
        return References(_distinct(named), _distinct(_sources(dataset)), " ".join(creator.partition("=")[0].replace("^", " ").split()))


def _sources(dataset: Dataset) -> Iterator[str]:
    groups = (*sequence(dataset, "PerFrameFunctionalGroupsSequence"), *sequence(dataset, "SharedFunctionalGroupsSequence"))
    for group in groups:
        for derived in sequence(group, "DerivationImageSequence"):
            for source in sequence(derived, "SourceImageSequence"):
                yield uid(source, "ReferencedSOPInstanceUID")


def _distinct(uids: Iterator[str]) -> tuple[str, ...]:
    return tuple(one for one in dict.fromkeys(uids) if one)


def _at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group >= _PIXELS

"""Rejection notes that reach us: read from a Key Object Selection whose title rejects (IHE RAD, IOCM; PS3.3 C.17.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from service.headers import Unreadable
from service.headers.damage import unreadable
from service.headers.elements import sequence, text, uid
from service.headers.inflating import inflate

KEY_OBJECTS: Final = "1.2.840.10008.5.1.4.1.1.88.59"
TITLES: Final = {
    "113001": "Rejected for Quality Reasons",
    "113037": "Rejected for Patient Safety Reasons",
    "113038": "Incorrect Modality Worklist Entry",
}
"""Code (DCM) → meaning. Not 113039, Data Retention Policy Expired: what is only too old was right, and so is its result."""


@dataclass(frozen=True)
class Rejection:
    """What a note rejects; `instances` are (Study, Series, SOP Instance UID)."""

    note_uid: str
    code: str
    instances: tuple[tuple[str, str, str], ...]

    @property
    def title(self) -> str:
        """The title in words, with its code."""
        return f"{TITLES[self.code]} ({self.code} DCM)"


def read_rejection(stream: BinaryIO, transfer_syntax_uid: str) -> Rejection | None:
    """
    Read a Key Object Selection from the stream's current position; None where its title does not reject, or it has none.

    Raises
    ------
    Unreadable
        Its title cannot be read, or rejects and it does not say what.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        stream, _ = inflate(stream)
    with unreadable("a key object selection that cannot be read"):
        dataset = read_dataset(stream, transfer_syntax_uid == ImplicitVRLittleEndian, transfer_syntax_uid != ExplicitVRBigEndian)
        title = next(iter(sequence(dataset, "ConceptNameCodeSequence")), Dataset())
        code, scheme = text(title, "CodeValue"), text(title, "CodingSchemeDesignator")
        if scheme != "DCM" or code not in TITLES:
            return None
        rejected = tuple(dict.fromkeys(_references(dataset)))
    if not rejected:
        raise Unreadable("a rejection note that names no instance")
    return Rejection(uid(dataset, "SOPInstanceUID"), code, rejected)


def _references(dataset: Dataset) -> Iterator[tuple[str, str, str]]:
    """PS3.3 C.17.6.2: the evidence names every instance that the content refers to, with its series and study."""
    for study in sequence(dataset, "CurrentRequestedProcedureEvidenceSequence"):
        for series in sequence(study, "ReferencedSeriesSequence"):
            for item in sequence(series, "ReferencedSOPSequence"):
                found = uid(study, "StudyInstanceUID"), uid(series, "SeriesInstanceUID"), uid(item, "ReferencedSOPInstanceUID")
                if not all(found):
                    raise Unreadable("a key object selection with a reference that is none")
                yield found

"""What an encoder is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.release import Release
from model.volume import Volume
from worker.encode.identity import Identity
from worker.encode.source import Header

if TYPE_CHECKING:
    from datetime import datetime

    from model.postprocess import Masks
    from worker.convert import Series
    from worker.encode.segments import Segments
    from worker.encode.structures import Structures
    from worker.measure import Findings


@dataclass(frozen=True)
class Predecessor:
    """The structured report of the revision before: a SOP Instance Reference (PS3.3 10.27)."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, eq=False)
class Corrected:
    """That the mask is a reader's, and what the release itself had found.

    Attributes
    ----------
    at : when the correction came
    revision : of the case, the one that was corrected
    digest : SHA-256 of the reader's file
    algorithm : MANUAL or SEMIAUTOMATIC (PS3.3 C.8.20.4)
    """

    reader: str
    at: datetime
    revision: int
    digest: str
    algorithm: str
    masks: Masks
    findings: Findings

    def as_text(self) -> str:
        """What of it shapes the bytes beside the mask that goes out."""
        return f"corrected by {self.reader} at {self.at.isoformat()}, revision {self.revision}, {self.digest}, {self.algorithm}"


@dataclass(frozen=True, eq=False)
class Context:
    """One finished case, as every encoder sees it.

    Attributes
    ----------
    series : the DICOM source, None where a NIfTI file came in (then no DICOM goes out)
    header : what our objects repeat of the source's headers, normalised (empty for NIfTI)
    volume : the source volume; `masks` and `findings` are on its grid
    segments : of the segmentation object, None where a NIfTI file came in
    structures : contours on transverse planes, None where a NIfTI file came in
    quality : flags, each `code: detail` or a plain sentence
    series_shift : how far Series Numbers are moved on, service.series_numbers
    identity : UIDs and dates, derived from everything that shapes the bytes
    predecessor : the report that this one takes the place of
    corrected : None where the mask is the release's own
    """

    series: Series | None
    header: Header
    volume: Volume
    masks: Masks
    findings: Findings
    segments: Segments | None
    structures: Structures | None
    release: Release
    engine_name: str
    precision: str
    quality: tuple[str, ...]
    revision: int
    series_shift: int
    identity: Identity
    product_version: str
    predecessor: Predecessor | None = None
    corrected: Corrected | None = None


@dataclass(frozen=True)
class Output:
    """One file that goes out. The same case gives the same `data`, byte for byte."""

    kind: str
    media_type: str
    filename: str
    data: bytes
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None

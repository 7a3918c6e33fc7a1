"""What the service needs to know of an instance, read from the bytes up to Pixel Data and nothing beyond; no pixel is decoded here.

Values are taken raw and read tolerantly (a bad number is a missing one): the listener must answer for what real scanners send, and
pydicom's own conversions warn or raise on much of it.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, fields
from typing import Any, BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from service.errors import Rejected
from service.headers.damage import Unreadable, unreadable
from service.headers.elements import moment, number, numbers, raw, repertoires, sequence, text, texts, uid, whole
from service.headers.equipment import is_made_here
from service.headers.inflating import Bomb, inflate
from service.headers.pixel_length import check_pixel_data

__all__ = ["ENHANCED", "Frame", "Header", "Mismatch", "Unreadable", "read_file", "read_header"]

ENHANCED: Final = frozenset({"1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.3", "1.2.840.10008.5.1.4.1.1.4.4"})
_PIXEL_TAGS: Final = (0x7FE00008, 0x7FE00009, 0x7FE00010)


class Mismatch(Rejected):
    """The object is not the one its command announced. Answered with 0xA900 and never kept."""


@dataclass(frozen=True)
class Frame:
    """One image plane: where it lies (LPS, millimetres) and what would make two planes at one place differ."""

    position_lps: tuple[float, ...] | None = None
    orientation_lps: tuple[float, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    echo_time_ms: float | None = None
    component: str = ""
    temporal_index: float | None = None
    b_value: float | None = None


@dataclass(frozen=True)
class Header:
    """The header of one instance, as far as admission, the case book and the store need it; JSON-able through `as_json`."""

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    transfer_syntax_uid: str
    character_set: tuple[str, ...] = ()
    patient_id: str = ""
    patient_id_issuer: str = ""
    studied_at: str = ""  # Study Date and Study Time, as digits
    accession_number: str = ""
    modality: str = ""
    manufacturer: str = ""
    series_description: str = ""
    protocol_name: str = ""
    sequence_name: str = ""
    image_type: tuple[str, ...] = ()
    body_part: str = ""
    scanning_sequence: tuple[str, ...] = ()
    acquisition_type: str = ""
    acquisition_contrast: str = ""
    contrast_agent: str = ""
    photometric: str = ""
    rows: int | None = None
    columns: int | None = None
    samples: int | None = None
    repetition_time_ms: float | None = None
    echo_time_ms: float | None = None
    inversion_time_ms: float | None = None
    slice_thickness_mm: float | None = None
    spacing_between_slices_mm: float | None = None
    images_in_acquisition: int | None = None
    number_of_frames: int | None = None
    series_number: int | None = None
    instance_number: int | None = None
    has_pixels: bool = False
    why_unwanted: str = ""  # no element: what the intake knows of a segmentation that is no correction
    withdrew: str = ""  # no element: what it took, where it is a rejection note
    lossy: bool = False
    made_here: bool = False  # a result of this product
    frames: tuple[Frame, ...] = ()

    @property
    def enhanced(self) -> bool:
        """Tell whether the frames carry their own attributes (PS3.3 C.7.6.16)."""
        return self.sop_class_uid in ENHANCED

    def as_json(self) -> dict[str, Any]:
        """Give plain lists, strings and numbers; what is empty is left out."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "", ())}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Header:
        """Undo `as_json` (unknown keys of a later version are passed over)."""
        known = {field.name for field in fields(cls)}
        plain = {key: _tuples(value) for key, value in values.items() if key in known and key != "frames"}
        frames = tuple(Frame(**{key: _tuples(value) for key, value in frame.items()}) for frame in values.get("frames", ()))
        return cls(**plain, frames=frames)


def read_header(stream: BinaryIO, transfer_syntax_uid: str) -> Header:
    """
    Read a dataset (without file meta) from the stream's current position up to Pixel Data, and check that the pixels are all there.

    Parameters
    ----------
    stream : seekable, positioned at the first element of the dataset
    transfer_syntax_uid : how the dataset is encoded (PS3.5 10)

    Raises
    ------
    Unreadable
        Not a dataset in this transfer syntax, UIDs missing, or cut short.
    """
    beyond = 0
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        stream, beyond = _inflate(stream)
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    little = transfer_syntax_uid != ExplicitVRBigEndian
    with unreadable("not a DICOM dataset in its transfer syntax"):
        dataset = read_dataset(stream, implicit, little, stop_when=_at_pixels, specific_tags=None)
        missing = [name for name in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID") if not uid(dataset, name)]
    if missing:
        raise Unreadable(f"{', '.join(missing)} missing or not a valid UID")
    with unreadable("damaged header"):
        has_pixels = check_pixel_data(stream, dataset, implicit=implicit, little=little, beyond=beyond)
        return _summarise(dataset, transfer_syntax_uid, has_pixels)


def read_file(stream: BinaryIO) -> tuple[Header, int]:
    """
    Read the header of a Part-10 file.

    Returns
    -------
    the header, and the offset at which the data set begins

    Raises
    ------
    Unreadable

    References
    ----------
    PS3.10 7.1
    """
    if stream.read(132)[128:] != b"DICM":
        raise Unreadable("not a DICOM file")
    with unreadable("damaged file meta information"):
        meta = read_dataset(stream, False, True, stop_when=_after_meta)
        transfer_syntax_uid = uid(meta, "TransferSyntaxUID")
        directory = uid(meta, "MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
    if not transfer_syntax_uid:
        raise Unreadable("no transfer syntax in the file meta information")
    if directory:
        raise Unreadable("a DICOMDIR, not an instance")
    start = stream.tell()
    return read_header(stream, transfer_syntax_uid), start


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag in _PIXEL_TAGS


def _inflate(stream: BinaryIO) -> tuple[BinaryIO, int]:
    try:
        return inflate(stream)
    except zlib.error as error:
        raise Unreadable("damaged deflated dataset") from error
    except Bomb:
        raise Unreadable("deflated dataset too large once inflated") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list | tuple) else value


def _summarise(dataset: Dataset, transfer_syntax_uid: str, has_pixels: bool) -> Header:
    encodings = repertoires(dataset)
    shared = next(iter(sequence(dataset, "SharedFunctionalGroupsSequence")), Dataset())
    per_frame = sequence(dataset, "PerFrameFunctionalGroupsSequence")
    first = [next(iter(per_frame), Dataset()), shared]
    timing = _macro(first, "MRTimingAndRelatedParametersSequence")
    modifier = _macro(first, "MRModifierSequence")
    frame_type = _macro(first, "MRImageFrameTypeSequence")
    measures = _macro(first, "PixelMeasuresSequence")
    frames = tuple(_frame([own, shared], dataset) for own in per_frame) if per_frame else (_plain_frame(dataset),)
    return Header(
        sop_class_uid=uid(dataset, "SOPClassUID"),
        sop_instance_uid=uid(dataset, "SOPInstanceUID"),
        series_uid=uid(dataset, "SeriesInstanceUID"),
        study_uid=uid(dataset, "StudyInstanceUID"),
        transfer_syntax_uid=str(transfer_syntax_uid),
        character_set=texts(dataset, "SpecificCharacterSet"),
        patient_id=text(dataset, "PatientID", encodings),
        patient_id_issuer=text(dataset, "IssuerOfPatientID", encodings),
        studied_at=moment(dataset, "StudyDate", "StudyTime"),
        accession_number=text(dataset, "AccessionNumber", encodings),
        modality=text(dataset, "Modality").upper(),
        manufacturer=text(dataset, "Manufacturer", encodings),
        series_description=text(dataset, "SeriesDescription", encodings),
        protocol_name=text(dataset, "ProtocolName", encodings),
        sequence_name=text(dataset, "SequenceName") or text(dataset, "PulseSequenceName"),
        image_type=texts(dataset, "ImageType") or texts(frame_type, "FrameType"),
        body_part=text(dataset, "BodyPartExamined").upper(),
        scanning_sequence=texts(dataset, "ScanningSequence"),
        acquisition_type=text(dataset, "MRAcquisitionType").upper(),
        acquisition_contrast=(text(dataset, "AcquisitionContrast") or text(frame_type, "AcquisitionContrast")).upper(),
        contrast_agent=_contrast_agent(dataset, encodings),
        photometric=text(dataset, "PhotometricInterpretation").upper(),
        rows=whole(dataset, "Rows", "US"),
        columns=whole(dataset, "Columns", "US"),
        samples=whole(dataset, "SamplesPerPixel", "US"),
        repetition_time_ms=_either(number(dataset, "RepetitionTime", "DS"), number(timing, "RepetitionTime", "DS")),
        echo_time_ms=_either(number(dataset, "EchoTime", "DS"), frames[0].echo_time_ms),
        inversion_time_ms=_either(number(dataset, "InversionTime", "DS"), number(modifier, "InversionTimes", "FD")),
        slice_thickness_mm=_either(number(dataset, "SliceThickness", "DS"), number(measures, "SliceThickness", "DS")),
        spacing_between_slices_mm=_either(number(dataset, "SpacingBetweenSlices", "DS"), number(measures, "SpacingBetweenSlices", "DS")),
        images_in_acquisition=whole(dataset, "ImagesInAcquisition", "IS"),
        number_of_frames=whole(dataset, "NumberOfFrames", "IS"),
        series_number=whole(dataset, "SeriesNumber", "IS"),
        instance_number=whole(dataset, "InstanceNumber", "IS"),
        has_pixels=has_pixels,
        lossy=text(dataset, "LossyImageCompression") == "01",
        made_here=is_made_here(dataset),
        frames=frames,
    )


def _plain_frame(dataset: Dataset) -> Frame:
    return Frame(
        position_lps=_vector(dataset, "ImagePositionPatient", 3),
        orientation_lps=_vector(dataset, "ImageOrientationPatient", 6),
        spacing_mm=_vector(dataset, "PixelSpacing", 2),
        echo_time_ms=number(dataset, "EchoTime", "DS"),
        component=text(dataset, "ComplexImageComponent").upper(),
        temporal_index=number(dataset, "TemporalPositionIdentifier", "IS"),
        b_value=number(dataset, "DiffusionBValue", "FD"),
    )


def _frame(groups: list[Dataset], dataset: Dataset) -> Frame:
    """PS3.3 C.7.6.16.1.1: an attribute of a frame is in its own functional groups, or else in the shared ones."""
    frame_type = _macro(groups, "MRImageFrameTypeSequence")
    return Frame(
        position_lps=_vector(_macro(groups, "PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation_lps=_vector(_macro(groups, "PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        spacing_mm=_vector(_macro(groups, "PixelMeasuresSequence"), "PixelSpacing", 2),
        echo_time_ms=_either(number(_macro(groups, "MREchoSequence"), "EffectiveEchoTime", "FD"), number(dataset, "EchoTime", "DS")),
        component=(text(frame_type, "ComplexImageComponent") or text(dataset, "ComplexImageComponent")).upper(),
        temporal_index=number(_macro(groups, "FrameContentSequence"), "TemporalPositionIndex", "UL"),
        b_value=number(_macro(groups, "MRDiffusionSequence"), "DiffusionBValue", "FD"),
    )


def _macro(groups: list[Dataset], keyword: str) -> Dataset:
    for group in groups:
        for item in sequence(group, keyword):
            return item
    return Dataset()


def _vector(dataset: Dataset, keyword: str, length: int) -> tuple[float, ...] | None:
    found = numbers(dataset, keyword, "DS")
    return found if len(found) == length else None


def _either(first: float | None, second: float | None) -> float | None:
    return second if first in (None, 0) else first


def _contrast_agent(dataset: Dataset, encodings: tuple[str, ...]) -> str:
    named = text(dataset, "ContrastBolusAgent", encodings)
    coded = raw(dataset, "ContrastBolusVolume").strip(b"\x00 0.") or sequence(dataset, "ContrastBolusAgentSequence")
    return named or ("given" if coded else "")

"""What our objects repeat of the source's headers: read with care, normalised, and every correction named."""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from worker.frames import MALFORMED
from worker.pixels import is_lossy

if TYPE_CHECKING:
    from worker.convert import Series

PATIENT = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
)
STUDY = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
    "ReferringPhysicianName",
)
SERIES = (
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "SeriesDate",
    "SeriesTime",
    "BodyPartExamined",
    "FrameOfReferenceUID",
    "SliceThickness",
    "PatientPosition",
)
EQUIPMENT = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "InstitutionName",
    "StationName",
    "MagneticFieldStrength",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_MOMENTS = (("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime"), ("StudyDate", "StudyTime"))
_LONGEST = {"LO": 64, "SH": 16, "PN": 64, "UI": 64, "DS": 16, "IS": 12, "CS": 16, "AS": 4}
# value representations as PS3.6 has them; what a broken header claims does not count
_VR = dict.fromkeys((*PATIENT, *STUDY, *SERIES, *EQUIPMENT), "LO") | {
    **dict.fromkeys(("PatientName", "ReferringPhysicianName"), "PN"),
    **dict.fromkeys(("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate"), "DA"),
    **dict.fromkeys(("StudyTime", "SeriesTime", "AcquisitionTime"), "TM"),
    **dict.fromkeys(("PatientSex", "PatientIdentityRemoved", "BodyPartExamined", "PatientPosition", "LossyImageCompressionMethod"), "CS"),
    **dict.fromkeys(("PatientSize", "PatientWeight", "MagneticFieldStrength", "SliceThickness", "LossyImageCompressionRatio"), "DS"),
    **dict.fromkeys(("StudyID", "AccessionNumber", "StationName"), "SH"),
    **dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"), "UI"),
    "PatientAge": "AS",
    "SeriesNumber": "IS",
}
_SEVERAL = ("SoftwareVersions", "LossyImageCompressionRatio", "LossyImageCompressionMethod")  # value multiplicity 1-n
# Worked out from what was wrong, or another person's.
_AGEING = ("PatientAge", "PatientSize", "PatientWeight")
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")
_UNREADABLE = "\x00"
_GB2312_ESCAPE = "\x1b$)A"  # pydicom leaves it in the text it decodes (PS3.5 6.1.2.5.3)
_ENUMERATED = {"PatientSex": ("M", "F", "O"), "PatientIdentityRemoved": ("YES", "NO")}


@dataclass(frozen=True)
class Header:
    """Normalised attributes of the source series.

    Attributes
    ----------
    values : DICOM keyword -> text; a keyword the source lacks is missing, one it got wrong is blank or shortened
    corrected : keywords whose value had to be changed
    content_moment : (DA, TM) our objects are dated with, None where the source holds no date at all
    instances : SOP Instance UID and frame number of every source frame, ascending along k
    positions_lps : Image Position (Patient) of the same frames, as the source has it, in millimetres
    lossy : the source's values were compressed with loss at some time
    """

    values: dict[str, str] = field(default_factory=dict)
    corrected: tuple[str, ...] = ()
    content_moment: tuple[str, str] | None = None
    instances: tuple[tuple[str, int | None], ...] = ()
    positions_lps: tuple[tuple[float, ...], ...] = ()
    lossy: bool = False

    def get(self, keyword: str) -> str:
        """Give a value, or an empty text."""
        return self.values.get(keyword, "")

    def as_text(self) -> str:
        """Give all of it in one fixed text, for the identity."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @property
    def quality(self) -> tuple[str, ...]:
        """The flag that names what was wrong in the source's headers."""
        return (f"header-corrected: {', '.join(self.corrected)} of the source not valid",) if self.corrected else ()


def read_header(series: Series | None, identity: Mapping[str, str] | None = None) -> Header:
    """Read what our objects repeat from the source's headers; nothing a header holds is fatal.

    Parameters
    ----------
    identity : of the patient, by keyword, where somebody corrected it by hand: it takes the place of what the source says
    """
    if series is None:
        return Header()
    first = series.datasets[0]
    values: dict[str, str] = {}
    corrected: list[str] = []
    for keyword in (*PATIENT, *STUDY, *SERIES, *EQUIPMENT):
        given = _read(first, keyword)
        if given is None:
            continue
        values[keyword] = normalised(keyword, given)
        if values[keyword] != given:
            corrected.append(keyword)
    if identity:
        valid = {keyword: _valid(keyword, value) for keyword, value in identity.items()}
        values = {keyword: value for keyword, value in values.items() if keyword not in _AGEING} | valid
        corrected = [keyword for keyword in corrected if keyword not in identity]
        corrected += [keyword for keyword, value in identity.items() if valid[keyword] != value]
    instances = tuple((frame.sop_instance_uid, frame.frame_number) for frame in series.frames)
    lossy = any(is_lossy(dataset) for dataset in series.datasets)
    return Header(values, tuple(corrected), _content_moment(series.datasets), instances, _positions_lps(series), lossy)


def _valid(keyword: str, value: str) -> str:
    """Leave what was typed, which was checked; what was kept of the source beside it may be as wrong as there."""
    joiners = {letter for letter in value if not letter.isprintable() and unicodedata.category(letter) not in _CONTROLS}
    masked = "".join("x" if letter in joiners else letter for letter in value)
    return value if normalised(keyword, masked) == masked else normalised(keyword, value)


def _positions_lps(series: Series) -> tuple[tuple[float, ...], ...]:
    objects = {str(dataset.SOPInstanceUID): dataset for dataset in series.datasets}
    planes = []
    for frame in series.frames:
        plane = objects[frame.sop_instance_uid]
        if frame.frame_number is not None:
            plane = plane.PerFrameFunctionalGroupsSequence[frame.frame_number - 1].PlanePositionSequence[0]
        planes.append(tuple(float(value) for value in plane.ImagePositionPatient))
    return tuple(planes)


def _read(dataset: Dataset, keyword: str) -> str | None:
    """Give an element's value as text in Unicode, a backslash between several values; None where it is missing or empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of what `normalised` puts right
        try:
            value = dataset.get(keyword)
        except MALFORMED:
            return _UNREADABLE
    if value is None:
        return None
    several = isinstance(value, MultiValue | list | tuple)
    text = "\\".join(str(one) for one in value) if several else str(value)
    return text.replace(_GB2312_ESCAPE, "").strip(" \x00") or None


def normalised(keyword: str, text: str) -> str:
    """Make a value valid for its attribute (PS3.5 6.2), or blank where nothing valid is in it."""
    vr = _VR[keyword]
    if keyword in _SEVERAL and "\\" in text:
        return "\\".join(normalised(keyword, part) for part in text.split("\\"))
    if keyword in _ENUMERATED:
        return text.upper() if text.upper() in _ENUMERATED[keyword] else ""
    if vr in _CHECKS:
        return _CHECKS[vr](text)
    clean = "".join(" " if not letter.isprintable() else letter for letter in text.replace("\\", "/")).strip()
    if vr == "PN":
        return "=".join(group[: _LONGEST["PN"]] for group in clean.split("=")[:3])
    return clean[: _LONGEST[vr]].strip()


def _date(text: str) -> str:
    digits = re.sub(r"[.\-/]", "", text)
    try:
        return digits if re.fullmatch(r"\d{8}", digits) and date.fromisoformat(digits) else ""
    except ValueError:
        return ""


def _time(text: str) -> str:
    digits = text.replace(":", "")
    valid = re.fullmatch(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?", digits)
    return digits if valid else ""


def _number(text: str) -> str:
    valid = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text)
    return text if valid and len(text) <= _LONGEST["DS"] else ""


def _age(text: str) -> str:
    valid = re.fullmatch(r"(\d{1,3})([DWMY])", text.upper())
    return f"{int(valid[1]):03d}{valid[2]}" if valid else ""


def _matching(pattern: str) -> Callable[[str], str]:
    return lambda text: text if re.fullmatch(pattern, text) else ""


_CHECKS: dict[str, Callable[[str], str]] = {
    "DA": _date,
    "TM": _time,
    "DS": _number,
    "IS": _matching(r"[+-]?\d{1,10}"),
    "AS": _age,
    "CS": _matching(r"[A-Z0-9_ ]{1,16}"),
    # components with leading zeros are wrong but real, and a study is found by them
    "UI": _matching(r"[\d.]{1,64}"),
}


def _content_moment(datasets: Iterable[Dataset]) -> tuple[str, str] | None:
    """Give the latest acquisition date and time, else the series', else the study's; never the clock's."""
    headers = tuple(datasets)
    acquired = [_read(header, "AcquisitionDateTime") or "" for header in headers]
    moments = [(_date(text[:8]), _time(text[8:].split("+")[0].split("-")[0]) or "000000") for text in acquired if _date(text[:8])]
    if moments:
        return max(moments)
    for date_keyword, time_keyword in _MOMENTS:
        moments = [
            (day, _time(_read(header, time_keyword) or "") or "000000")
            for header in headers
            if (day := _date(_read(header, date_keyword) or ""))
        ]
        if moments:
            return max(moments)
    return None

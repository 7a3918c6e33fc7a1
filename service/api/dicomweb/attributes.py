"""The attributes of each level that a search knows: what it can match, what it always gives, what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from service.identity import KEYWORDS


class Level(IntEnum):
    """What a search is for; a level includes those above it."""

    STUDY = 1
    SERIES = 2
    INSTANCE = 3

    @property
    def plural(self) -> str:
        """How addresses and messages name it."""
        return ("studies", "series", "instances")[self - 1]


GIVEN: Final[dict[Level, tuple[str, ...]]] = {
    Level.STUDY: (
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "InstanceAvailability",
        "ModalitiesInStudy",
        "ReferringPhysicianName",
        "TimezoneOffsetFromUTC",
        "StudyDescription",
        "RetrieveURL",
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyID",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    Level.SERIES: (
        "Modality",
        "TimezoneOffsetFromUTC",
        "SeriesDate",
        "SeriesTime",
        "SeriesDescription",
        "RetrieveURL",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SeriesNumber",
        "NumberOfSeriesRelatedInstances",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
        "RequestAttributesSequence",
    ),
    Level.INSTANCE: (
        "SOPClassUID",
        "SOPInstanceUID",
        "InstanceAvailability",
        "TimezoneOffsetFromUTC",
        "RetrieveURL",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "InstanceNumber",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
    ),
}
"""Tables 10.6.3-3 to 10.6.3-5 of PS3.18, and a little more that every viewer shows."""

COMPUTED: Final = frozenset(
    {
        "InstanceAvailability",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
        "NumberOfSeriesRelatedInstances",
        "RetrieveURL",
    }
)

REQUIRED: Final = frozenset(
    {
        *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID", "PatientBirthDate"),
        *("PatientSex", "StudyID", "Modality", "SeriesNumber", "InstanceNumber"),
    }
)
"""Given without a value where the object has none."""

_NOT_MATCHED: Final = COMPUTED - {"ModalitiesInStudy"} | {"TimezoneOffsetFromUTC"}
MATCHED: Final[dict[str, Level]] = {
    keyword: level for level in reversed(Level) for keyword in GIVEN[level] if keyword not in _NOT_MATCHED and keyword[-8:] != "Sequence"
} | {
    "RequestAttributesSequence.ScheduledProcedureStepID": Level.SERIES,
    "RequestAttributesSequence.RequestedProcedureID": Level.SERIES,
}
"""What can be matched, and the level it belongs to."""

READ: Final = tuple(sorted({keyword for keywords in GIVEN.values() for keyword in keywords} - COMPUTED))
"""What is read of an object's header for a search."""

READ_OF_INSTANCE: Final = tuple(sorted(set(GIVEN[Level.INSTANCE]) - COMPUTED))


def tag_of(keyword: str) -> str:
    """The name of an attribute in DICOM JSON; PS3.18 F.2.1."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError("not a keyword of the dictionary")
    return f"{tag:08X}"


def encoded(keyword: str, *values: Any) -> dict[str, Any]:
    """An attribute in DICOM JSON, without `Value` where there is none."""
    empty: dict[str, Any] = {"vr": dictionary_VR(keyword)}
    return empty | {"Value": list(values)} if values else empty


def overlaid(attributes: Mapping[str, Any], identity: Mapping[str, str]) -> dict[str, Any]:
    """Give attributes by keyword with those of the patient as `identity` has them; one that is blank there is left out."""
    said = {keyword: value for keyword, value in identity.items() if keyword in KEYWORDS}
    kept = {keyword: value for keyword, value in attributes.items() if keyword not in said}
    return kept | {keyword: encoded(keyword, _json_value(keyword, value)) for keyword, value in said.items() if value}


def _json_value(keyword: str, value: str) -> Any:
    if dictionary_VR(keyword) != "PN":
        return value
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), value.split("="), strict=False)
    return {name: group for name, group in groups if group}

"""The status resource: what the HTTP face tells of a case, field by field as the contract names them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from service.records import State, VerdictKind, VerdictState


@dataclass(frozen=True)
class Face:
    """How one kind of output is served: the last part of its address, its media type, and the file name offered."""

    name: str
    media_type: str
    filename: str
    about: str
    inline: bool = False


FACES: Final = (
    Face("segmentation", "application/dicom", "segmentation.dcm", "DICOM Segmentation on the grid of the series that was sent"),
    Face("structured-report", "application/dicom", "structured-report.dcm", "DICOM SR: every lesion, totals, limits (TID 1500)"),
    Face("rtstruct", "application/dicom", "rtstruct.dcm", "DICOM RT Structure Set: contours on transverse planes"),
    Face(
        "resampled.zip", "application/zip", "resampled.zip", "The axial MR series that the contours lie on, where the source is not axial"
    ),
    Face("report.dcm", "application/dicom", "report.dcm", "The page as DICOM Encapsulated PDF"),
    Face("preview.dcm", "application/dicom", "preview.dcm", "The montage as DICOM Secondary Capture"),
    Face("segmentation.nii.gz", "application/gzip", "segmentation.nii.gz", "The same mask as NIfTI (1 lesion, 2 tumour-like)"),
    Face("report.json", "application/json", "report.json", "Every number of the report", inline=True),
    Face("report.pdf", "application/pdf", "report.pdf", "The report for people, one page", inline=True),
    Face("preview.png", "image/png", "preview.png", "A montage with the outlines", inline=True),
)


class Stage(BaseModel):
    """When a stage began and how long it took."""

    start: datetime
    seconds: float = Field(ge=0)


class ModelUsed(BaseModel):
    """The release that ran, the engine and the precision it ran with."""

    model_config = ConfigDict(extra="allow")

    name: str
    version: str
    sha256: str
    engine: str
    precision: str


class Verdict(BaseModel):
    """What a reader said of a revision."""

    verdict: VerdictKind = Field(description="`correct`: the results of revision `made` are made from the reader's mask")
    reader: str
    at: datetime
    revision: int = Field(ge=1, description="The revision that was judged; not of the current results where it is another")
    comment: str
    made: int | None = Field(description="The revision made from a correction")


class OpenCorrection(BaseModel):
    """A correction that no result is made from: a worker has yet to look at it, or it was refused."""

    reader: str
    at: datetime
    revision: int = Field(ge=1)
    comment: str
    state: VerdictState
    reason: str | None = Field(description="Always set where it was refused")


class DeliveryStatus(BaseModel):
    """One output on its way to one destination."""

    destination: str
    output: str
    state: str = Field(description="pending, sent, committed, dead or withheld")
    attempts: int = Field(ge=0)
    next_attempt_at: datetime | None
    last_error: str | None


EXAMPLE: Final[dict[str, Any]] = {
    "id": "0b6c2f0e9d1f4b52a1c7c3ee5a0f8a11",
    "patient_id": "ANON-0042",
    "patient_key": "p-3f9a0c6b1d",
    "study_uid": "1.2.826.0.1.3680043.8.498.1",
    "series_uid": "1.2.826.0.1.3680043.8.498.1.4",
    "series_description": "3D FLAIR sag",
    "study_date": "20261120",
    "accession_number": "A-1042",
    "state": "done",
    "reason": None,
    "revision": 1,
    "attempts": 1,
    "instances": 176,
    "received_at": "2026-11-23T08:15:02.412Z",
    "stages": {"convert": {"start": "2026-11-23T08:15:02.601Z", "seconds": 0.42}},
    "model": {"name": "wmh-flair", "version": "0.1.0", "sha256": "9f2c…", "engine": "openvino-cpu", "precision": "bf16"},
    "quality": ["after contrast"],
    "findings": {"lesion_count": 7, "lesion_volume_ml": 5.31, "tumour_like_volume_ml": 0.0, "brain_volume_ml": 1312.4},
    "primary": True,
    "outputs": {"segmentation": "/cases/0b6c2f0e9d1f4b52a1c7c3ee5a0f8a11/segmentation"},
    "verdict": {
        "verdict": "accept",
        "reader": "A. Reader",
        "at": "2026-11-23T09:02:11.030Z",
        "revision": 1,
        "comment": "",
        "made": None,
    },
    "correction": None,
    "deliveries": [
        {"destination": "pacs", "output": "segmentation", "state": "sent", "attempts": 1, "next_attempt_at": None, "last_error": None}
    ],
}


class CaseStatus(BaseModel):
    """One series and what became of it."""

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE})

    id: str = Field(description="Opaque; stays the same for the same series")
    patient_id: str | None
    patient_key: str = Field(description="Opaque; stands for the patient in addresses")
    study_uid: str
    series_uid: str
    series_description: str | None
    study_date: str | None = Field(description="Study Date of the series, YYYYMMDD")
    accession_number: str | None
    state: State
    reason: str | None = Field(description="Always set for held, rejected and failed")
    revision: int = Field(ge=0)
    attempts: int = Field(ge=0)
    instances: int = Field(ge=0)
    received_at: datetime
    stages: dict[str, Stage]
    model: ModelUsed | None
    quality: list[str]
    findings: dict[str, Any] | None = Field(description="lesion_count, lesion_volume_ml, tumour_like_volume_ml, brain_volume_ml, …")
    primary: bool = Field(description="Is it the study's chosen result")
    outputs: dict[str, str] = Field(description="Name → address, of the current revision")
    deliveries: list[DeliveryStatus]
    verdict: Verdict | None = Field(description="The last that stands")
    correction: OpenCorrection | None = Field(description="The last correction, where it waits or was refused")


class CaseList(BaseModel):
    """A page of cases, newest first; `next` is the cursor of the page after it."""

    items: list[CaseStatus]
    next: str | None


class FileProblem(BaseModel):
    """A file of an upload that was not taken, by its place in the upload from 1."""

    file: int
    name: str
    detail: str


class Accepted(BaseModel):
    """What became of an upload: one status per series in it; `problems` names the files that were not taken."""

    items: list[CaseStatus]
    problems: list[FileProblem] = []

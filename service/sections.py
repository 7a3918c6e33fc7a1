"""The tables of the settings file: destinations, senders, tokens, retention, structure set."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from service import sendable
from service.rule import Name

# PS3.5 6.2, value representation AE: 16 characters, no backslash or control character, not only spaces.
AETitle = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """Part of the settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Destination(Section):
    """A DICOM node that is sent results: each of ``outputs`` of every primary case."""

    name: Name
    ae_title: AETitle
    host: Annotated[str, StringConstraints(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    calling_ae: AETitle | None = None
    outputs: tuple[sendable.Sendable, ...] = sendable.DEFAULT
    empty_segmentation: bool = False  # viewers have hung on a SEG without a voxel


class CallingAE(Section):
    """A peer that may send: its AE title, optionally only from one address, and what is done with classes nobody wants."""

    title: AETitle
    address: str | None = None
    unwanted: Literal["refuse", "discard"] = "discard"

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        if value is not None:
            ipaddress.ip_network(value, strict=False)
        return value


class Token(Section):
    """An API token, kept only as the SHA-256 of its text."""

    name: Name
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Literal["read", "submit", "admin"], ...] = ("read", "submit")


class Retention(Section):
    """When cases and their files are removed; what is not given is never a reason. service.retention has the rules.

    Attributes
    ----------
    keep_days : remove what was last touched so many days ago
    keep_refused_days : the same for series that were refused, which are most of what a PACS routes
    keep_free_mb : remove the oldest while less than this is free
    """

    keep_days: Annotated[float, Field(ge=1, le=36500)] | None = None
    keep_refused_days: Annotated[float, Field(ge=1, le=36500)] | None = None
    keep_free_mb: Annotated[int, Field(ge=1)] | None = None

    @property
    def asks(self) -> bool:
        """Tell whether anything is ever to be removed."""
        return any(value is not None for value in (self.keep_days, self.keep_refused_days, self.keep_free_mb))


class RTStruct(Section):
    """How the structure set for radiotherapy planning is drawn.

    Attributes
    ----------
    holes : "keyhole" leads a cut from a hole to the outline, one contour; "xor" gives holes contours of their own (CLOSEDPLANAR_XOR)
    lesion_rois : so many of the largest lesions have an ROI of their own beside that of all; so many tumour-like ones too
    """

    holes: Literal["keyhole", "xor"] = "keyhole"
    lesion_rois: Annotated[int, Field(ge=0, le=200)] = 0


class Corrections(Section):
    """From whom a segmentation that comes over DICOM counts as a reader's correction of our result; by default from nobody.

    Attributes
    ----------
    calling_ae : titles of nodes whose segmentations about a series of ours are corrections
    http : those that come over STOW-RS or `POST /cases` are too
    """

    calling_ae: tuple[AETitle, ...] = ()
    http: bool = False

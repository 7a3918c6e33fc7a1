"""What the case book hands out and takes in: frozen values, never rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from service.records.states import State

if TYPE_CHECKING:
    from service.headers import Header


@dataclass(frozen=True)
class InstanceRow:
    """One stored instance. `header` is the JSON summary of what admission needs; `source` the calling AE or "rest"."""

    study_uid: str
    series_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    digest: str
    path: str
    size: int
    header: dict[str, Any]
    patient_id: str
    patient_issuer: str
    series_description: str
    source: str
    association: str
    received_at: datetime

    @classmethod
    def of(cls, header: Header, *, digest: str, path: str, size: int, source: str, association: str, received_at: datetime) -> InstanceRow:
        """Fill in what the header says."""
        return cls(
            study_uid=header.study_uid,
            series_uid=header.series_uid,
            sop_instance_uid=header.sop_instance_uid,
            sop_class_uid=header.sop_class_uid,
            transfer_syntax_uid=header.transfer_syntax_uid,
            digest=digest,
            path=path,
            size=size,
            header=header.as_json(),
            patient_id=header.patient_id,
            patient_issuer=header.patient_id_issuer,
            series_description=header.series_description,
            source=source,
            association=association,
            received_at=received_at,
        )


@dataclass(frozen=True)
class Noted:
    """What became of an instance. A "conflict" (same UID, other bytes) is kept aside; `Book.uncompared` says if a worker should look."""

    case_id: str
    outcome: Literal["new", "repeat", "conflict"]
    state: State


class Verdict(StrEnum):
    """What an instance that came again under a known UID is to the one in the series. Only "corrected" changes the series."""

    SAME = "same"
    CORRECTED = "corrected"  # same picture and place, other attributes: the one that was sent last is the series'
    SUPERSEDED = "superseded"  # a corrected version, sent later, is in the series
    OTHER_PIXELS = "other pixels"
    OTHER_GEOMETRY = "other geometry"
    UNREADABLE = "unreadable"  # nobody could compare it
    REJECTED = "rejected"  # a rejection note took it, and all versions that come after
    DISCARDED = "discarded"  # of a class whose instances are not kept: there is nothing to compare


@dataclass(frozen=True)
class Resend:
    """An instance set aside that nobody compared yet, and the one of its UID in the series; paths are relative to the store."""

    number: int
    sop_instance_uid: str
    path: str
    kept_path: str
    kept_digest: str


@dataclass(frozen=True)
class Judged:
    """What a comparison found; `changed` are keywords of attributes, never values."""

    resend: Resend
    verdict: Verdict
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """What a decision on a series is made on: void once `fence` changes, and not to be made while it is compared or fetched."""

    fence: int
    uncompared: bool
    fetching: bool


@dataclass(frozen=True)
class Receiving:
    """A case that still receives."""

    case_id: str
    study_uid: str
    series_uid: str
    last_received_at: datetime
    instances: int


@dataclass(frozen=True)
class HistoryRow:
    """One transition."""

    at: datetime
    event: str
    previous: State | None
    state: State
    revision: int
    reason: str | None


@dataclass(frozen=True)
class Case:
    """A case as it is now. `history` is empty in lists."""

    id: str
    patient_id: str
    patient_issuer: str
    patient_key: str
    study_uid: str
    series_uid: str
    series_description: str
    state: State
    reason: str | None
    revision: int
    attempts: int
    lapses: int
    instances: int
    received_at: datetime
    last_received_at: datetime
    changed_at: datetime
    stages: Mapping[str, Mapping[str, float]]
    model: Mapping[str, Any] | None
    quality: tuple[str, ...]
    findings: Mapping[str, Any] | None
    primary: bool
    rule: str | None
    rank: tuple[Any, ...] | None
    series_shift: int | None
    likeness: int | None
    likened_to: str | None
    history: tuple[HistoryRow, ...] = field(default=())


@dataclass(frozen=True)
class Page:
    """A page of cases, newest first; `next` is the cursor of the following one."""

    items: tuple[Case, ...]
    next: str | None


@dataclass(frozen=True)
class OutputRow:
    """One result on disk; `path` is relative to the store."""

    kind: str
    media_type: str
    path: str
    sha256: str
    size: int
    revision: int
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None


class DeliveryState(StrEnum):
    """Where a delivery is. Withheld: its case is not the study's primary, or a newer revision took its place.

    One that is sent and has a next attempt is still to be committed: that is when the destination is asked (again).
    """

    PENDING = "pending"
    SENT = "sent"
    COMMITTED = "committed"
    DEAD = "dead"
    WITHHELD = "withheld"


@dataclass(frozen=True)
class Delivery:
    """One output on its way to one destination; `fence` is the token of the lease when it was claimed.

    `path` and `sha256` are None where a rejection note was given up before it was written.
    """

    id: int
    case_id: str
    revision: int
    destination: str
    output: str
    state: DeliveryState
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None
    last_error: str | None
    fence: int
    path: str | None
    sha256: str | None
    sop_class_uid: str | None
    sop_instance_uid: str | None
    transaction_uid: str | None


@dataclass(frozen=True)
class CorrectedIdentity:
    """A correction of an identity by hand; `path` is that of its file: None where none was written yet."""

    id: int
    case_id: str
    at: datetime
    by: str
    reason: str
    before: dict[str, str]
    after: dict[str, str]
    active: bool
    path: str | None


class VerdictKind(StrEnum):
    """What a reader can say of a result."""

    ACCEPT = "accept"
    REJECT = "reject"
    CORRECT = "correct"


class VerdictState(StrEnum):
    """What became of it. A correction is pending until a worker has placed its mask on the series, and stands once it made a revision."""

    PENDING = "pending"
    STANDS = "stands"
    REFUSED = "refused"


class VerdictRefused(Exception):
    """The verdict is not taken; the message says why. Nothing was written."""


@dataclass(frozen=True)
class ReaderVerdict:
    """One verdict.

    Attributes
    ----------
    revision : the one that was judged
    reason, made : why it was refused; the revision that was made from the correction
    path, digest : of the file with the corrected mask, as it came; relative to the store
    seen : SOP Instance UIDs of the series when the correction came
    model : what had made the revision that was corrected
    said : the file with the words beside a corrected mask
    """

    id: int
    case_id: str
    revision: int
    kind: VerdictKind
    reader: str
    comment: str
    at: datetime
    state: VerdictState
    reason: str | None
    made: int | None
    path: str | None
    digest: str | None
    seen: tuple[str, ...]
    model: Mapping[str, Any] | None
    said: str | None


@dataclass(frozen=True)
class Correction:
    """A file with a corrected mask: where it lies in the store, and its SHA-256; `said`: the file with the reader's words."""

    path: str
    digest: str
    said: str | None = None


@dataclass(frozen=True)
class Lease:
    """The right to work on one revision of one case until `until`; every write of the worker shows it."""

    case_id: str
    owner: str
    fence: int
    revision: int
    attempts: int
    until: datetime


class LeaseLost(Exception):
    """Another worker, a late slice or a restart took the case: stop, throw the work away, count nothing."""

"""One instance that is handed over: who sends it, what was said of it before, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from service.headers import Header, Mismatch
from service.records import Actor, State


@dataclass(frozen=True)
class Source:
    """Who sends: an identifier for this association (or request), the calling AE title or "rest", the address, the API token's name."""

    association: str
    calling_ae: str
    address: str = ""
    token: str | None = None

    @property
    def actor(self) -> Actor:
        """Who that is in the audit trail."""
        return Actor("ae", self.calling_ae, self.address) if self.token is None else Actor("token", self.token, self.address)


@dataclass
class Asked:
    """A series that we had moved here, and how many instances of others came for it; those are not taken.

    Attributes
    ----------
    came : how many instances of it came, known ones too
    originators : who the sender may say asked for it: we did, but some name themselves
    """

    series_uid: str
    originators: tuple[str, ...]
    strangers: int = 0
    came: int = 0


@dataclass(frozen=True)
class Announced:
    """What a C-STORE command says about the data set that comes with it; `asked`: what it is an answer to, if to anything of ours."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    asked: Asked | None = None


@dataclass(frozen=True)
class Receipt:
    """What became of one instance; it is durable and indexed.

    Attributes
    ----------
    case_id : of its series, or of the series that it corrects; None where it is a result of ours that came back
    outcome : "new", "repeat" (known already), "conflict" (same UID, other bytes: kept aside, a worker compares), "correction" (a reader's,
        for a worker to look at) or "discarded" (a class not wanted, a rejection note about nothing that is here)
    """

    case_id: str | None
    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    outcome: str
    state: State


def demand_announced(header: Header, announced: Announced) -> None:
    """PS3.4 B.2.3, A900: the data set does not match the SOP class (here also: the instance) of the command."""
    if header.sop_class_uid != announced.sop_class_uid:
        raise Mismatch("SOP Class UID differs from the command's")
    if header.sop_instance_uid != announced.sop_instance_uid:
        raise Mismatch("SOP Instance UID differs from the command's")
    if announced.asked is None:
        return
    if header.series_uid != announced.asked.series_uid:
        announced.asked.strangers += 1
        raise Mismatch("not of the series that was asked for")
    announced.asked.came += 1

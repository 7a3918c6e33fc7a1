"""The ways to a series at a PACS, one function each: it returns when everything came, and raises the reason why not.

References
----------
PS3.4 C.4.2 (C-MOVE), C.4.3 (C-GET); PS3.18 10.4 (retrieve)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.status import code_to_category

from service.admission.refusals import MR_IMAGE_CLASSES
from service.answering import Answer, answering
from service.calling import Refused, associate
from service.contexts import TRANSFER_SYNTAXES
from service.errors import Rejected, Unavailable
from service.fetching.node import GET, MOVE, NotThere, find_by_node, identify, peer_of
from service.fetching.taking import Taking, TooMuch
from service.fetching.web import get_by_web
from service.intake.handover import Announced
from service.records import Fetch
from service.sections import Pacs, Way
from service.settings import Settings
from service.store import Store

ANSWER_S: Final = 120.0  # a PACS may fetch from slow storage before its first answer
_UNCOMPRESSED: Final = tuple(TRANSFER_SYNTAXES)[:4]
_UNKNOWN_DESTINATION: Final = 0xA801


@dataclass(frozen=True)
class Errand:
    """What one fetch works with; `instances` counts those the case has."""

    settings: Settings
    source: Pacs
    fetch: Fetch
    taking: Taking
    store: Store
    instances: Callable[[], int]


def get(errand: Errand) -> None:
    """
    C-GET: the instances come over the association that asks for them.

    Raises
    ------
    NotThere, Rejected
        Final.
    Refused, Unavailable
        Another way may do.
    """
    contexts = [build_context(GET, list(_UNCOMPRESSED[:2])), *_storage_contexts()]
    roles = [build_role(uid, scp_role=True) for uid in MR_IMAGE_CLASSES]
    incoming = _Incoming(errand.taking)
    handlers = [(evt.EVT_C_STORE, incoming.store), (evt.EVT_DATA_RECV, incoming.count)]
    with _associate(errand, contexts, handlers=handlers, roles=roles) as association:
        _demand(association, GET, "C-GET")
        final = _follow(errand, association.send_c_get(_identifier(errand), GET))
    came = errand.taking.count
    _conclude(errand, final, came, came, "are they MR images in an encoding that is taken here (conformance.md, 5.1)?")


def move(errand: Errand) -> None:
    """C-MOVE to ourselves: the instances come to our listener. Raises as `get`."""
    title = errand.settings.ae_title
    hint = f"is {title} known there with our host and port, and its title listed under [[calling_ae]] here?"
    contexts = [build_context(MOVE, list(_UNCOMPRESSED[:2]))]
    before = errand.instances()
    with errand.taking.moving(title, str(errand.source.ae_title)) as number, _associate(errand, contexts) as association:
        _demand(association, MOVE, "C-MOVE")
        final = _follow(errand, association.send_c_move(_identifier(errand), title, MOVE, msg_id=number))
    if final.Status == _UNKNOWN_DESTINATION:
        raise Refused(f"it does not know {title} as a destination, or was not let in: {hint}")
    came = errand.instances()
    # What goes to another process's listener, or does not name its originator, is seen in the case book only.
    _conclude(errand, final, max(errand.taking.count, came - before), came, hint)
    if came < int(final.get("NumberOfCompletedSuboperations") or 0):
        raise Rejected(f"it sent {final.NumberOfCompletedSuboperations} instances, {came} of them of this series")


def wado(errand: Errand) -> None:
    """WADO-RS: the instances come as one multipart answer. Raises as `get`."""
    source, fetch, taking = errand.source, errand.fetch, errand.taking
    status = get_by_web(errand.settings, source, fetch.study_uid, fetch.series_uid, errand.store, taking)
    if status == 404 or (status < 300 and not taking.count and not taking.strangers):
        raise _nothing(taking)
    if status in {401, 403}:
        raise Refused(f"HTTP {status}: look at {'password_file' if source.user else 'token_file'} of the source")
    if status >= 500:
        raise Unavailable(f"HTTP {status}")
    if status >= 300:
        raise Refused(f"HTTP {status}")
    taking.demand_sound()
    if status == 206:
        raise Unavailable(f"it gave only a part, {taking.count} instances")


WAYS: Final[dict[Way, Callable[[Errand], None]]] = {"C-GET": get, "C-MOVE": move, "WADO-RS": wado}


def _associate(errand: Errand, contexts: list[PresentationContext], **more: Any) -> Any:
    errand.taking.check_going_on()
    return associate(peer_of(errand.settings, errand.source), contexts, answer_s=ANSWER_S, **more)


def _storage_contexts() -> list[PresentationContext]:
    """Each compressed syntax by itself: of several in one context the other side chooses one, and could not send the others."""
    groups = [list(_UNCOMPRESSED), *([uid] for uid in tuple(TRANSFER_SYNTAXES)[len(_UNCOMPRESSED) :])]
    return [build_context(uid, group) for uid in MR_IMAGE_CLASSES for group in groups]


def _demand(association: Association, model: str, called: str) -> None:
    if model not in {context.abstract_syntax for context in association.accepted_contexts}:
        raise Refused(f"it does not offer {called}")


def _identifier(errand: Errand) -> Dataset:
    return identify(errand.fetch.series_uid, errand.fetch.study_uid)


class _Incoming:
    """What comes over the association of a C-GET."""

    def __init__(self, taking: Taking) -> None:
        self._taking = taking
        self._bytes = 0

    def count(self, event: Any) -> None:
        """Break off where one instance is too large: pynetdicom gathers it in memory before anybody sees it."""
        self._bytes += len(event.data)
        try:
            self._taking.check_instance(self._bytes)
        except TooMuch:
            event.assoc.abort(block=False)

    def store(self, event: Any) -> int | Dataset:
        """Take an instance, and answer."""
        self._bytes = 0
        answer = Answer()
        with answering(answer, self._taking.sender):
            request = event.request
            announced = Announced(str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), str(event.context.transfer_syntax))
            request.DataSet.seek(0)
            self._taking.take(request.DataSet, announced)
        return answer.status()


def _follow(errand: Errand, answers: Iterator[tuple[Dataset, Dataset | None]]) -> Dataset:
    """Read the answers to their end, and give the last. Leaving in the middle aborts the association."""
    for status, _ in answers:
        if "Status" not in status:
            raise _ended(errand.taking)
        if code_to_category(status.Status) != "Pending":
            return status
        errand.taking.check_going_on()
        errand.taking.check_amount(sum(_counts(status)))
    raise _ended(errand.taking)


def _ended(taking: Taking) -> Rejected | Unavailable:
    """Why there is no answer: what was too large was broken off here."""
    return taking.excess or Unavailable("the association ended in the middle")


def _counts(status: Dataset) -> tuple[int, ...]:
    names = ("Remaining", "Completed", "Warning", "Failed")
    return tuple(int(status.get(f"NumberOf{name}Suboperations") or 0) for name in names)


def _conclude(errand: Errand, final: Dataset, brought: int, came: int, hint: str) -> None:
    """Return where everything came, raise else.

    Parameters
    ----------
    brought : instances that came this way, as far as it was seen
    came : those that are here, at least as many
    hint : what to look at where instances could not be sent
    """
    errand.taking.demand_sound()
    remaining, completed, warned, failed = _counts(final)
    category = code_to_category(final.Status)
    if failed:
        raise Refused(f"{failed} of {completed + warned + failed} instances could not be sent: {hint}")
    if remaining or category not in {"Success", "Warning"}:
        if not came and _lacks(errand):
            raise NotThere("it has no such series")
        raise Unavailable(f"status 0x{final.Status:04X}{_comment(final)}; {hint}")
    if completed + warned == 0 and not brought:
        raise _nothing(errand.taking)
    if not came:
        raise Refused(f"it says that it sent {completed + warned} instances, and none came: {hint}")


def _nothing(taking: Taking) -> Unavailable | NotThere:
    """Why a way that ended well without an instance is no success: the series is not there, unless an earlier way brought some of it."""
    return Unavailable("it gave nothing of the series, and an earlier way a part") if taking.total else NotThere("it has no such series")


def _lacks(errand: Errand) -> bool:
    """Tell whether the PACS says so itself: some answer a retrieval of what they do not have with a failure."""
    try:
        return not find_by_node(errand.settings, errand.source, errand.fetch.series_uid, errand.fetch.study_uid)
    except Unavailable:
        return False


def _comment(final: Dataset) -> str:
    """What it says besides may name a patient: shown in the case, and not logged."""
    comment = str(final.get("ErrorComment") or "")
    return f": {comment}" if comment else ""

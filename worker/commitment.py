"""Storage Commitment as its user: one N-ACTION, and a short stay for a report that comes at once. PS3.4 J.3.2."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from service.calling import NotAccepted, Peer, associate
from service.commitment import STORAGE_COMMITMENT
from service.errors import Rejected, Unavailable
from worker.send import Outgoing

STAY_S: Final = 3.0
"""How long the association is kept for a report that comes over it; later ones come to the listener."""

_INSTANCE: Final = "1.2.840.10008.1.20.1.1"  # well-known, PS3.4 J.3.5
_REQUEST: Final = 1  # action type
_NO_SERVICE: Final = {0x0118, 0x0122, 0x0123, 0x0211}  # no such class, not supported, no such action, unrecognised operation


class NotOffered(Rejected):
    """The node does not provide storage commitment. Not asked again."""


def ask(peer: Peer, transaction_uid: str, files: Sequence[Outgoing], on_report: Callable[[Any], int]) -> None:
    """Ask a node to commit to keep what it was sent.

    Parameters
    ----------
    on_report : takes an N-EVENT-REPORT that comes over the same association, and gives the status of the answer

    Raises
    ------
    Unavailable
        It could not be asked, or did not take the request; may be repeated, in another transaction.
    NotOffered
        It has no such service.
    """
    taking: list[threading.Thread] = []

    def take(event: Any) -> tuple[int, None]:
        taking.append(threading.current_thread())  # pynetdicom gives each report one, which sends the answer too
        return on_report(event), None

    try:
        with associate(peer, [build_context(STORAGE_COMMITMENT)], handlers=[(evt.EVT_N_EVENT_REPORT, take)]) as association:
            _demand_success(peer, _send(association, _request(transaction_uid, files)))
            until = time.monotonic() + STAY_S
            while association.is_established and not taking and time.monotonic() < until:
                time.sleep(0.01)
            for thread in taking:
                thread.join()
    except NotAccepted as error:
        raise NotOffered(error.reason) from None


def _send(association: Association, request: Dataset) -> Dataset:
    try:
        answer, _ = association.send_n_action(request, _REQUEST, STORAGE_COMMITMENT, _INSTANCE)
    except RuntimeError:  # it has ended already
        return Dataset()
    return answer


def _request(transaction_uid: str, files: Sequence[Outgoing]) -> Dataset:
    request = Dataset()
    request.TransactionUID = UID(transaction_uid)
    request.ReferencedSOPSequence = []
    for file in files:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = file.sop_class_uid, file.sop_instance_uid
        request.ReferencedSOPSequence.append(item)
    return request


def _demand_success(peer: Peer, answer: Dataset) -> None:
    if "Status" not in answer:
        raise Unavailable(f"{peer.ae_title}: the association ended, or no answer came")
    status = int(answer.Status)
    if status in _NO_SERVICE:
        raise NotOffered(f"{peer.ae_title}: status 0x{status:04X}")
    if status != 0:
        raise Unavailable(f"{peer.ae_title}: status 0x{status:04X}")

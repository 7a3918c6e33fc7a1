"""An association that we ask for: to deliver, and to fetch."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from service.errors import Unavailable
from service.sop_classes import class_name
from service.tls import watch_handshakes

_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0
_UNKNOWN_CALLER: Final = (1, 3)
_TRANSIENT: Final = 2
# PS3.8 9.3.4, table 9-21: by source and reason
_SOURCES: Final = {1: "service user", 2: "service provider, ACSE", 3: "service provider, presentation"}
_REASONS: Final = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    _UNKNOWN_CALLER: "calling AE title not recognised",
    (1, 7): "called AE title not recognised",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


class Refused(Unavailable):
    """The peer does not do this, or not for us: trying again changes nothing before somebody changes a setting."""


class NotAccepted(Refused):
    """The peer accepts none of the classes that were proposed."""


class UnknownCaller(Refused):
    """The peer does not recognise the title that we call from."""


@dataclass(frozen=True)
class Peer:
    """A DICOM node: title, host, port, the title we call it by, and the TLS context where it is called with TLS."""

    ae_title: str
    host: str
    port: int
    calling_ae: str = "LEUKOSCOPE"
    tls: ssl.SSLContext | None = None


@contextmanager
def associate(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    *,
    handlers: Sequence[Any] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    answer_s: float = _ANSWER_S,
) -> Iterator[Association]:
    """
    Open an association; released at the end, aborted on an exception.

    Parameters
    ----------
    answer_s : how long an answer may take

    Raises
    ------
    Unavailable
        The peer could not be reached, or rejected the association for now; may be repeated. Refused: it was, and does not accept what is
        proposed; NotAccepted: nothing of it; UnknownCaller: not from this title.
    """
    entity = AE(ae_title=peer.calling_ae)
    entity.connection_timeout = entity.acse_timeout = _CONNECT_S
    entity.dimse_timeout = entity.network_timeout = answer_s
    entity.requested_contexts = list(contexts)
    association = _ask(entity, peer, handlers, roles, answer_s)
    gate = _Gate()
    association._reactor_checkpoint = gate  # noqa: SLF001
    gate.held.wait(_CONNECT_S)
    try:
        yield association
    except BaseException:
        gate.open()
        association.abort()
        raise
    gate.open()
    association.release()


def _ask(
    entity: AE, peer: Peer, handlers: Sequence[Any], roles: Sequence[SCP_SCU_RoleSelectionNegotiation], answer_s: float
) -> Association:
    opened: list[bool] = []
    troubles: list[str] = []
    rejections: list[A_ASSOCIATE_RJ] = []

    def note_rejection(event: evt.Event) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    def note_open(event: evt.Event) -> None:
        opened.append(True)
        _prepare(event, answer_s)

    tls = None
    if peer.tls is not None:
        watch_handshakes(peer.tls, troubles.append)
        tls = (peer.tls, peer.host)
    noting = [(evt.EVT_CONN_OPEN, note_open), (evt.EVT_PDU_RECV, note_rejection), (evt.EVT_PDU_SENT, _end_waiting), *handlers]
    association = entity.associate(
        peer.host, peer.port, ae_title=peer.ae_title, evt_handlers=noting, ext_neg=list(roles) or None, tls_args=tls
    )
    if association.is_established:
        return association
    node = f"{peer.ae_title} at {peer.host}:{peer.port}"
    if not opened:
        raise Unavailable(f"{node}: {''.join(troubles[:1]) or 'no connection'}")
    if rejections:  # is_rejected is not set where pynetdicom's own threads race for the answer
        raise _rejection(rejections[0], node)
    raise _why_not(association, node, secured=tls is not None)


class _Gate(threading.Event):
    """Keeps pynetdicom's reactor thread out of the way from the first request to the last.

    It is paused and woken around every request, and can pass its checkpoint just as the next request pauses it: it then takes the
    answer the request waits for, which ends a minute later without one (seen on a loaded machine).
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = threading.Event()
        self._closed = True

    def wait(self, timeout: float | None = None) -> bool:
        """Note that the reactor stands still here, and keep it."""
        self.held.set()
        return super().wait(timeout)

    def set(self) -> None:
        """Let the reactor go, but not while the gate is closed."""
        if not self._closed:
            super().set()

    def open(self) -> None:
        """Be an ordinary event from now on."""
        self._closed = False
        super().set()


def _end_waiting(event: evt.Event) -> None:
    """Wake who waits for a message once we abort, also because of what is no PDU (PS3.8 AA-8): pynetdicom lets it wait for the time-out.

    It must not abort a second time: after AA-8 the state machine has no such event, and its thread would die of it.
    """
    if isinstance(event.pdu, A_ABORT_RQ):
        event.assoc._sent_abort = True  # noqa: SLF001
        event.assoc.dimse.msg_queue.put((None, None))


def _prepare(event: evt.Event, answer_s: float) -> None:
    """Switch Nagle's algorithm off: with delayed acknowledgements it costs up to 40 ms an instance. No read may wait for ever."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.socket.settimeout(answer_s)


def _why_not(association: Association, node: str, *, secured: bool) -> Unavailable:
    refused = sorted({class_name(context.abstract_syntax) for context in association.rejected_contexts if context.abstract_syntax})
    if refused and not association.accepted_contexts:
        return NotAccepted(f"{node}: not accepted there: {', '.join(refused)}")
    if secured:  # TLS 1.3: the handshake is over for us before the peer looks at our certificate
        return Unavailable(f"{node}: the connection was ended; a peer that does not take our certificate, or wants one, does that")
    return Unavailable(f"{node}: the association was aborted")


def _rejection(answer: A_ASSOCIATE_RJ, node: str) -> Unavailable:
    """Say what the peer said (PS3.8 9.3.4)."""
    source, reason = answer.source or 0, answer.reason_diagnostic or 0
    transient = answer.result == _TRANSIENT
    words = _REASONS.get((source, reason), f"reason {reason}")
    said = f"{node}: the association was rejected: {words} ({'transient' if transient else 'permanent'}, {_SOURCES.get(source, source)})"
    if (source, reason) == _UNKNOWN_CALLER:
        return UnknownCaller(said)
    return Unavailable(said) if transient else Refused(said)

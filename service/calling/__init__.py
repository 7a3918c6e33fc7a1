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
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from service.errors import Unavailable
from service.sop_classes import class_name
from service.tls import watch_handshakes

_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0


class Refused(Unavailable):
    """The peer does not do this, or not for us: trying again changes nothing before somebody changes a setting."""


class NotAccepted(Refused):
    """The peer accepts none of the classes that were proposed."""


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
        The peer could not be reached; may be repeated. Refused: it was, and does not accept what is proposed; NotAccepted: nothing of it.
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

    def note_open(event: evt.Event) -> None:
        opened.append(True)
        _prepare(event, answer_s)

    tls = None
    if peer.tls is not None:
        watch_handshakes(peer.tls, troubles.append)
        tls = (peer.tls, peer.host)
    noting = [(evt.EVT_CONN_OPEN, note_open), (evt.EVT_PDU_SENT, _end_waiting), *handlers]
    association = entity.associate(
        peer.host, peer.port, ae_title=peer.ae_title, evt_handlers=noting, ext_neg=list(roles) or None, tls_args=tls
    )
    if association.is_established:
        return association
    node = f"{peer.ae_title} at {peer.host}:{peer.port}"
    if not opened:
        raise Unavailable(f"{node}: {''.join(troubles[:1]) or 'no connection'}")
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
    """Wake who waits for a message once we abort, also because of what is no PDU (PS3.8 AA-8): pynetdicom lets it wait for the time-out."""
    if isinstance(event.pdu, A_ABORT_RQ):
        event.assoc.dimse.msg_queue.put((None, None))


def _prepare(event: evt.Event, answer_s: float) -> None:
    """Switch Nagle's algorithm off: with delayed acknowledgements it costs up to 40 ms an instance. No read may wait for ever."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.socket.settimeout(answer_s)


def _why_not(association: Association, node: str, *, secured: bool) -> Unavailable:
    if association.is_rejected:
        return Refused(f"{node}: the association was rejected")
    refused = sorted({class_name(context.abstract_syntax) for context in association.rejected_contexts if context.abstract_syntax})
    if refused and not association.accepted_contexts:
        return NotAccepted(f"{node}: not accepted there: {', '.join(refused)}")
    if secured:  # TLS 1.3: the handshake is over for us before the peer looks at our certificate
        return Unavailable(f"{node}: the connection was ended; a peer that does not take our certificate, or wants one, does that")
    return Unavailable(f"{node}: the association was aborted")

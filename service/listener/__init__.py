"""The DICOM door: C-ECHO and C-STORE as a provider. Nothing is decoded and nothing is kept here; the intake does that.

Success is answered only when the instance is durable and indexed, when it is of a class that the policy for its sender records and
discards, or when it is a rejection note and was carried out.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.pdu_primitives import A_RELEASE
from pynetdicom.presentation import build_context

from service.answering import Answer, answering
from service.commitment import Reports
from service.contexts import VERIFICATION, private_as_storage, supported_contexts
from service.intake import Intake
from service.intake.handover import Announced, Asked, Source
from service.listener.callers import REASONS, Caller, find_rule
from service.listener.patience import PatientReader, acknowledge_at_once
from service.listener.room import Room
from service.presence import Counts
from service.settings import HEADER_BYTES, Settings
from service.tls import fingerprint_of, renewed_door, start_tls_server

LOG = logging.getLogger(__name__)

STATUSES: Final = {
    0x0000: ("Success", "the instance is durable and indexed, recorded and discarded by policy, or a rejection note that was carried out"),
    0xA700: ("Refused: Out of Resources", "no space, or the case book is away; send again later"),
    0xA900: ("Error: Data Set does not match SOP Class", "the UIDs of the data set are not those of the command"),
    0xC000: ("Error: Cannot understand", "not a data set in its transfer syntax, UIDs missing, or cut short"),
    0xC211: ("Error: Unable to process", "a defect; logged"),
}
REJECT_CALLING: Final = (0x01, 0x01, 0x03)  # PS3.8 9.3.4: permanent, service user, calling AE title not recognised
REJECT_BUSY: Final = (0x02, 0x03, 0x01)  # transient, presentation related, temporary congestion
REJECT_FULL: Final = (0x02, 0x03, 0x02)  # transient, presentation related, local limit exceeded

MAXIMUM_PDU: Final = 131072
ACSE_TIMEOUT_S: Final = 30.0
NETWORK_TIMEOUT_S: Final = 60.0
WAITING_ROOM: Final = 100  # connections that have not asked for an association yet take no place of one
STOP_LIMIT_S: Final = 10.0
_IDLE_S: Final = 0.5


@dataclass
class _Line:
    """One association: who it is, and what it is doing."""

    sender: Source
    incoming_bytes: int = 0
    heard_at: float = field(default_factory=time.monotonic)
    working: bool = False


class Listener:
    """A running provider; `port` is where it listens, `tls_port` where with the TLS files `tls`, if at all; `stop` ends it."""

    def __init__(self, settings: Settings, intake: Intake, counts: Counts | None = None, reports: Reports | None = None) -> None:
        self._settings = settings
        self._reports = reports
        self._intake = intake
        self._counts = counts if counts is not None else Counts()
        self._room = Room(intake.check_space)
        self._lines: dict[Any, _Line] = {}
        self._lock = threading.Lock()
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._stopping = False
        _config.LOG_HANDLER_LEVEL = "none"  # pynetdicom's own log lines cost more time than the message they tell of
        self._entity = AE(ae_title=settings.ae_title)
        self._entity.maximum_pdu_size = MAXIMUM_PDU
        self._entity.maximum_associations = settings.maximum_associations + WAITING_ROOM
        self._entity.acse_timeout = ACSE_TIMEOUT_S
        self._entity.dimse_timeout = NETWORK_TIMEOUT_S
        self._entity.network_timeout = NETWORK_TIMEOUT_S
        self.tls = None if settings.dicom_tls is None else renewed_door(settings.dicom_tls)
        self._servers: list[Any] = []
        try:
            self._listen()
        except BaseException:
            self._entity.shutdown()
            raise
        self.port, self.tls_port = [*(int(server.server_address[1]) for server in self._servers), None][:2]

    def _listen(self) -> None:
        """Open the port, and the one for TLS: one entity with one limit of associations, one intake, one end."""
        settings = self._settings
        common: dict[str, Any] = {"evt_handlers": self._handlers(), "contexts": [build_context(VERIFICATION)]}
        self._servers.append(self._entity.start_server((settings.dicom_host, settings.dicom_port), block=False, **common))
        if settings.dicom_tls is not None and self.tls is not None:
            address, secure = (settings.dicom_tls_host, settings.dicom_tls.port), self.tls.get
            self._servers.append(start_tls_server(self._entity, address, secure, lambda: self._counts.add("associations", "tls"), **common))

    def describe(self) -> dict[str, Any]:
        """Tell how it is: where it listens, the associations that are open, and why it takes no more, if so."""
        self._reap()
        with self._lock:
            opened = len(self._lines)
        where = {"address": self._settings.dicom_host, "port": self.port, "tls_port": self.tls_port}
        return where | {"associations": opened, "refuses": self._room.why_not()}

    def stop(self, limit_s: float = STOP_LIMIT_S) -> None:
        """Take no new association, let those that are sending finish within the limit, then abort what is left."""
        if self._stopping:
            return
        self._stopping = True
        for server in self._servers:
            server.shutdown()
        deadline = time.monotonic() + limit_s
        while (busy := self._busy()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for association in self._entity.active_associations:
            association.abort()
        if busy:
            LOG.warning("associations were aborted at the stop", extra={"instances": len(busy)})
        self._entity.shutdown()

    def _busy(self) -> list[_Line]:
        """Associations with a message in our hands or on its way; one that only stays open has nothing to lose."""
        quiet_since = time.monotonic() - _IDLE_S
        with self._lock:
            return [line for line in self._lines.values() if line.working or line.heard_at > quiet_since]

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ACCEPTED, lambda _event: self._counts.add("associations", "accepted")),
            (evt.EVT_REJECTED, lambda _event: self._counts.add("associations", "too_many")),
            (evt.EVT_SOP_COMMON, self._on_services),
            (evt.EVT_DATA_RECV, self._on_data),
            (evt.EVT_C_ECHO, lambda _event: 0x0000),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
            (evt.EVT_ACSE_RECV, self._on_control),
            (evt.EVT_ABORTED, lambda event: self._close(event.assoc, clean=False)),
            (evt.EVT_CONN_CLOSE, self._on_gone),
        ]

    def _on_open(self, event: Any) -> None:
        """No answer may wait for a full segment (Nagle), and a peer that stops or drips in the middle of a PDU may not hold a thread."""
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        PatientReader(event.assoc, ACSE_TIMEOUT_S, NETWORK_TIMEOUT_S)

    def _on_requested(self, event: Any) -> None:
        """Refuse even by a defect: pynetdicom ignores what is raised here, and would then accept nothing but Verification."""
        try:
            refusal = self._admit(event.assoc)
        except Exception:
            LOG.exception("an association request failed")
            refusal = REJECT_BUSY
        if refusal is not None:
            event.assoc.acse.send_reject(*refusal)
            event.assoc.kill()

    def _admit(self, association: Any) -> tuple[int, int, int] | None:
        title = str(association.requestor.primitive.calling_ae_title).strip()
        address = str(association.requestor.address_info.address)
        caller = Caller(title, address, fingerprint_of(association.dul.socket.socket))
        rule = find_rule(self._settings.calling_ae, caller)
        if isinstance(rule, str):
            self._intake.turn_away(Source("", title, address), REASONS.get(rule, rule))
            return self._refuse(caller, rule, REJECT_CALLING)
        if refusal := self._refusal():
            return self._refuse(caller, refusal, REJECT_BUSY)
        called = str(association.requestor.primitive.called_ae_title).strip()
        if called != self._settings.ae_title:
            LOG.info("called by a title that is not ours", extra={"calling_ae": title, "called_ae": called, "peer": address})
        proposed = association.requestor.primitive.presentation_context_definition_list
        association.acceptor.supported_contexts = supported_contexts(
            proposed,
            unwanted=rule.unwanted == "discard",
            reports=self._reports is not None and self._reports.awaited_from(title),
            corrections=title in self._settings.corrections.calling_ae,
        )
        self._reap()
        line = _Line(Source(f"{self._run}-{next(self._numbers)}", title, address))
        with self._lock:
            if len(self._lines) < self._settings.maximum_associations:
                self._lines[association] = line
                return None
        self._counts.add("associations", "too_many")
        return REJECT_FULL

    def _refuse(self, caller: Caller, why: str, answer: tuple[int, int, int]) -> tuple[int, int, int]:
        """Write down who is not let in, and why."""
        fields = {"calling_ae": caller.title, "peer": caller.address, "certificate_sha256": caller.certificate}
        LOG.warning("association refused: %s", REASONS.get(why, why), extra=fields)
        self._counts.add("associations", why)
        return answer

    def _refusal(self) -> str:
        """Say why nobody is let in now, or nothing. C-ECHO neither when the disk is full: it would promise what C-STORE breaks."""
        if self._stopping:
            return "stopping"
        return "disk_full" if self._room.why_not() else ""

    def _on_data(self, event: Any) -> None:
        line = self._lines.get(event.assoc)
        if line is None:
            return
        line.heard_at = time.monotonic()
        line.incoming_bytes += len(event.data)
        acknowledge_at_once(event.assoc)
        if line.incoming_bytes > self._settings.maximum_series_bytes + HEADER_BYTES:
            LOG.warning("an instance is too large; the association is aborted", extra={"association": line.sender.association})
            event.assoc.abort(block=False)

    def _on_services(self, event: Any) -> dict[str, Any]:
        return dict(private_as_storage(event.assoc.requestor.primitive.presentation_context_definition_list))

    def _on_store(self, event: Any) -> int | Dataset:
        line = self._lines.get(event.assoc)
        if line is None:
            return 0xC211
        line.incoming_bytes, line.working = 0, True
        answer = Answer()
        try:
            with answering(answer, line.sender):
                request = event.request
                uids = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), str(event.context.transfer_syntax)
                announced = Announced(*uids, self._asked(request))
                request.DataSet.seek(0)
                self._intake.receive(request.DataSet, line.sender, announced)
        finally:
            line.working, line.heard_at = False, time.monotonic()
        self._counts.add("c_store_responses", f"0x{answer.code:04X}")
        return answer.status()

    def _on_report(self, event: Any) -> tuple[int, None]:
        line = self._lines.get(event.assoc)
        if line is None or self._reports is None:
            return 0x0110, None
        line.incoming_bytes = 0
        return self._reports.take(event, line.sender.calling_ae), None

    def _asked(self, request: Any) -> Asked | None:
        """What it answers, where it comes of a C-MOVE of ours (PS3.7 9.1.1.1: the originator's title and Message ID)."""
        asked = self._intake.moves.get(request.MoveOriginatorMessageID)
        originator = str(request.MoveOriginatorApplicationEntityTitle or "").strip()
        return asked if asked is not None and originator in asked.originators else None

    def _on_control(self, event: Any) -> None:
        """The series are judged on the request to release, before it is answered: the connection may be gone right after the answer."""
        if isinstance(event.primitive, A_RELEASE) and event.primitive.result is None:
            self._close(event.assoc, clean=True)

    def _reap(self) -> None:
        """Close what ended without a word: pynetdicom's threads may die of a peer that breaks the protocol."""
        with self._lock:
            dead = [association for association in self._lines if not association.is_alive()]
        for association in dead:
            self._close(association, clean=False)

    def _on_gone(self, event: Any) -> None:
        """A connection that ends before it asked for anything (a port probe) would hold its place until the ACSE time-out."""
        if event.assoc.requestor.primitive is None:
            event.assoc.dul.to_user_queue.put(None)
        self._close(event.assoc, clean=False)

    def _close(self, association: Any, *, clean: bool) -> None:
        with self._lock:
            line = self._lines.pop(association, None)
        if line is not None:
            self._intake.close_source(line.sender.association, clean)


def start_listener(settings: Settings, intake: Intake, counts: Counts | None = None, reports: Reports | None = None) -> Listener:
    """Begin to listen. Raises OSError where the port is taken."""
    return Listener(settings, intake, counts, reports)

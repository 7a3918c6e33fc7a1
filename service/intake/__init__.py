"""Takes instances in: durable first, indexed next, then judged when their sender is done.

Shared by the listener and the API. What must survive is in the store and the case book; what is kept in memory here (who is
still sending, how long it has been quiet) is made anew after a restart, when every series in receiving waits for the quiet time.
Another process that takes in slices of the same series is not seen sending, only its slices are: should the start come too early for
them, they make a revision.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from service import queue
from service.admission.refusals import MR_IMAGE_CLASSES
from service.comparisons import Comparisons
from service.corrections import Corrections
from service.errors import Unavailable
from service.headers import Header, read_file, read_header
from service.intake.commit import GroupCommit
from service.intake.handover import Announced, Asked, Receipt, Source, demand_announced
from service.intake.judge import SHORTEST_GAP_WAIT_S, Judge
from service.intake.own_results import comes_back
from service.intake.transfers import Transfers
from service.intake.watches import Watches
from service.presence import Counts
from service.records import AuditEvent, Book, Case, InstanceRow, Noted, Outcome, State, utc_now
from service.rejecting import KEY_OBJECTS, Rejection, read_rejection
from service.settings import Settings
from service.store import Store, StoredInstance, encode_file_meta

LOG = logging.getLogger(__name__)

SWEEP: Final = "sweep"
SWEEPS_TO_A_TURN: Final = 3
_CASES_TOLD: Final = 5


class Intake:
    """The one way in. Any number of threads may call it.

    Parameters
    ----------
    name : who takes the turn of the sweep; a process that replaces another takes its name too, and need not wait for its turn to end
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        book: Book,
        app: Any,
        *,
        name: str | None = None,
        submit: Callable[[Any, str], Any] = queue.submit,
        submit_comparison: Callable[[Any, str], Any] = queue.submit_comparison,
        submit_correction: Callable[[Any, str], Any] = queue.submit_correction,
        count_messages: Callable[[Any], int] = queue.count_messages,
        clock: Callable[[], float] = time.monotonic,
        counts: Counts | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._book = book
        self._app = app
        self._submit_to = submit
        self._count_messages = count_messages
        self._clock = clock
        self._counts = counts if counts is not None else Counts()
        self._commit: GroupCommit[InstanceRow, Noted] = GroupCommit(book.note_instances)
        self._watches = Watches(settings.quiet_time_s, clock)
        self._judge = Judge(settings, book, self._watches, self._submit)
        self._transfers = Transfers(book)
        self._comparisons = Comparisons(lambda case_id: submit_comparison(app, case_id), clock)
        self.corrections = Corrections(settings, store, book, lambda case_id: submit_correction(app, case_id))
        self._swept_at = float("-inf")
        self.moves: dict[int, Asked] = {}  # by the Message ID of our C-MOVE, while it lasts
        self._name = name or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def receive(self, source: BinaryIO | bytes | Path, sender: Source, announced: Announced | None = None) -> Receipt:
        """
        Take one instance; when this returns, it is durable and indexed.

        Parameters
        ----------
        source : with `announced`, the encoded data set as it came; without, a Part-10 file

        Raises
        ------
        Unreadable, Mismatch
            Not an instance, cut short, or not the one announced. Nothing was kept.
        Unavailable
            Out of space or database away. The sender may repeat; nothing was indexed.
        """
        if isinstance(source, Path):
            with source.open("rb") as stream:
                return self._take(stream, sender, announced)
        return self._take(BytesIO(source) if isinstance(source, bytes) else source, sender, announced)

    def _take(self, stream: BinaryIO, sender: Source, announced: Announced | None) -> Receipt:
        start = stream.tell()
        if announced is None:
            header, start = read_file(stream)
        else:
            header = read_header(stream, announced.transfer_syntax_uid)
            demand_announced(header, announced)
        stream.seek(start)
        whole = stream.getvalue() if isinstance(stream, BytesIO) and start == 0 else stream.read()
        rejection = read_rejection(BytesIO(whole), header.transfer_syntax_uid) if header.sop_class_uid == KEY_OBJECTS else None
        correction = self.corrections.take_object(header, whole, partial(_as_file, header, whole), sender.calling_ae)
        if correction.case_id is not None:
            self._counts.add("received_instances", "rest" if announced is None else "dicom", "correction")
            self._note_transfer(sender, header.study_uid, correction.case_id)
            self._audit_correction(sender, correction.case_id, correction.revision)
            return _receipt(header, correction.case_id, "correction", State.DONE)
        header = replace(header, why_unwanted=correction.why_not)
        # a note is kept where it has something to reject: a case book made anew from the files must know it
        named = self._book.named_instances(rejection.instances) if rejection is not None else {}
        if not named and comes_back(header, self._book):
            self._count("rest" if announced is None else "dicom", "discarded", whole)
            self._note_transfer(sender, header.study_uid, None)
            return _receipt(header, None, "discarded", State.REJECTED)
        watch = self._watches.open(header.study_uid, header.series_uid, sender.association)
        wanted = bool(named) or (header.sop_class_uid in MR_IMAGE_CLASSES and not header.made_here)
        kept = self._keep(header, whole) if wanted else StoredInstance("", hashlib.sha256(whole).hexdigest(), 0)
        if rejection is not None and named:
            self._withdraw(rejection, sender)  # before there is a case that says so
            header = replace(header, withdrew=_counted(named))
        noted = self._commit.put(_row(header, kept, sender))
        if wanted and not self._store.has_file(kept.path):  # the retention was faster: see its third rule
            self._keep(header, whole)
        self._watches.note(watch, sender.association, noted.case_id, new=noted.outcome == "new", receiving=noted.state is State.RECEIVING)
        self._note_transfer(sender, header.study_uid, noted.case_id)
        outcome = noted.outcome if wanted else "discarded"
        if outcome == "conflict":
            self._comparisons.note(sender.association, noted.case_id)
        self._count("rest" if announced is None else "dicom", outcome, whole)
        return _receipt(header, noted.case_id, outcome, noted.state)

    def _count(self, door: str, outcome: str, whole: bytes) -> None:
        self._counts.add("received_instances", door, outcome)
        self._counts.add("received_bytes", door, by=len(whole))

    def _note_transfer(self, sender: Source, study_uid: str, case_id: str | None) -> None:
        self._transfers.note(sender.association, sender.actor, study_uid, case_id)
        if self._watches.is_closed(sender.association):
            self._transfers.close(sender.association)

    def _audit_correction(self, sender: Source, case_id: str, revision: int | None) -> None:
        """Without the reader's name: over DICOM it is a value of the header."""
        what = "verdict: correction refused" if revision is None else f"verdict on revision {revision}: correct"
        outcome = Outcome.FAILURE if revision is None else Outcome.SUCCESS
        self._book.audit(AuditEvent.PROCEDURE_RECORD, what, sender.actor, case_id=case_id, outcome=outcome)

    def _withdraw(self, rejection: Rejection, sender: Source) -> None:
        """Carry a rejection note out. Raises Unavailable; the sender repeats, and nothing is done twice."""
        for one in self._book.reject_instances(rejection.note_uid, rejection.code, rejection.title, rejection.instances):
            what = f"withdrawn by rejection note {rejection.note_uid}: {rejection.title}"
            event, actor = AuditEvent.PROCEDURE_RECORD, sender.actor
            self._book.audit(event, what, actor, case_id=one.case_id, study_uid=one.study_uid, count=one.taken)
            LOG.info("instances withdrawn by a rejection note", extra={"case_id": one.case_id, "instances": one.taken})
            if one.left:
                self._watches.adopt(one.study_uid, one.series_uid, one.case_id, one.left)

    def _keep(self, header: Header, whole: bytes) -> StoredInstance:
        return self._store.put_instance(
            whole,
            series_uid=header.series_uid,
            sop_class_uid=header.sop_class_uid,
            sop_instance_uid=header.sop_instance_uid,
            transfer_syntax_uid=header.transfer_syntax_uid,
        )

    def turn_away(self, sender: Source, why: str) -> None:
        """Enter into the audit trail that somebody who may not send tried to (PS3.15 A.5.3.11, Node Authentication)."""
        self._book.audit(AuditEvent.SECURITY_ALERT, f"node authentication: {why}", sender.actor, outcome=Outcome.FAILURE)

    def check_space(self) -> None:
        """Raise Unavailable when the disk has no room for more instances."""
        self._store.check_space()

    def close_source(self, association: str, clean: bool = True) -> None:
        """
        Nothing more comes from this association: judge the series it sent to.

        A series that is whole runs at once, unless another association is still sending to it, or this or an earlier one was lost:
        those wait for the quiet time. Where associations bring few instances each, it first waits a few times the usual gap.
        Never raises for a database that is away: the next tick tries again.
        """
        self._transfers.close(association)
        self._comparisons.close(association)
        for watch, brought in self._watches.close(association, clean=clean):
            try:
                self._judge.judge(watch, final=False, brought=brought)
            except Unavailable:
                LOG.warning("a finished series could not be judged yet", extra={"case_id": watch.case_id, "association": association})
                self._watches.look_again(watch, SHORTEST_GAP_WAIT_S)

    def tick(self, now: datetime | None = None) -> None:
        """Let time pass: end quiet times, and every `sweep_s` submit again what is due. Raises Unavailable; then call again."""
        moment = self._clock()
        if moment - self._swept_at >= self._settings.sweep_s:
            self._sweep(now or utc_now())
            self._swept_at = moment
        self._comparisons.ask_due()
        for watch, final in self._watches.due(moment):
            self._judge.judge(watch, final=final)

    def retry(self, case_id: str) -> State:
        """
        Run a failed case again; look at a held one again, or have it fetched again.

        Raises UnknownCase, InvalidTransition, Unavailable.
        """
        state = self._book.retry(case_id)
        if state is State.QUEUED:
            self._submit(case_id)
        elif not self._book.repeat_fetch(case_id) and (case := self._book.case(case_id)) is not None:
            watch = self._watches.adopt(case.study_uid, case.series_uid, case_id, case.instances)
            self._judge.judge(watch, final=True)
        return state

    def judge_now(self, case: Case) -> None:
        """Judge a series of which everything came, as far as its sender knows. Raises Unavailable; the sweep looks again."""
        self._judge.judge(self._watches.adopt(case.study_uid, case.series_uid, case.id, case.instances), final=False)

    def _sweep(self, now: datetime) -> None:
        """Whichever of the installation's processes has the turn looks after what nobody else does."""
        if not self._book.take_turn(SWEEP, self._name, SWEEPS_TO_A_TURN * self._settings.sweep_s):
            return
        for case_id in self._due(now):
            if not self._submit(case_id):
                break  # each further try would wait for the same broker, and the quiet times with it
        for case_id in self._book.due_corrections(now):
            if not self.corrections.ask(case_id):
                break
        self._comparisons.ask_again(self._book.cases_to_compare(self._settings.quiet_time_s))
        for waiting in self._book.receiving():
            self._watches.adopt(waiting.study_uid, waiting.series_uid, waiting.case_id, waiting.instances)

    def _due(self, now: datetime) -> list[str]:
        if not self._book.due(now):
            return []
        try:
            return self._book.due(now, messages=self._count_messages(self._app))
        except Unavailable:
            LOG.warning("the broker is away; what is due waits for the next sweep")
            return []

    def _submit(self, case_id: str) -> bool:
        """The case book knows that the case is queued: where the broker is away, the sweep submits it later."""
        try:
            self._submit_to(self._app, case_id)
            self._book.submitted(case_id)
        except Unavailable:
            LOG.warning("the broker is away; the sweep will submit the case", extra={"case_id": case_id})
            return False
        return True


def _receipt(header: Header, case_id: str | None, outcome: str, state: State) -> Receipt:
    uids = header.study_uid, header.series_uid, header.sop_class_uid, header.sop_instance_uid
    return Receipt(case_id, *uids, outcome, state)


def _as_file(header: Header, dataset: bytes) -> bytes:
    return encode_file_meta(header.sop_class_uid, header.sop_instance_uid, header.transfer_syntax_uid) + dataset


def _counted(named: Mapping[str, int]) -> str:
    told = [f"{count} instances of case {case_id}" for case_id, count in sorted(named.items())]
    return ", ".join(told[:_CASES_TOLD]) + (f" and of {len(told) - _CASES_TOLD} more" if len(told) > _CASES_TOLD else "")


def _row(header: Header, kept: StoredInstance, sender: Source) -> InstanceRow:
    return InstanceRow.of(
        header,
        digest=kept.digest,
        path=kept.path,
        size=kept.size,
        source=sender.calling_ae,
        association=sender.association,
        received_at=utc_now(),
    )

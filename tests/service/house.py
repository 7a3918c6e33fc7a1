"""The intake with a real store and a real case book in a temporary folder, a clock that can be moved, and a queue that is a list."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from service import records
from service.intake import Intake
from service.intake.handover import Receipt, Source
from service.listener import Listener, start_listener
from service.records import Case
from service.settings import Settings
from service.store import INSTANCES, Store, series_key
from tests.service.series import part10

QUIET_S = 30.0
MR = (MRImageStorage, ExplicitVRLittleEndian)
VERIFICATION = ("1.2.840.10008.1.1", ImplicitVRLittleEndian)


class House:
    """All parts that take series in."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(data_dir=folder, dicom_port=0, quiet_time_s=settings.pop("quiet_time_s", QUIET_S), **settings)
        records.upgrade(self.settings.database)
        self.book = records.open_book(self.settings)
        self.store = Store(folder)
        self.submitted: list[str] = []
        self.compared: list[str] = []
        self.corrected: list[str] = []
        self.now = 1000.0
        self.intake = self.new_intake()

    def new_intake(self) -> Intake:
        """As after a restart."""
        return Intake(
            self.settings,
            self.store,
            self.book,
            None,
            name="house",
            submit=lambda _, case_id: self.submitted.append(case_id),
            submit_comparison=lambda _, case_id: self.compared.append(case_id),
            submit_correction=lambda _, case_id: self.corrected.append(case_id),
            count_messages=lambda _: 0,
            clock=lambda: self.now,
        )

    def send(self, datasets: Iterable[Dataset], association: str = "a1", *, close: bool | None = True) -> list[Receipt]:
        """Bring instances over one association, and end it (False: lost; None: left open)."""
        receipts = [self.intake.receive(part10(dataset), Source(association, "SCANNER")) for dataset in datasets]
        if close is not None:
            self.intake.close_source(association, clean=close)
        return receipts

    def wait(self, seconds: float) -> None:
        """Let time pass, a tick every half second."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.5)
            self.intake.tick()

    @property
    def case(self) -> Case:
        """The only case there is, with its history."""
        (found,) = self.cases
        case = self.book.case(found.id)
        assert case is not None
        return case

    @property
    def cases(self) -> list[Case]:
        """All cases, newest first."""
        return list(self.book.find_cases(limit=500).items)


@contextmanager
def listening(house: House) -> Iterator[Listener]:
    """A listener on a free port."""
    listener = start_listener(house.settings, house.intake)
    try:
        yield listener
    finally:
        listener.stop(2.0)
        join_network_threads()


def files_of(store: Store, series_uid: str) -> list[Path]:
    """Every stored instance of a series, the set-aside ones too, by name."""
    return sorted((store.root / INSTANCES / series_key(series_uid)).glob("*.dcm"))


def join_network_threads() -> None:
    """Wait until pynetdicom's threads are gone."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        busy = [thread for thread in threading.enumerate() if type(thread).__module__.startswith("pynetdicom")]
        if not busy:
            return
        busy[0].join(0.05)


def associate(
    listener: Listener, *classes: tuple[str, str], calling: str = "SCANNER", host: str = "127.0.0.1", steady: bool = True
) -> Association:
    """Ask for an association; each class with one transfer syntax."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    for sop_class_uid, transfer_syntax_uid in classes:
        entity.add_requested_context(sop_class_uid, transfer_syntax_uid)
    association = entity.associate(host, listener.port, ae_title="LEUKOSCOPE")
    if steady and association.is_established:
        _still_reactor(association)
    return association


def _still_reactor(association: Association) -> None:
    """Under load pynetdicom's reactor thread now and then takes the answer the sender waits for: keep it asleep until the end."""
    checkpoint = association._reactor_checkpoint
    wake = checkpoint.set
    checkpoint.clear()
    while not association._is_paused:
        time.sleep(0.001)
    time.sleep(0.02)
    checkpoint.set = lambda: None if association.is_established and not association._sent_abort else wake()


def eventually(check: Callable[[], bool], limit_s: float = 5.0) -> bool:
    """Wait until it holds."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.01)
    return check()


def store_bytes(association: Association, encoded: bytes, sop_class_uid: str, sop_instance_uid: str) -> int:
    """C-STORE any bytes as a data set, and give the status."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class_uid, sop_instance_uid
    request.DataSet = BytesIO(encoded)
    (context,) = [one for one in association.accepted_contexts if one.abstract_syntax == sop_class_uid]
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    assert answer is not None
    return int(answer.Status)

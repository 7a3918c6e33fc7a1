"""The delivery worker dies at every step of a sending: the destination gets each result, and the book knows it."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest

from service.sections import Recipient
from service.store import Store
from tests.faults.books import book_of, wait_for_all
from tests.faults.modality import Modality
from tests.faults.plan import Fault, Plan
from tests.faults.sets import on
from tests.provider import CLASSES, MR, provider
from worker.parcels import pack

PACS = Recipient(name="pacs")
ROLE = "worker --queue delivery"
SENDING = [
    Fault("service.records.outbox:Outbox.claim_delivery", "kill", "after", role=ROLE),  # the lease is taken, nothing is sent
    Fault("worker.deliver:send", "kill", "after", role=ROLE),  # the destination has it, the book does not know
    Fault("service.records.outbox:Outbox.delivered", "kill", "after", role=ROLE),  # all is known, the message is not acknowledged
]


@pytest.mark.timeout(400)
@on("embedded", soak="full")
def test_the_delivery_worker_dies_at_every_step_of_a_sending(make_fragile, write_small, tmp_path):
    with provider(classes=[MR, *CLASSES.values()]) as pacs:
        destinations = [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "outputs": list(CLASSES)}]
        plan = Plan(tmp_path / "flags", SENDING)
        service = make_fragile(destinations=json.dumps(destinations))
        service.extra = plan.environ
        service.start()
        series = write_small(len(SENDING))
        modality = Modality(service)
        for number, files in enumerate(series):
            plan.arm(number)
            modality.push(files)
            plan.wait(number)
        cases = wait_for_all(service, series)
        deadline = time.monotonic() + 120
        with closing(book_of(service)) as book:
            while True:
                sent = [one for case in cases.values() for one in book.deliveries(case.id)]
                if {one.state.value for one in sent} == {"sent"}:
                    break
                assert time.monotonic() < deadline, (sent, service.last_words())
                time.sleep(0.1)
    assert len(sent) == (len(CLASSES) + 1) * len(series), "one delivery for each result, one for the series of the contours"
    uids = [str(file.sop_instance_uid) for one in sent for file in pack(one, PACS, Store(service.data)).files]
    assert set(uids) == set(pacs.got), "each got there, and nothing else"
    of_a_case = len(uids) // len(series)
    assert len(pacs.got) < len(uids) + 2 * of_a_case, "only what was sent and not noted is sent again, as the same instance"

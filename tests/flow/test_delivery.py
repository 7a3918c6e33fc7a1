"""The outbox's sender against real providers that accept, refuse, warn, hang and are not there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from datetime import timedelta

import pytest
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE

from service.errors import Unavailable
from service.records import DeliveryState, open_book, outbox, upgrade
from service.sections import Destination
from service.settings import Settings
from service.store import Store
from tests.provider import CLASSES, SEGMENTATION, Provider, provider
from tests.sending import done_case, part10
from worker.deliver import LONGEST_PAUSE_S, Sender, pause_after
from worker.send import Broken, Peer, read_outgoing, send


@pytest.fixture
def house(tmp_path):
    """Opens a book whose done cases go to the given ports."""
    books = []

    def build(**ports):
        common = {"ae_title": "PACS", "host": "127.0.0.1", "outputs": tuple(CLASSES)}
        destinations = tuple(Destination(name=name, port=port, **common) for name, port in ports.items())
        settings = Settings(data_dir=tmp_path, destinations=destinations)
        upgrade(settings.database)
        book = open_book(settings)
        books.append(book)
        return book, Sender(settings, book, Store(tmp_path), "test:1:")

    yield build
    for book in books:
        book.close()


def only(book, case_id):
    (delivery,) = book.deliveries(case_id)
    return delivery


def test_success_is_sent(house, tmp_path):
    with provider() as pacs:
        book, sender = house(pacs=pacs.port)
        case_id = done_case(book, tmp_path)
        sender.deliver(case_id)
        sender.deliver(case_id)
    assert pacs.got == ["2.25.1"]
    assert (only(book, case_id).state, only(book, case_id).last_error) == (DeliveryState.SENT, None)


def test_another_transfer_syntax_is_encoded_for(house, tmp_path):
    with provider(syntaxes=(ImplicitVRLittleEndian,)) as pacs:
        book, sender = house(pacs=pacs.port)
        case_id = done_case(book, tmp_path)
        sender.deliver(case_id)
    assert only(book, case_id).state is DeliveryState.SENT


def test_a_warning_is_sent_and_recorded(house, tmp_path):
    with provider(status=0xB000) as pacs:
        book, sender = house(pacs=pacs.port)
        case_id = done_case(book, tmp_path)
        sender.deliver(case_id)
    delivery = only(book, case_id)
    assert delivery.state is DeliveryState.SENT
    assert "0xB000" in delivery.last_error


@pytest.mark.parametrize("status", [0xA700, 0xC000, 0x0122])
def test_a_failure_status_is_a_failure_and_is_tried_again(house, tmp_path, status):
    with provider(status=status) as pacs:
        book, sender = house(pacs=pacs.port)
        case_id = done_case(book, tmp_path)
        sender.deliver(case_id)
    delivery = only(book, case_id)
    assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, 1)
    assert f"0x{status:04X}" in delivery.last_error
    assert delivery.next_attempt_at > delivery.created_at


def test_a_class_that_is_refused_says_so(house, tmp_path):
    entity = AE(ae_title="PACS")
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        book, sender = house(pacs=server.socket.getsockname()[1])
        case_id = done_case(book, tmp_path)
        sender.deliver(case_id)
    finally:
        server.shutdown()
    assert only(book, case_id).state is DeliveryState.PENDING
    assert only(book, case_id).last_error.endswith("not accepted there: Segmentation Storage")


def states(book, case_id):
    return {delivery.output: delivery.state.value for delivery in book.deliveries(case_id)}


def test_what_a_case_gives_goes_over_one_association(house, tmp_path):
    with provider() as pacs:
        book, sender = house(pacs=pacs.port)
        cases = [done_case(book, tmp_path, number, tuple(CLASSES)[::-1]) for number in (1, 2)]
        sender._send_all(book.due_deliveries())
    assert pacs.associations == [set(CLASSES.values())] * 2
    assert pacs.got == [f"2.25.{number}{place or ''}" for number in (1, 2) for place in (4, 3, 2, 1, 0)]
    assert {state for case_id in cases for state in states(book, case_id).values()} == {"sent"}


def test_a_pacs_that_takes_no_segmentation_gets_the_others_and_the_case_says_so(house, tmp_path):
    with provider(classes=[uid for uid in CLASSES.values() if uid != SEGMENTATION]) as pacs:
        book, sender = house(pacs=pacs.port)
        case_id = done_case(book, tmp_path, kinds=tuple(CLASSES))
        sender.deliver(case_id)
    assert states(book, case_id) == dict.fromkeys(CLASSES, "sent") | {"segmentation": "pending"}
    assert len(pacs.associations) == 1
    refused = book.deliveries(case_id)[0]
    assert "Segmentation Storage" in refused.last_error
    assert "not accepted there" in refused.last_error


def test_a_pacs_that_hangs_up_at_the_segmentation_gets_the_others(house, tmp_path):
    with provider(hang_up_at=SEGMENTATION) as pacs:
        book, sender = house(pacs=pacs.port)
        case_id = done_case(book, tmp_path, kinds=tuple(CLASSES))
        sender.deliver(case_id)
    assert states(book, case_id) == dict.fromkeys(CLASSES, "sent") | {"segmentation": "pending"}
    assert len(pacs.associations) == 2
    assert [delivery.attempts for delivery in book.deliveries(case_id)] == [1] * len(CLASSES)


def test_a_pacs_that_is_away_is_called_once_for_a_case_and_again_for_all_of_it(house, tmp_path, free_port):
    book, sender = house(pacs=free_port())
    case_id = done_case(book, tmp_path, kinds=tuple(CLASSES))
    sender.deliver(case_id)
    found = book.deliveries(case_id)
    assert {(delivery.state, delivery.attempts) for delivery in found} == {(DeliveryState.PENDING, 1)}
    moments = [delivery.next_attempt_at for delivery in found]
    assert max(moments) - min(moments) < timedelta(seconds=0.5)
    assert len(book.due_deliveries(now=max(moments))) == len(CLASSES), "a lease was left behind"


def test_a_slow_destination_holds_up_nobody(house, tmp_path):
    open_up = threading.Event()
    with provider(answer=open_up) as slow, provider() as quick:
        book, sender = house(slow=slow.port, quick=quick.port)
        cases = [done_case(book, tmp_path, number) for number in (1, 2, 3)]
        threads = [threading.Thread(target=sender.deliver, args=(case_id,)) for case_id in cases]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 15
        while len(quick.got) < 3:
            assert time.monotonic() < deadline, "the slow destination blocked the quick one"
            time.sleep(0.02)
        assert slow.got == []
        open_up.set()
        for thread in threads:
            thread.join()
    assert sorted(slow.got) == sorted(quick.got) == ["2.25.1", "2.25.2", "2.25.3"]
    assert {delivery.state for case_id in cases for delivery in book.deliveries(case_id)} == {DeliveryState.SENT}


def test_a_slow_answer_is_waited_for_by_one_sender_only(house, tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "DELIVERY_LEASE", timedelta(seconds=1.5))
    open_up = threading.Event()
    with provider(answer=open_up) as slow:
        book, first = house(pacs=slow.port)
        _, second = house(pacs=slow.port)
        case_id = done_case(book, tmp_path)
        sending = threading.Thread(target=first.deliver, args=(case_id,))
        sending.start()
        asked = []
        until = time.monotonic() + 4  # more than two leases
        while time.monotonic() < until:
            asked.append(threading.Thread(target=second.deliver, args=(case_id,)))
            asked[-1].start()
            time.sleep(0.2)
        open_up.set()
        for thread in (sending, *asked):
            thread.join()
    assert slow.got == ["2.25.1"]
    assert (only(book, case_id).state, only(book, case_id).attempts) == (DeliveryState.SENT, 1)


def test_a_result_that_is_not_there_is_tried_again_and_holds_up_no_other(house, tmp_path):
    with provider() as pacs:
        book, sender = house(pacs=pacs.port)
        gone, there = done_case(book, tmp_path, 1), done_case(book, tmp_path, 2)
        Store(tmp_path).path_of(only(book, gone).path).unlink()
        sender._send_all(book.due_deliveries())
    assert (only(book, gone).state, only(book, gone).attempts) == (DeliveryState.PENDING, 1)
    assert "cannot be read" in only(book, gone).last_error
    assert only(book, there).state is DeliveryState.SENT


DEFECTIVE = """
    import os, sys
    from pathlib import Path
    from service.settings import Settings
    from worker.tasks import delivery

    def defect(*_):
        raise ZeroDivisionError

    delivery.Sender.deliver_due = defect
    os._exit(delivery.work_on_delivery(Settings(data_dir=Path(sys.argv[1]), sweep_s=0.2)))
"""


def test_a_worker_whose_sweep_has_a_defect_ends_with_one_line(tmp_path):
    upgrade(Settings(data_dir=tmp_path).database)
    command = [sys.executable, "-c", textwrap.dedent(DEFECTIVE), str(tmp_path)]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, said = worker.communicate(timeout=120)
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == 1
    assert said.count("a part of this process failed: outbox") == 1


def test_a_destination_that_left_the_settings_is_given_up(house, tmp_path):
    book, _ = house(gone=1)
    case_id = done_case(book, tmp_path)
    _, sender = house()
    sender.deliver(case_id)
    assert only(book, case_id).state is DeliveryState.DEAD
    assert "settings" in only(book, case_id).last_error


def test_pauses_grow_to_a_quarter_of_an_hour_with_jitter():
    assert 1.0 <= pause_after(0) <= 2.0
    assert LONGEST_PAUSE_S / 2 <= pause_after(12) <= LONGEST_PAUSE_S
    assert pause_after(10_000) <= LONGEST_PAUSE_S
    assert len({pause_after(5) for _ in range(20)}) > 1


def test_a_peer_that_dies_in_the_middle_is_noticed_at_once(tmp_path):
    with provider() as pacs:
        paths = [tmp_path / f"{number}.dcm" for number in range(1, 6)]
        for number, path in enumerate(paths, start=1):
            path.write_bytes(part10(f"2.25.{number}"))

        def hang_up(_answer):
            for association in pacs.server.active_associations:
                association.abort()

        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"of 5 were answered|after 1 of 5"):
            send(Peer("PACS", "127.0.0.1", pacs.port), read_outgoing(paths), hang_up)
        assert time.monotonic() - began < 20


class Garbling(Provider):
    """Sends what is no PDU before it answers."""

    def _store(self, event):
        event.assoc.dul.socket.socket.sendall(bytes(16))
        return super()._store(event)


def test_what_is_no_pdu_ends_the_wait_for_an_answer(tmp_path):
    with provider(Garbling) as pacs:
        (tmp_path / "1.dcm").write_bytes(part10("2.25.1"))
        began = time.monotonic()
        with pytest.raises(Broken, match="0 of 1 were answered"):
            send(Peer("PACS", "127.0.0.1", pacs.port), read_outgoing([tmp_path / "1.dcm"]))
        assert time.monotonic() - began < 20

"""Peers that are slow, silent, broken or gone at every step: what was acknowledged is true, and others are served meanwhile."""

from __future__ import annotations

import struct
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.listener import Listener
from service.records import State
from tests.service import wire
from tests.service.house import MR, House, associate, eventually
from tests.service.series import flair_series
from tests.service.wire import ABORT, RELEASE, RELEASE_RESPONSE, REQUEST, assert_not_stored, assert_stored, clean_house, connected


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time-outs that a test can wait for."""
    monkeypatch.setattr("service.listener.NETWORK_TIMEOUT_S", 0.8)
    monkeypatch.setattr("service.listener.ACSE_TIMEOUT_S", 0.8)


def assert_served(house: House, listener: Listener) -> None:
    """Somebody else brings a series, and it is queued."""
    queued = len(house.submitted)
    association = associate(listener, MR)
    assert [association.send_c_store(dataset).Status for dataset in flair_series(12)] == [0x0000] * 12
    association.release()
    assert len(house.submitted) == queued + 1


@pytest.mark.usefixtures("impatient")
def test_connections_that_ask_for_nothing_or_silently_keep_an_association_hold_up_nobody(tmp_path: Path) -> None:
    series = flair_series(20)
    with clean_house(tmp_path) as (house, listener), ExitStack() as stack:
        mute = [stack.enter_context(connected(listener, associated=False)) for _ in range(10)]
        idle, halfway = (stack.enter_context(connected(listener)) for _ in range(2))
        assert [idle.store(dataset) for dataset in series[:3]] == [0x0000] * 3
        halfway.say(*wire.store(series[3])[:-1])
        assert_served(house, listener)
        assert [one.rest() for one in mute] == [[]] * 10
        for silent in (idle, halfway):
            assert [heard.kind for heard in silent.rest()] == [wire.ABORTED]
        assert eventually(lambda: not listener._lines)
        assert_stored(house, series[:3])
        assert_not_stored(house, series[3])
        assert sorted((case.instances, case.state) for case in house.cases) == [(3, State.RECEIVING), (12, State.QUEUED)]


def test_connections_that_ask_for_nothing_take_no_place_of_an_association(tmp_path: Path) -> None:
    with clean_house(tmp_path, maximum_associations=2) as (house, listener):
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(connected(listener, associated=False))
            assert eventually(lambda: len(listener._entity.active_associations) == 5)
            assert_served(house, listener)


def test_a_sender_that_drips_is_served_like_any_other_and_holds_up_nobody(tmp_path: Path) -> None:
    series = flair_series(12)
    with clean_house(tmp_path) as (house, listener), connected(listener, associated=False) as slow:
        slow.drip(REQUEST, 4, 0.001)
        assert slow.hear().kind == wire.ACCEPTED
        first, *others = (b"".join(wire.store(dataset)) for dataset in series)
        slow.drip(first[:1000], 8, 0.001)
        assert_served(house, listener)
        slow.drip(first[1000:], 64, 0.001)
        assert slow.hear().status == 0x0000
        for other in others:
            slow.drip(other, 4000, 0.001)
            assert slow.hear().status == 0x0000
        slow.drip(RELEASE, 1, 0.001)
        assert [heard.kind for heard in slow.rest()] == [wire.RELEASED]
        assert_stored(house, series)
        assert [case.state for case in house.cases] == [State.QUEUED] * 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("associated", [False, True])
def test_a_drip_that_never_becomes_a_pdu_loses_its_place(tmp_path: Path, associated: bool) -> None:
    endless = b"".join(wire.store(flair_series(1)[0])) if associated else REQUEST
    with clean_house(tmp_path) as (house, listener), connected(listener, associated=associated) as slow:
        dripping = threading.Thread(target=slow.drip, args=(endless[:100], 1, 0.1))
        dripping.start()
        assert eventually(lambda: not listener._entity.active_associations), "as long as it drips"
        dripping.join()
        assert not house.cases


def test_a_pdu_without_end_is_not_kept_in_memory(tmp_path: Path) -> None:
    with clean_house(tmp_path) as (house, listener), connected(listener) as sender:
        sender.say(struct.pack(">BBI", wire.DATA, 0, 0xFFFFFFFF), bytes(1000))
        assert {heard.kind for heard in sender.rest()} <= {wire.ABORTED}
        assert not house.cases


GARBAGE = {
    "a PDU of no kind": wire.pdu(0x42, b"what is this"),
    "a second request": REQUEST,
    "an acceptance nobody waits for": wire.ACCEPTANCE,
    "a release response nobody waits for": RELEASE_RESPONSE,
    "a fragment longer than its PDU": wire.pdu(wire.DATA, b"\x00\x00\xff\xff\x01\x00junk"),
    "a fragment of length zero": wire.pdu(wire.DATA, bytes(4)),
    "a context that was never offered": wire.pdu(wire.DATA, b"\x00\x00\x00\x06\x63\x03junk"),
    "a command that is none": wire.data(b"junk" * 10, command=True),
    "bytes of another protocol": b"GET / HTTP/1.1\r\nHost: leukoscope\r\n\r\n",
}


# where a peer breaks the protocol, pynetdicom's thread for the connection may end by an exception: that ends the association only
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_garbage_after_an_object_ends_its_association_and_no_other(tmp_path: Path) -> None:
    series = flair_series(len(GARBAGE))
    with clean_house(tmp_path) as (house, listener), connected(listener) as other:
        for what, dataset in zip(GARBAGE, series, strict=True):
            with connected(listener) as bad:
                assert bad.store(dataset) == 0x0000
                bad.say(GARBAGE[what])
                assert {heard.kind for heard in bad.rest()} <= {wire.ABORTED}, what
        assert eventually(lambda: len(listener._entity.active_associations) == 1)
        assert_stored(house, series)
        assert house.case.state is State.RECEIVING
        assert other.store(flair_series(1)[0]) == 0x0000
        other.say(RELEASE)
        assert [heard.kind for heard in other.rest()] == [wire.RELEASED]


def test_an_abort_in_the_middle_of_an_object_leaves_nothing_of_it_and_it_can_come_again(tmp_path: Path) -> None:
    series = flair_series(14)
    with clean_house(tmp_path) as (house, listener):
        with connected(listener) as sender:
            assert [sender.store(dataset) for dataset in series[:13]] == [0x0000] * 13
        for fragments in (0, 1, -1):
            with connected(listener) as sender:
                head, *body = wire.store(series[13])
                sender.say(head, *body[:fragments], ABORT)
                assert sender.rest() == []
        assert eventually(lambda: not listener._lines)
        assert_not_stored(house, series[13])
        assert (house.case.instances, house.case.state) == (13, State.RECEIVING), "gap-free, and yet not whole"
        with connected(listener) as sender:
            assert sender.store(series[13]) == 0x0000
            sender.say(RELEASE)
            assert [heard.kind for heard in sender.rest()] == [wire.RELEASED]
        assert_stored(house, series)
        house.wait(31)
        assert (house.case.instances, house.case.state, len(house.submitted)) == (14, State.QUEUED, 1)


def test_a_release_that_collides_with_what_the_sender_says_ends_the_association_once(tmp_path: Path) -> None:
    collisions = (RELEASE, RELEASE_RESPONSE, ABORT)
    series = flair_series(12)
    with clean_house(tmp_path) as (house, listener):
        for number, more in enumerate(collisions):
            with connected(listener) as sender:
                for dataset in series[number * 4 : number * 4 + 4]:
                    assert sender.store(dataset) == 0x0000
                sender.say(RELEASE, more)
                kinds = [heard.kind for heard in sender.rest()]
                assert set(kinds) <= {wire.RELEASED, wire.ABORTED}
                assert kinds.count(wire.RELEASED) <= 1
        assert_stored(house, series)
        house.wait(31)  # what may be an abort is no end of a series
        assert (house.case.state, house.submitted) == (State.QUEUED, [house.case.id])


def test_a_release_before_the_last_answer_is_no_lie(tmp_path: Path) -> None:
    series = flair_series(12)
    with clean_house(tmp_path) as (house, listener), connected(listener) as sender:
        assert [sender.store(dataset) for dataset in series[:-1]] == [0x0000] * 11
        sender.say(*wire.store(series[-1]), RELEASE)
        heard = sender.rest()
        done = [one.status for one in heard if one.kind == wire.DATA]
        assert_stored(house, series[:-1] if done != [0x0000] else series)
        house.wait(31)
        assert (house.case.state, len(house.submitted)) == (State.QUEUED, 1)
        assert house.case.instances >= 11 + len(done)

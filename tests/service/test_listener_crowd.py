"""Many associations at once, and many patients, studies and series over few: each ends right."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from service.listener import Listener
from service.records import State
from tests.service import wire
from tests.service.series import flair_series
from tests.service.wire import RELEASE, REQUEST, Wire, assert_stored, clean_house, connected

CROWD = 50
SLICES = 3


def push(sender: Wire, series: Sequence[Dataset]) -> None:
    """Send what is left of an association that was accepted."""
    assert [sender.store(dataset) for dataset in series] == [0x0000] * len(series)
    sender.say(RELEASE)
    assert [heard.kind for heard in sender.rest()] == [wire.RELEASED]


def together(works: Sequence[Callable[[], None]]) -> None:
    """Do all at once, each in a thread; what one of them raises is raised."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


def crowd(listener: Listener, all_series: Sequence[Sequence[Dataset]]) -> list[tuple[int, int, int]]:
    """Bring each series over its own association, all asked for at the same moment; who is rejected asks again. Gives the rejections."""
    rejections: list[tuple[int, int, int]] = []
    at_once, answered = threading.Barrier(len(all_series)), threading.Barrier(len(all_series))

    def bring(series: Sequence[Dataset]) -> None:
        for attempt in range(400):
            with connected(listener, associated=False) as sender:
                if not attempt:
                    at_once.wait()
                sender.say(REQUEST)
                answer = sender.hear()
                if not attempt:
                    answered.wait()  # nobody leaves before all were answered
                if answer.kind == wire.ACCEPTED:
                    push(sender, series)
                    return
                assert answer.kind == wire.REJECTED
                rejections.append((answer.body[1], answer.body[2], answer.body[3]))
                assert sender.rest() == []
            time.sleep(0.05)
        raise AssertionError("never let in")

    together([lambda series=series: bring(series) for series in all_series])  # type: ignore[misc]
    return rejections


def test_fifty_at_once_against_a_limit_of_25_are_rejected_for_now_and_all_served_in_the_end(tmp_path: Path) -> None:
    series = [flair_series(SLICES) for _ in range(CROWD)]
    with clean_house(tmp_path, minimum_slices=SLICES) as (house, listener):
        rejections = crowd(listener, series)
        assert set(rejections) == {(2, 3, 2)}  # PS3.8 9.3.4: transient, presentation related, local limit exceeded
        assert len(rejections) >= CROWD - 25, "more were let in than the limit"
        assert_stored(house, [dataset for one in series for dataset in one])
        assert Counter(case.state for case in house.cases) == {State.QUEUED: CROWD}
        assert len(set(house.submitted)) == len(house.submitted) == CROWD


def test_fifty_at_once_under_a_limit_of_60_are_all_served(tmp_path: Path) -> None:
    series = [flair_series(SLICES) for _ in range(CROWD)]
    with clean_house(tmp_path, minimum_slices=SLICES, maximum_associations=60) as (house, listener):
        assert crowd(listener, series) == []
        assert_stored(house, [dataset for one in series for dataset in one])
        assert Counter(case.state for case in house.cases) == {State.QUEUED: CROWD}
        assert len(set(house.submitted)) == len(house.submitted) == CROWD


def test_three_patients_over_one_association_are_three_cases(tmp_path: Path) -> None:
    patients = [flair_series(13, PatientID=f"P{number}", PatientName=f"Test^{number}") for number in range(3)]
    patients[1].pop(5)
    mixed = sorted((dataset for one in patients for dataset in one), key=lambda dataset: int(dataset.InstanceNumber))
    with clean_house(tmp_path) as (house, listener):
        with connected(listener) as sender:
            push(sender, mixed)
        assert {case.patient_id: (case.instances, case.state) for case in house.cases} == {
            "P0": (13, State.QUEUED),
            "P1": (12, State.RECEIVING),
            "P2": (13, State.QUEUED),
        }
        assert len({case.patient_key for case in house.cases}) == 3
        house.wait(31)
        assert {case.patient_id: case.state for case in house.cases} == {"P0": State.QUEUED, "P1": State.HELD, "P2": State.QUEUED}
        assert_stored(house, mixed)


def test_studies_interleaved_over_associations_of_which_one_is_lost_each_end_right(tmp_path: Path) -> None:
    studies = [flair_series(1)[0].StudyInstanceUID for _ in range(3)]
    wanted = [flair_series(12, study_uid=uid, PatientID=f"P{number}") for number, uid in enumerate(studies)]
    scouts = [flair_series(3, study_uid=uid, PatientID=f"P{number}", SeriesDescription="scout") for number, uid in enumerate(studies)]
    mixed = [dataset for slices in zip(*wanted, strict=True) for dataset in slices] + [dataset for one in scouts for dataset in one]
    shares = [mixed[number::4] for number in range(4)]
    lost = shares[3][5:]
    with clean_house(tmp_path) as (house, listener):
        with connected(listener) as last:
            together(
                [
                    *(lambda share=share: bring_all(listener, share) for share in shares[:2]),  # type: ignore[misc]
                    lambda: bring_all(listener, shares[3][:5], lost[0]),
                ]
            )
            assert not house.submitted, "somebody still sends to each of them"
            push(last, shares[2] + lost)
        assert_stored(house, mixed)
        house.wait(31)
        found = {(case.study_uid, case.series_description): (case.instances, case.state) for case in house.cases}
        assert found == {
            **{(uid, "AX T2 FLAIR"): (12, State.QUEUED) for uid in studies},
            **{(uid, "scout"): (3, State.REJECTED) for uid in studies},
        }
        assert len(set(house.submitted)) == len(house.submitted) == 3


def bring_all(listener: Listener, share: Sequence[Dataset], broken: Dataset | None = None) -> None:
    """Send a share over an association of its own; with `broken` it ends in the middle of that one."""
    with connected(listener) as sender:
        if broken is None:
            push(sender, share)
            return
        assert [sender.store(dataset) for dataset in share] == [0x0000] * len(share)
        sender.say(*wire.store(broken)[:-1])

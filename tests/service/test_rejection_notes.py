"""Rejection notes that reach the intake: of some slices, of all, of nothing that is here, titles that do not reject, damage."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association

from service.headers import Unreadable, read_file
from service.records import Case, State
from service.rejecting import read_rejection
from tests.service.house import QUIET_S, House, associate, listening, store_bytes
from tests.service.key_objects import EXPIRED, OF_INTEREST, SAFETY, WORKLIST, key_objects
from tests.service.series import flair_series, part10


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data")
    yield made
    made.book.close()


def flair(house: House) -> Case:
    """The case that is no key objects'."""
    (found,) = [case for case in house.cases if case.series_description]
    return found


def test_a_note_that_is_sent_takes_slices_and_the_rest_is_judged_again(house: House) -> None:
    series = flair_series(20)
    house.send(series)
    assert flair(house).state is State.QUEUED
    (receipt,) = house.send([key_objects(series[7:9], WORKLIST)], association="a2")
    assert receipt.outcome == "new", "kept, unlike other selections"
    house.wait(QUIET_S + 1)
    held = flair(house)
    assert (held.state, held.instances, held.revision) == (State.HELD, 18, 2)
    assert held.reason is not None
    assert held.reason.startswith("gap after slice 7")
    house.send([key_objects([series[0]])], association="a3")
    house.send([key_objects(series[1:])], association="a4")
    assert flair(house).state is State.REJECTED
    assert "Rejected for Quality Reasons (113001 DCM)" in str(flair(house).reason)
    house.book.write_audit()
    said = [(entry.actor, entry.case_id, entry.count) for entry in house.book.audit_trail().items if "rejection note" in entry.what]
    assert said == [("SCANNER", held.id, count) for count in (17, 1, 2)]


def test_the_case_of_a_note_says_what_it_took(house: House) -> None:
    first, second = flair_series(20), flair_series(14)
    house.send(first)
    house.send(second, association="a2")
    ids = {case.series_uid: case.id for case in house.cases}
    both = key_objects(first[7:9])
    both.CurrentRequestedProcedureEvidenceSequence += key_objects(second).CurrentRequestedProcedureEvidenceSequence
    house.send([both], association="a3")
    taken = sorted([(ids[first[0].SeriesInstanceUID], 2), (ids[second[0].SeriesInstanceUID], 14)])
    (case,) = [case for case in house.cases if case.series_uid == both.SeriesInstanceUID]
    told = ", ".join(f"{count} instances of case {case_id}" for case_id, count in taken)
    assert (case.state, case.reason) == (State.REJECTED, f"rejection note, carried out: {told}")


def test_an_end_slice_that_is_rejected_leaves_a_series_that_runs_again(house: House) -> None:
    series = flair_series(20)
    house.send(series)
    house.send([key_objects(series[-1:])], association="a2")
    house.wait(QUIET_S + 1)
    assert (flair(house).state, flair(house).revision, flair(house).instances) == (State.QUEUED, 2, 19)


@pytest.mark.parametrize("title", [OF_INTEREST, EXPIRED, ("113001", "99LOCAL", "Rejected for Quality Reasons")])
def test_other_titles_are_recorded_and_discarded(house: House, title: tuple[str, str, str]) -> None:
    series = flair_series(20)
    house.send(series)
    (receipt,) = house.send([key_objects(series, title)], association="a2")
    assert receipt.outcome == "discarded"
    assert flair(house).state is State.QUEUED


@pytest.mark.parametrize("title", [OF_INTEREST, None])
@pytest.mark.parametrize("complete", [True, False])
def test_what_rejects_nothing_need_not_say_what(house: House, title: tuple[str, str, str] | None, complete: bool) -> None:
    series = flair_series(3)
    selection = key_objects(series, title)
    if not complete:
        with_no_uid(selection)
    (receipt,) = house.send([selection], association="a2")
    assert receipt.outcome == "discarded"


def test_a_note_about_something_else_is_recorded_and_discarded(house: House) -> None:
    house.send(flair_series(20))
    (receipt,) = house.send([key_objects(flair_series(3), SAFETY)], association="a2")
    assert receipt.outcome == "discarded"
    assert flair(house).state is State.QUEUED


def without_references(selection: Dataset) -> None:
    selection.CurrentRequestedProcedureEvidenceSequence = []


def with_no_uid(selection: Dataset) -> None:
    selection.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[
        0
    ].ReferencedSOPInstanceUID = ""


def test_a_note_arrives_by_c_store_even_where_other_classes_are_refused_and_damage_is_said(tmp_path: Path) -> None:
    house = House(tmp_path / "data", calling_ae=[{"title": "SCANNER", "unwanted": "refuse"}])
    series = flair_series(20)
    house.send(series)
    with listening(house) as listener:
        association = associate(listener, (str(key_objects(series).SOPClassUID), str(ExplicitVRLittleEndian)))
        for damage in (without_references, with_no_uid):
            note = key_objects(series)
            damage(note)
            assert send(association, note) == 0xC000
            assert flair(house).state is State.QUEUED
        note = key_objects(series)
        assert send(association, note) == 0x0000
        assert send(association, note) == 0x0000
        association.release()
    assert flair(house).state is State.REJECTED
    house.book.close()


def send(association: Association, note: Dataset) -> int:
    data = part10(note)
    _, start = read_file(BytesIO(data))
    return store_bytes(association, data[start:], str(note.SOPClassUID), str(note.SOPInstanceUID))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_note_is_read_in_every_syntax(syntax: str) -> None:
    series = flair_series(2)
    note = key_objects(series, SAFETY)
    note.file_meta.TransferSyntaxUID = syntax
    data = part10(note)
    stream = BytesIO(data)
    stream.seek(read_file(BytesIO(data))[1])
    found = read_rejection(stream, syntax)
    assert found is not None
    assert (found.note_uid, found.title) == (note.SOPInstanceUID, "Rejected for Patient Safety Reasons (113037 DCM)")
    assert [uid for *_, uid in found.instances] == [one.SOPInstanceUID for one in series]


def test_what_is_no_data_set_is_no_note() -> None:
    with pytest.raises(Unreadable):
        read_rejection(BytesIO(b"\x40\x00\x43\xa0SQ\x00\x00\xff\xff"), "1.2.840.10008.1.2.1")

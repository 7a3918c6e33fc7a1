"""Results of this product that a PACS routes back here: no case is opened for them, whatever rules an installation has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage, SegmentationStorage

from service.records import AuditEvent, OutputRow, State
from tests.service.api.conftest import hosts_in
from tests.service.house import House
from tests.service.series import flair_series, part10

TAKES_ALL = [{"name": "all", "accept": True, "modality": "MR"}]


def equipment(manufacturer: str = "Leukoscope", purpose: str = "109102") -> list[Dataset]:
    item, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = purpose, "DCM", "Equipment"
    item.Manufacturer, item.PurposeOfReferenceCodeSequence = manufacturer, [code]
    return [item]


def results(**changes: Any) -> list[Dataset]:
    return flair_series(14, ContributingEquipmentSequence=equipment(), **changes)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path, admission=TAKES_ALL)
    yield made
    made.book.close()


@pytest.mark.parametrize("sop_class_uid", [None, EncapsulatedPDFStorage, SecondaryCaptureImageStorage])
def test_what_comes_back_is_answered_and_makes_no_case(house: House, sop_class_uid: str | None) -> None:
    receipts = house.send(results(**({} if sop_class_uid is None else {"SOPClassUID": sop_class_uid})))
    assert {(receipt.outcome, receipt.case_id) for receipt in receipts} == {("discarded", None)}
    house.wait(31)
    assert house.cases == []
    assert not list(house.store.every_instance())
    house.book.write_audit(all_of_it=True)
    trail = house.book.audit_trail(event=AuditEvent.INSTANCES_TRANSFERRED).items
    assert [(entry.case_id, entry.count) for entry in trail] == [(None, 14)], "the trail has it all the same"


@pytest.mark.parametrize("other", [equipment("Another"), equipment(purpose="109101"), []])
def test_what_others_made_is_a_series_as_any_other(house: House, other: list[Dataset]) -> None:
    house.send(flair_series(14, ContributingEquipmentSequence=other))
    assert house.case.state is State.QUEUED


def test_one_that_was_asked_for_by_name_has_a_case_that_says_why_not(house: House) -> None:
    series = results()
    case_id = house.book.ask_fetch(series[0].StudyInstanceUID, series[0].SeriesInstanceUID, "pacs")
    lease = house.book.claim_fetch("w")
    assert lease is not None
    house.send(series)
    house.book.fetch_done(lease)
    house.wait(31)
    assert (house.case.id, house.case.state, house.case.rule) == (case_id, State.REJECTED, "own-result")
    assert not list(house.store.every_instance()), "and nothing of it is kept"


def test_a_segmentation_is_ours_by_its_uid_alone(house: House) -> None:
    """Whoever draws on ours leaves the Contributing Equipment as it was."""
    scan = flair_series(14)
    house.send(scan)
    lease = house.book.claim(house.case.id, "w")
    assert lease is not None
    (ours,), (drawn,) = (results(SOPClassUID=SegmentationStorage, Modality="SEG")[:1] for _ in "12")
    row = OutputRow("segmentation", "application/dicom", "p", "0" * 64, 1, lease.revision, SegmentationStorage, ours.SOPInstanceUID)
    house.book.finish(lease, outputs=[row], findings={}, quality=[], model={}, stages={})
    for one, cases in ((ours, 1), (drawn, 2)):
        house.send([one], association=str(cases))
        assert len(house.cases) == cases


def test_an_upload_of_results_says_why_they_are_not_taken(tmp_path: Path) -> None:
    files = [("files", (f"{number}.dcm", part10(one), "application/dicom")) for number, one in enumerate(results()[:2])]
    with hosts_in(tmp_path) as make:
        answer = make().client.post("/cases", files=files)
    assert answer.status_code == 422
    assert {problem["detail"] for problem in answer.json()["problems"]} == {"a result of Leukoscope: nothing is made of it"}

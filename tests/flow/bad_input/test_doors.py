"""Every row of the table through C-STORE and through REST of a real service: the answer, how the case ends, and that nothing is lost."""

from __future__ import annotations

import io
import json
import re

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

from tests.flow.bad_input.conftest import TITLE, House, assert_end, assert_nothing_lost
from tests.flow.bad_input.rows import ROWS, SUCCESS, UNKNOWN_SYNTAX, Bench, Row


@pytest.mark.parametrize("row", [row for row in ROWS if "store" in row.doors], ids=str)
def test_c_store_answers_every_instance_and_the_case_says_why(house: House, row: Row) -> None:
    brought = house.store[row.name]
    taken = [path for path, status in brought.statuses.items() if status == SUCCESS]
    refused = [status for status in brought.statuses.values() if status != SUCCESS]
    if row.name == UNKNOWN_SYNTAX:
        assert refused == [None] * len(brought.files), "its presentation context is refused"
        assert_nothing_lost(house, brought, [])
        return
    assert refused == [row.status] * row.refused
    assert len(taken) == len(brought.files) - row.refused
    if row.state is None:
        assert not house.running.cases(series_uid=brought.series_uid)
    else:
        assert_end(house, brought)
    assert_nothing_lost(house, brought, taken)


@pytest.mark.parametrize("row", [row for row in ROWS if "rest" in row.doors], ids=str)
def test_rest_answers_every_file_and_the_case_says_why(house: House, row: Row) -> None:
    brought = house.rest[row.name]
    assert brought.response is not None
    answer = brought.response.json()
    problems = answer["problems"]
    assert len(problems) == row.refused, answer
    assert all(re.search(row.detail, problem["detail"]) for problem in problems), problems
    bad = {problem["file"] for problem in problems}
    if row.state is None:
        assert brought.response.status_code == 422
        assert answer["type"] == "urn:leukoscope:problem:nothing-usable"
        assert not house.running.cases(series_uid=brought.series_uid)
    else:
        assert brought.response.status_code == 202
        assert [item["series_uid"] for item in answer["items"]] == [brought.series_uid]
        assert_end(house, brought)
    assert_nothing_lost(house, brought, [path for number, path in enumerate(brought.files, start=1) if number not in bad])


@pytest.mark.parametrize("row", [row for row in ROWS if "name" in row.also], ids=str)
def test_names_of_every_charset_reach_the_outputs(house: House, row: Row) -> None:
    for door in row.doors:
        brought = getattr(house, door)[row.name]
        case = house.wait(brought.series_uid)
        assert case["series_description"] == row.also["description"]
        segmentation = pydicom.dcmread(io.BytesIO(house.running.output(case, "segmentation")))
        assert str(segmentation.PatientName) == row.also["name"]
        assert segmentation.SpecificCharacterSet == "ISO_IR 192"


def test_what_the_source_got_wrong_is_blank_in_the_outputs_and_noted(house: House) -> None:
    case = house.wait(house.store["wrong sex and dates"].series_uid)
    segmentation = pydicom.dcmread(io.BytesIO(house.running.output(case, "segmentation")))
    for keyword in ("PatientSex", "PatientBirthDate", "StudyDate", "StudyTime"):
        assert not segmentation.get(keyword), keyword
    noted = [flag for flag in case["quality"] if flag.startswith("header-corrected")]
    assert noted
    assert all(keyword in noted[0] for keyword in ("PatientSex", "PatientBirthDate", "StudyDate", "StudyTime"))


def test_after_all_that_both_doors_still_do_a_good_series(house: House, tmp_path) -> None:
    """The last test of the file: whatever came before, nothing is left half-taken and nobody is worse off."""
    pushed, uploaded = (Bench(house.volume, tmp_path / seed, seed).write() for seed in ("good-store", "good-rest"))
    assert set(house.push(pushed).values()) == {SUCCESS}
    assert house.upload(uploaded).status_code == 202
    for files in (pushed, uploaded):
        case = house.wait(str(pydicom.dcmread(files[0], specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID))
        assert (case["state"], case["attempts"], case["instances"]) == ("done", 0, len(files))
    assert house.running.client.get("/health/ready").status_code == 200
    assert not house.half_taken()
    for line in house.running.log.read_text().splitlines():
        record = json.loads(line)
        assert record["level"] in {"info", "warning"}, line
        assert not any(f"P-{door}/" in line for door in ("store", "rest")), line


def test_a_context_that_cannot_be_decoded_is_refused_and_the_others_are_not(house: House) -> None:
    entity = AE(ae_title=TITLE)
    mr = "1.2.840.10008.5.1.4.1.1.4"
    entity.add_requested_context(mr, "1.2.840.10008.1.2.4.100")
    entity.add_requested_context(mr, "1.2.840.10008.1.2.1")
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate(house.running.node.host, house.running.node.port)
    try:
        assert [(context.transfer_syntax[0], context.result) for context in association.rejected_contexts] == [
            ("1.2.840.10008.1.2.4.100", 0x04)
        ]
        assert len(association.accepted_contexts) == 2
        assert association.send_c_echo().Status == SUCCESS
    finally:
        association.release()


@pytest.mark.parametrize("title", ["STRANGER", "scanner", "SCANNER2"])
def test_an_unknown_ae_is_rejected_by_name_and_leaves_nothing(house: House, tmp_path, title: str) -> None:
    entity = AE(ae_title=title)
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")
    before = len(house.running.cases())
    association = entity.associate(house.running.node.host, house.running.node.port)
    assert association.is_rejected
    answer: Dataset = association.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (0x01, 0x01, 0x03)
    assert len(house.running.cases()) == before

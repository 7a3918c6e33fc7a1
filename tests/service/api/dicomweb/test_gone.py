"""What was withdrawn is not found, and who asks for it by its UID is told why and what took its place."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread

from service.api.dicomweb.attributes import tag_of
from tests.service.api.conftest import Host, make_series
from tests.service.api.dicomweb.conftest import SEG, finish, part10, result
from tests.service.key_objects import key_objects

UID = "1.2.3.66"
STUDY = f"{UID}.900"
PLACE = f"/dicomweb/studies/{STUDY}"


def results_of(revision: int) -> dict[str, bytes]:
    series = f"{UID}.7{revision}"
    values = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.1", "Modality": "SEG"}
    return {"segmentation": result(SEG, revision, **values)}


def address(revision: int) -> str:
    return f"{PLACE}/series/{UID}.7{revision}/instances/{UID}.7{revision}.1"


def listed(client: DICOMwebClient) -> list[str]:
    return [one[tag_of("SeriesInstanceUID")]["Value"][0] for one in client.search_for_series(STUDY)]


def gone(host: Host, place: str) -> dict[str, Any]:
    answer: httpx.Response = host.client.get(place)
    assert (answer.status_code, answer.headers["content-type"]) == (410, "application/problem+json"), answer.text
    told: dict[str, Any] = answer.json()
    assert told["type"] == "urn:leukoscope:problem:instance-gone"
    return told


def test_only_what_stands_is_listed_and_the_withdrawn_is_told(make_client: Callable[..., tuple[Host, DICOMwebClient]]) -> None:
    host, client = make_client(minimum_slices=3)
    series = make_series(UID, 7, 16)
    case_id = host.send(series[:6])
    finish(host, case_id, results_of(1))
    assert listed(client) == [UID, f"{UID}.71"]
    assert host.client.get(address(1)).status_code == 200
    assert host.client.get(f"{PLACE}/series/{UID}/instances/{UID}.99").status_code == 404

    # a reader rejects it: as a case it stays readable, and is marked
    said = {"verdict": "reject", "reader": "A. Reader", "comment": "motion"}
    assert host.client.post(f"/cases/{case_id}/verdict", json=said).status_code == 200
    assert listed(client) == [UID]
    (study,) = client.search_for_studies(search_filters={"StudyInstanceUID": STUDY})
    assert study[tag_of("ModalitiesInStudy")]["Value"] == ["MR"]
    assert study[tag_of("NumberOfStudyRelatedInstances")]["Value"] == [6]
    assert len(client.retrieve_study(STUDY)) == 6
    for below in ("", "/metadata", "/frames/1", "/rendered"):
        told = gone(host, address(1) + below)
    assert (told["detail"], told["successor"], told["case"]) == ("A reader rejected revision 1 of the case.", None, case_id)
    assert gone(host, f"{PLACE}/series/{UID}.71")["revision"] == 1
    marked = host.client.get(f"/cases/{case_id}/segmentation")
    assert (marked.status_code, marked.headers["leukoscope-verdict"]) == (200, "reject")

    # a late slice: while the next revision is made, and when it is there
    assert host.send(series[6:]) == case_id
    assert gone(host, address(1))["detail"] == "A reader rejected revision 1 of the case."
    assert host.book.queue_case(case_id, "flair", rank=(1,))
    finish(host, case_id, results_of(2))
    assert listed(client) == [UID, f"{UID}.72"]
    told = gone(host, address(1))
    assert (told["successor"], told["revision"], told["current_revision"]) == (address(2), 1, 2)
    assert host.client.get(told["successor"]).status_code == 200
    assert host.client.get(f"{PLACE}.1").status_code == 404

    # its source is withdrawn: the note is there, and nothing else
    note = key_objects([dcmread(io.BytesIO(one)) for one in series])
    stored = host.client.post("/dicomweb/studies", content=part10(note), headers={"Content-Type": "application/dicom"})
    assert stored.status_code == 200, stored.text
    assert listed(client) == [note.SeriesInstanceUID]
    assert client.retrieve_series(STUDY, note.SeriesInstanceUID)[0].SOPInstanceUID == note.SOPInstanceUID
    for taken in (f"{PLACE}/series/{UID}", f"{PLACE}/series/{UID}/instances/{UID}.1"):
        answer = host.client.get(taken)
        assert (answer.status_code, answer.json()["detail"]) == (404, "A rejection note that came in took it out of its series.")
    told = gone(host, address(2))
    assert (told["detail"].partition(str(note.SOPInstanceUID))[0], told["successor"]) == (
        "The case was rejected after it: withdrawn by rejection note ",
        None,
    )
    assert host.client.get(f"/cases/{case_id}/segmentation").status_code == 404


def test_a_result_that_another_replaces_is_told_while_that_is_made(make_client: Callable[..., tuple[Host, DICOMwebClient]]) -> None:
    host, client = make_client(minimum_slices=3)
    series = make_series(UID, 7, 16)
    case_id = host.send(series[:6])
    finish(host, case_id, results_of(1))
    host.send(series[6:])
    assert listed(client) == [UID]
    told = gone(host, address(1))
    assert (told["detail"], told["state"]) == ("Revision 2 of the case takes its place; the case is receiving.", "receiving")
    assert host.book.queue_case(case_id, "flair", rank=(1,))
    finish(host, case_id, results_of(2))
    assert gone(host, address(1))["detail"] == "Revision 2 of the case took its place."

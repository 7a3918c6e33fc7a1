"""STOW-RS: what is stored is durable and runs, and everything else is told instance by instance with its reason."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import text

from service.api.dicomweb.attributes import tag_of
from service.api.dicomweb.store import FAILURES
from service.errors import Unavailable
from service.records import State
from tests.service.api.conftest import Host, make_series
from tests.service.api.dicomweb.conftest import open_client, part10
from tests.service.key_objects import OF_INTEREST, SAFETY, key_objects

UID = "1.2.3.8"
TYPE = 'multipart/related; type="application/dicom"; boundary=b'


def body_of(files: list[bytes]) -> bytes:
    return b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files) + b"--b--\r\n"


def post(host: Host, content: bytes, kind: str = TYPE, place: str = "/dicomweb/studies", **headers: str) -> httpx.Response:
    return host.client.post(place, content=content, headers={"Content-Type": kind, **headers})


def outcome(answer: httpx.Response) -> dict[str, list[Any]]:
    """What became of the instances: those stored, those that failed with their reasons, and the reasons of those without a name."""
    assert answer.headers["content-type"] == "application/dicom+json"
    found = Dataset.from_json(answer.text)
    return {
        "stored": sorted(item.ReferencedSOPInstanceUID for item in found.get("ReferencedSOPSequence", [])),
        "failed": sorted((item.ReferencedSOPInstanceUID, item.FailureReason) for item in found.get("FailedSOPSequence", [])),
        "nameless": [item.FailureReason for item in found.get("OtherFailuresSequence", [])],
    }


def other_class(uid: str) -> bytes:
    """A CT of the same study."""
    one = dcmread(io.BytesIO(make_series(uid, 1)[0]))
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    one.Modality = "CT"
    return part10(one)


def test_a_series_that_the_client_stores_is_queued_and_comes_back_the_same(host: Host) -> None:
    client: DICOMwebClient = open_client(host)
    files = make_series(UID, 14)
    answer = client.store_instances([dcmread(io.BytesIO(file)) for file in files])
    assert len(answer.ReferencedSOPSequence) == 14
    assert "FailedSOPSequence" not in answer
    (case,) = host.book.find_cases(series_uid=UID).items
    assert (case.state, case.instances) == (State.QUEUED, 14)
    assert len(list((host.store.root / "instances").rglob("*.dcm"))) == 14
    assert list((host.store.root / "incoming").iterdir()) == []
    back = client.retrieve_series(f"{UID}.900", UID)
    assert [dataset_digest(part10(one)) for one in back] == [dataset_digest(file) for file in files]
    assert [one["0020000E"]["Value"] for one in client.search_for_series(f"{UID}.900")] == [[UID]]
    client._session.close()


def dataset_digest(file: bytes) -> str:
    """Of a file without preamble and file meta information."""
    return hashlib.sha256(file[144 + int.from_bytes(file[140:144], "little") :]).hexdigest()


def test_a_rejection_note_is_carried_out_and_any_other_selection_is_no_image(host: Host) -> None:
    files = make_series(UID, 14)
    post(host, body_of(files))
    instances = [dcmread(io.BytesIO(file)) for file in files]
    other, note = key_objects(instances, OF_INTEREST), key_objects(instances, SAFETY)
    answer = outcome(post(host, part10(other), "application/dicom"))
    assert answer["failed"] == [(other.SOPInstanceUID, 0x0122)]
    for _ in range(2):
        told = post(host, part10(note), "application/dicom")
        assert told.status_code == 200
        assert outcome(told)["stored"] == [note.SOPInstanceUID]
    (case,) = host.book.find_cases(series_uid=UID).items
    assert (case.state, case.instances) == (State.REJECTED, 0)
    assert host.client.get(f"/dicomweb/studies/{UID}.900/series/{UID}").status_code == 404
    assert host.client.get(f"/dicomweb/studies/{UID}.900/series/{note.SeriesInstanceUID}").status_code == 200


def test_one_instance_alone_and_the_same_again(host: Host) -> None:
    (file,) = make_series(UID, 1)
    answers = [post(host, file, "application/dicom", f"/dicomweb/studies/{UID}.900") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert outcome(answers[0]) == outcome(answers[1]) == {"stored": [f"{UID}.1"], "failed": [], "nameless": []}
    stored = answers[0].json()
    assert host.client.get(stored[tag_of("RetrieveURL")]["Value"][0] + "/metadata").status_code == 200
    place = stored[tag_of("ReferencedSOPSequence")]["Value"][0][tag_of("RetrieveURL")]["Value"][0]
    back = host.client.get(place, headers={"Accept": "application/dicom"}).content
    assert dataset_digest(back) == dataset_digest(file)
    assert [case.instances for case in host.book.find_cases(series_uid=UID).items] == [1]


def test_each_instance_has_its_own_outcome(make_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.receiving.HEADER_BYTES", 0)
    host = make_host(maximum_series_bytes=20_000)
    good, cut = make_series(UID, 2)
    files = [good, cut[:-100], b"no DICOM at all", b"", other_class(f"{UID}.7"), bytes(20_001)]
    answer = post(host, body_of(files))
    assert answer.status_code == 202
    assert outcome(answer) == {
        "stored": [f"{UID}.1"],
        "failed": sorted([(f"{UID}.2", 0xC000), (f"{UID}.7.1", 0x0122)]),
        "nameless": [0xC000, 0xC000, 0xA700],
    }
    assert [case.state for case in host.book.find_cases(series_uid=f"{UID}.7").items] == [State.REJECTED]
    assert host.client.get(f"/dicomweb/studies/{UID}.7.900").status_code == 404
    assert list((host.store.root / "incoming").iterdir()) == []


def segmentation_of(uid: str, name: str) -> bytes:
    """The header of a segmentation about a series."""
    one = dcmread(io.BytesIO(make_series(uid, 1)[0]))
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = name
    one.SeriesInstanceUID, one.Modality = f"{name}.1", "SEG"
    about = Dataset()
    about.SeriesInstanceUID = uid
    one.ReferencedSeriesSequence = [about]
    one.ContentCreatorName = "Reader^Ada^^Dr"
    return part10(one)


def test_a_correction_is_stored_where_it_is_wanted_and_cannot_be_retrieved(make_host: Callable[..., Host]) -> None:
    host = make_host(corrections={"http": True})
    case_id = host.send(make_series(UID, 14))
    host.finish(case_id)
    answer = post(host, body_of([segmentation_of(UID, "1.2.3.66"), segmentation_of("1.2.3.99", "1.2.3.67")]))
    assert outcome(answer) == {"stored": ["1.2.3.66"], "failed": [("1.2.3.67", 0x0122)], "nameless": []}
    (item,) = answer.json()[tag_of("ReferencedSOPSequence")]["Value"]
    assert item[tag_of("RetrieveURL")].get("Value") is None
    assert tag_of("RetrieveURL") not in answer.json()
    (pending,) = host.book.pending_corrections(case_id)
    assert pending.reader == "Reader Ada Dr"
    assert pending.path is not None
    assert dcmread(host.store.path_of(pending.path)).SOPInstanceUID == "1.2.3.66"
    (refused,) = host.book.find_cases(series_uid="1.2.3.67.1").items
    assert refused.reason == "not an MR image: Segmentation Storage, about a series that is not here"


def test_nothing_stored_is_a_conflict_that_says_why(shared_host: Host) -> None:
    for files, nameless in (([b"no"], [0xC000]), ([other_class("1.2.3.91")], [])):
        answer = post(shared_host, body_of(files))
        assert (answer.status_code, outcome(answer)["nameless"]) == (409, nameless)
    answer = post(shared_host, make_series("1.2.3.92", 1)[0], "application/dicom", "/dicomweb/studies/1.2.3")
    assert (answer.status_code, outcome(answer)["failed"]) == (409, [("1.2.3.92.1", FAILURES["other-study"][0])])
    assert shared_host.book.find_cases(series_uid="1.2.3.92").items == ()


@pytest.mark.parametrize(
    ("content", "kind", "status", "problem"),
    [
        (body_of([b"x"])[:-8], TYPE, 400, "malformed-upload"),
        (b"--b\r\nContent-Type: application/dicom\r\nno header", TYPE, 400, "malformed-upload"),
        (b"--c\r\n\r\n\r\n--c--\r\n", TYPE, 400, "malformed-upload"),
        (b"--b--\r\n", TYPE, 400, "malformed-upload"),
        (b"", TYPE, 400, "malformed-upload"),
        (b"", "application/dicom", 409, None),
        (body_of([b"x"]), 'multipart/related; type="application/dicom"', 400, "malformed-upload"),
        (body_of([b"x"]), 'multipart/related; type="application/dicom+json"; boundary=b', 415, "unsupported-media-type"),
        (body_of([b"x"]), "multipart/form-data; boundary=b", 415, "unsupported-media-type"),
        (b"{}", "application/dicom+json", 415, "unsupported-media-type"),
        (b"x", "", 415, "unsupported-media-type"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(shared_host: Host, content: bytes, kind: str, status: int, problem: str | None) -> None:
    answer = post(shared_host, content, kind)
    assert answer.status_code == status, answer.text
    if problem is not None:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == f"urn:leukoscope:problem:{problem}"
    assert list((shared_host.store.root / "incoming").iterdir()) == []


def test_an_answer_in_xml_is_refused_before_anything_is_kept(shared_host: Host) -> None:
    answer = post(shared_host, body_of(make_series("1.2.3.93", 1)), Accept="application/dicom+xml")
    assert answer.status_code == 406
    assert shared_host.book.find_cases(series_uid="1.2.3.93").items == ()


def test_a_request_over_the_limits_is_refused(make_host: Callable[..., Host]) -> None:
    host = make_host(maximum_upload_bytes=50_000, maximum_upload_files=2)
    big, many = body_of([bytes(60_000)]), body_of([b"a"] * 3)
    assert post(host, big).json()["type"].endswith("upload-too-large")
    assert host.client.post("/dicomweb/studies", content=iter([big]), headers={"Content-Type": TYPE}).status_code == 413
    assert host.client.post("/dicomweb/studies", content=iter([big]), headers={"Content-Type": "application/dicom"}).status_code == 413
    assert post(host, many).json()["type"].endswith("too-many-files")
    assert [path for path in host.stored() if path.is_file()] == []


def test_a_case_book_that_is_away_is_told_and_nothing_is_called_stored(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with host.book._engine.begin() as connection:
        connection.execute(text("ALTER TABLE instances RENAME TO gone"))
    answer = post(host, body_of(make_series(UID, 3)))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_fails_for_now_in_the_middle_is_told_and_the_series_waits_for_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    receive = host.intake.receive

    def refuse(source: bytes, *rest: Any) -> Any:
        if f"{UID}.14".encode() in source:
            raise Unavailable("the disk is full")
        return receive(source, *rest)

    monkeypatch.setattr(host.intake, "receive", refuse)
    files = make_series(UID, 14)
    answer = post(host, body_of(files))
    assert (answer.status_code, outcome(answer)["failed"]) == (202, [(f"{UID}.14", 0xA700)])
    assert [case.state for case in host.book.find_cases(series_uid=UID).items] == [State.RECEIVING], "thirteen slices are whole by geometry"
    monkeypatch.undo()
    assert post(host, body_of(files)).status_code == 200
    time.sleep(host.settings.quiet_time_s + 0.1)
    host.intake.tick()
    assert [(case.state, case.instances) for case in host.book.find_cases(series_uid=UID).items] == [(State.QUEUED, 14)]


def test_storing_needs_submit_and_reading_needs_read(make_host: Callable[..., Host], tmp_path: Path) -> None:
    scopes = {"reader": ["read"], "sender": ["submit"]}
    tokens = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": one} for name, one in scopes.items()]
    host = make_host(tokens=tokens)
    calls = {"store": ("POST", "/dicomweb/studies"), "search": ("GET", "/dicomweb/studies")} | {
        name: ("GET", f"/dicomweb/studies/1.2{place}")
        for name, place in (("study", ""), ("metadata", "/metadata"), ("frames", "/series/1.2/instances/1.2/frames/1"))
    }
    for name, (method, place) in calls.items():
        for token in (None, *scopes):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            status = host.client.request(method, place, headers=headers).status_code
            refused = 401 if token is None else 403 if (token == "sender") != (name == "store") else None
            assert (status == refused) if refused else status not in (401, 403), (name, token, status)

"""A case from its delivery over a corrected identity to its end by a rejection note, with a node that takes notes, and who did it all."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pydicom
from pydicom.uid import KeyObjectSelectionDocumentStorage

from model.phantom import Phantom
from service.records import open_book
from service.settings import Settings
from service.store import Store
from tests.provider import CLASSES, provider
from tests.running import Running, series_uid
from tests.service.key_objects import SAFETY, key_objects
from tests.service.series import part10
from worker.phantom import write_series

RIGHT = {"patient_id": "RIGHT 7", "name": "Zhāng^Wěi", "birth_date": "19610203", "by": "dr who", "reason": "worklist mix-up"}
SETTINGS = {"quiet_time_s": 1.0, "sweep_s": 0.3, "engine": "onnxruntime-cpu", "threads": 1}


def wait_for(pacs, count: int, limit_s: float = 60.0) -> list[str]:
    """The UIDs that arrived since the last time, as soon as there are so many."""
    deadline = time.monotonic() + limit_s
    while len(pacs.got) < count:
        assert time.monotonic() < deadline, pacs.got
        time.sleep(0.05)
    found = list(pacs.got)
    pacs.got.clear()
    return found


def uids(service, case) -> list[str]:
    outputs = service.outputs(case)
    return [str(pydicom.dcmread(io.BytesIO(outputs[kind])).SOPInstanceUID) for kind in ("segmentation", "structured-report")]


def note_of(service, case_id: str, uid: str) -> tuple[str, str, set[str]]:
    """Title, patient and what it rejects."""
    book = open_book(Settings(data_dir=service.data))
    (path,) = [one.path for one in book.deliveries(case_id) if one.sop_instance_uid == uid]
    book.close()
    note = pydicom.dcmread(Store(service.data).path_of(path))
    series = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    rejected = {str(one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for one in series}
    return note.ConceptNameCodeSequence[0].CodeValue, note.PatientID, rejected


def test_results_follow_the_identity_and_go_with_their_source(tmp_path: Path, tiny_release: Path, small_head: Phantom) -> None:
    files = write_series(small_head.flair, tmp_path / "series", uid_seed="withdrawn", patient_id="WRONG")
    with provider(classes=(*CLASSES.values(), KeyObjectSelectionDocumentStorage)) as pacs:
        node = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "rejection_notes": True}
        destinations = json.dumps([node | {"outputs": ["segmentation", "structured-report"], "empty_segmentation": True}])
        service = Running(tmp_path / "data", release=tiny_release, destinations=destinations, **SETTINGS).start()
        try:
            service.push(files)
            case = service.wait_until(series_uid(files), "done")
            first = uids(service, case)
            assert wait_for(pacs, 2) == first

            assert service.client.post(f"/cases/{case['id']}/identity", json=RIGHT).status_code == 202
            again = service.wait_until(series_uid(files), "done", revision=2)
            second = uids(service, again)
            note, *results = wait_for(pacs, 3)
            assert results == second
            assert not set(first) & set(second)
            assert note_of(service, case["id"], note) == ("113038", "WRONG", set(first))
            report = pydicom.dcmread(io.BytesIO(service.outputs(again)["structured-report"]))
            assert (report.PatientID, str(report.PatientName), report.PatientBirthDate) == ("RIGHT 7", "Zhāng^Wěi", "19610203")
            (before,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
            assert before.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first[1]

            instances = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
            (tmp_path / "note.dcm").write_bytes(part10(key_objects(instances, SAFETY)))
            service.push([tmp_path / "note.dcm"])
            ended = service.wait_until(series_uid(files), "rejected", revision=3)
            assert "Rejected for Patient Safety Reasons (113037 DCM)" in ended["reason"]
            (last,) = wait_for(pacs, 1)
            assert note_of(service, case["id"], last) == ("113037", "RIGHT 7", set(second))
            assert service.client.get(f"/cases/{case['id']}/segmentation").status_code == 404
            check_trail(service, case["id"])
        finally:
            assert service.stop() == 0, service.last_words()
        log = service.log.read_text()
        assert "RIGHT 7" not in log
        assert "19610203" not in log


def check_trail(service, case_id: str, limit_s: float = 20.0) -> None:
    """Of every step there is an entry within seconds, from whichever process."""
    wanted = {
        ("DICOM Instances Transferred", "received over association"),
        ("DICOM Instances Transferred", "sent over C-STORE to pacs"),
        ("Patient Record", "identity corrected by dr who: worklist mix-up"),
        ("Procedure Record", "withdrawn by rejection note"),
    }
    deadline = time.monotonic() + limit_s
    while True:
        items = service.client.get("/audit", params={"case": case_id}).json()["items"]
        left = {(event, what) for event, what in wanted if not any(one["event"] == event and what in one["what"] for one in items)}
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.2)

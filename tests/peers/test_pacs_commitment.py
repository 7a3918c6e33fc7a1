"""Orthanc commits to keep what it was sent: asked over one association, it reports over another."""

from __future__ import annotations

from pydicom.uid import generate_uid

from service.sections import Destination
from tests.sending import sending, states
from tests.service.house import eventually
from worker import commitment

KINDS = ("segmentation", "report.dcm")


def test_orthanc_commits_to_what_it_has_and_not_to_what_it_lost(orthanc, tmp_path, monkeypatch):
    monkeypatch.setattr(commitment, "STAY_S", 0.05)
    node = Destination(name="pacs", ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port, outputs=KINDS, storage_commitment=True)
    elements = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    with sending(tmp_path, node, listening=True, kinds=KINDS, **elements) as made:
        modality = {"AET": "LEUKOSCOPE", "Host": "127.0.0.1", "Port": made.port}
        orthanc.client.put("/modalities/leukoscope", json=modality).raise_for_status()
        made.sender.deliver(made.case_id)
        assert eventually(lambda: states(made.book, made.case_id) == dict.fromkeys(KINDS, "committed"), 30.0)
        (instance,) = orthanc.find("Instance", {"SOPInstanceUID": "2.25.11"})
        orthanc.client.delete(f"/instances/{instance['ID']}").raise_for_status()
        (page,) = [one for one in made.book.deliveries(made.case_id) if one.output == "report.dcm"]
        made.book.delivered(page.id, ask_at=page.created_at)
        made.sender.deliver(made.case_id)
        assert eventually(lambda: states(made.book, made.case_id)["report.dcm"] == "pending", 30.0)
        (page,) = [one for one in made.book.deliveries(made.case_id) if one.output == "report.dcm"]
        assert "no such object instance" in page.last_error

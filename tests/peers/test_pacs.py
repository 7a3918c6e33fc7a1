"""A hospital's PACS, played by DCMTK and Orthanc: a whole series in, the results back, nobody's own code in between."""

from __future__ import annotations

import io
import json
import re
import subprocess
import time
import zipfile
from collections import Counter

import nibabel
import numpy as np
import pydicom
import pytest

from model.volume import Volume
from tests.provider import CLASSES, MR
from tests.running import Running, series_uid
from worker.phantom import write_series
from worker.rejection import as_bytes, encode_note, read_result
from worker.send import Peer, read_outgoing, send


@pytest.fixture
def with_pacs(tmp_path, orthanc):
    destinations = [{"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port, "outputs": list(CLASSES)}]
    service = Running(tmp_path / "data", quiet_time_s=1.5, sweep_s=0.5, destinations=json.dumps(destinations)).start()
    yield service
    assert service.stop() == 0, service.last_words()


def storescu(program, service, folder):
    command = [program, "-aet", "MODALITY", "-aec", service.ports["ae_title"], "+sd", "127.0.0.1", str(service.ports["dicom_port"])]
    subprocess.run([*command, str(folder)], check=True, timeout=120, env={"TCP_NODELAY": "1"})


def complaints(program, path):
    """What dciodvfy calls an error."""
    report = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, timeout=120)
    return [line for line in (report.stdout + report.stderr).splitlines() if re.match(r"\s*Error", line)]


def whole_head(shared_data):
    """A real two-dimensional FLAIR of a whole, defaced head, 3 mm slices or thicker."""
    path = sorted((shared_data / "open_ms" / "longitudinal").rglob("*FLAIR*.nii.gz"))[0]
    image = nibabel.load(path)
    data = np.clip(np.asarray(image.dataobj, dtype=np.float32), 0, None)
    scale = 4000.0 / max(float(data.max()), 1.0) if data.max() > 60000 or data.max() < 50 else 1.0
    return Volume(data * scale, np.asarray(image.affine, dtype=np.float64))


def test_storescu_sends_and_orthanc_gets_the_results(with_pacs, orthanc, peer, write_phantom, tmp_path):
    files = write_phantom("pacs")
    storescu(peer("storescu"), with_pacs, files[0].parent)
    check_way(with_pacs, orthanc, peer, files, tmp_path)


def test_a_real_whole_head_goes_the_same_way(with_pacs, orthanc, peer, shared_data, tmp_path):
    files = write_series(whole_head(shared_data), tmp_path / "head", description="FLAIR tra", uid_seed="real-head", patient_id="REAL")
    storescu(peer("storescu"), with_pacs, tmp_path / "head")
    case = check_way(with_pacs, orthanc, peer, files, tmp_path)
    assert case["findings"]["brain_volume_ml"] > 700


def check_way(service, orthanc, peer, files, tmp_path):
    case = service.wait_until(series_uid(files), "done")
    study = pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
    (series,) = orthanc.wait_for("Series", {"Modality": "SEG", "StudyInstanceUID": study})
    (instance,) = orthanc.find("Instance", {"SeriesInstanceUID": series["MainDicomTags"]["SeriesInstanceUID"]})
    arrived = orthanc.file(instance)
    segmentation = pydicom.dcmread(io.BytesIO(arrived))
    referenced = {str(item.ReferencedSOPInstanceUID) for item in segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files}
    served = pydicom.dcmread(io.BytesIO(service.output(case, "segmentation")))
    assert segmentation.SOPInstanceUID == served.SOPInstanceUID
    assert segmentation.PixelData == served.PixelData
    path = tmp_path / "arrived.dcm"
    path.write_bytes(arrived)
    assert complaints(peer("dciodvfy"), path) == []
    sent = wait_for_all(service, case["id"], "state", "sent")
    assert [(one["destination"], one["output"], one["last_error"]) for one in sent] == [
        ("pacs", output, None) for output in outputs_of(case)
    ]
    if "resampled.zip" in case["outputs"]:
        with zipfile.ZipFile(io.BytesIO(service.output(case, "resampled.zip"))) as archive:
            images = {name: pydicom.dcmread(io.BytesIO(archive.read(name))) for name in archive.namelist()}
        (series,) = orthanc.find("Series", {"Modality": "MR", "StudyInstanceUID": study})
        found = {
            item["MainDicomTags"]["SOPInstanceUID"]
            for item in orthanc.find("Instance", {"SeriesInstanceUID": series["MainDicomTags"]["SeriesInstanceUID"]})
        }
        assert found == {str(image.SOPInstanceUID) for image in images.values()}
    for output, modality in (("structured-report", "SR"), ("rtstruct", "RTSTRUCT"), ("report.dcm", "DOC"), ("preview.dcm", "OT")):
        check_object(service, orthanc, peer, case, output, {"Modality": modality, "StudyInstanceUID": study}, path)
    return case


def outputs_of(case):
    """What is sent of a case, in its order."""
    return [
        one for output in CLASSES for one in (("resampled.zip", output) if output == "rtstruct" else (output,)) if one in case["outputs"]
    ]


def check_object(service, orthanc, peer, case, output, query, path):
    """The PACS has one, as we serve it, and gives back a valid object."""
    (series,) = orthanc.wait_for("Series", query)
    (instance,) = orthanc.find("Instance", {"SeriesInstanceUID": series["MainDicomTags"]["SeriesInstanceUID"]})
    path.write_bytes(orthanc.file(instance))
    assert pydicom.dcmread(path) == pydicom.dcmread(io.BytesIO(service.output(case, output))), output
    assert complaints(peer("dciodvfy"), path) == []


def test_orthanc_takes_a_rejection_note(orthanc, write_phantom, tmp_path):
    results = [read_result(path) for path in write_phantom("withdrawn")[:3]]
    note = encode_note(results, "113001")
    (tmp_path / "note.dcm").write_bytes(as_bytes(note))
    (answer,) = send(Peer("ORTHANC", "127.0.0.1", orthanc.dicom_port), read_outgoing([tmp_path / "note.dcm"]))
    assert answer.status == 0x0000
    (instance,) = orthanc.wait_for("Instance", {"SOPInstanceUID": str(note.SOPInstanceUID)})
    arrived = pydicom.dcmread(io.BytesIO(orthanc.file(instance)))
    assert arrived.CurrentRequestedProcedureEvidenceSequence == note.CurrentRequestedProcedureEvidenceSequence


def test_a_destination_that_is_away_gets_it_when_it_is_back(peer, tmp_path, free_port, write_phantom):
    port = free_port()
    destinations = [{"name": "pacs", "ae_title": "STORESCP", "host": "127.0.0.1", "port": port, "outputs": list(CLASSES)}]
    service = Running(tmp_path / "data", quiet_time_s=1.5, sweep_s=0.3, destinations=json.dumps(destinations)).start()
    try:
        files = write_phantom("away")
        service.push(files)
        case = service.wait_until(series_uid(files), "done")
        waiting = wait_for_all(service, case["id"], "last_error")
        assert [one["output"] for one in waiting] == outputs_of(case)
        assert {one["state"] for one in waiting} == {"pending"}
        assert service.stop() == 0
        arrived = tmp_path / "arrived"
        arrived.mkdir()
        receiver = subprocess.Popen([peer("storescp"), "-od", str(arrived), "+xa", str(port)], stderr=subprocess.DEVNULL)
        try:
            service.start()
            wait_for_all(service, case["id"], "state", "sent")
        finally:
            receiver.terminate()
            receiver.wait()
        with zipfile.ZipFile(io.BytesIO(service.output(case, "resampled.zip"))) as archive:
            images = len(archive.namelist())
        classes = Counter(str(pydicom.dcmread(path).SOPClassUID) for path in arrived.iterdir())
        assert classes == Counter(CLASSES.values()) + Counter({MR: images})
    finally:
        service.stop()


def deliveries_of(service, case_id):
    return service.client.get(f"/cases/{case_id}").json()["deliveries"]


def wait_for_all(service, case_id, key, value=None, limit_s=90.0):
    """Wait until that is so, or is anything, of each delivery; give them."""
    deadline = time.monotonic() + limit_s
    while True:
        found = deliveries_of(service, case_id)
        if found and all(one[key] == value if value else one[key] for one in found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)

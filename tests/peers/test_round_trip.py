"""Every kind of object into Orthanc and back, over DICOM and over the web: the same bytes."""

from __future__ import annotations

import os
import zipfile
from io import BytesIO

import pydicom
import pytest

from model.volume import Volume
from service.sections import RTStruct, Segmentation
from tests.peers.conftest import WEB_PLUGIN, Orthanc
from tests.servers import find_port
from tests.worker.encode.cases import affine, context_of, series_of, textured
from tests.worker.encode.test_objects import PAGE, PICTURE, labels_with
from tests.worker.encode.test_seg import PLANES
from worker.encode import capture, document, resampled, rtstruct, seg, sr
from worker.send import Peer, read_outgoing, send

SHAPE = (24, 19, 11)


@pytest.fixture(scope="module")
def orthanc(peer, tmp_path_factory):
    pacs = Orthanc(peer("Orthanc"), tmp_path_factory.mktemp("orthanc"), find_port(), find_port())
    yield pacs
    pacs.stop()


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Files of every kind, each segmentation of another result set."""
    folder = tmp_path_factory.mktemp("objects")
    series = series_of(Volume(textured(SHAPE), affine(PLANES["oblique"], (1.0, 1.2, 3.0))), folder / "in", enhanced=True)
    labels = labels_with(9, SHAPE, tumour=True)
    brain = labels < 3
    files = {}
    for encoding in ("binary", "labelmap", "fractional"):
        chosen = Segmentation(encoding=encoding, lesion_segments=4, brain=True)
        context = context_of(series, labels, brain=brain, segmentation=chosen, rtstruct=RTStruct(lesion_rois=2))
        files[encoding] = seg.encode(context).data
    for made in (sr.encode(context), rtstruct.encode(context), document.encode(context, PAGE), capture.encode(context, PICTURE)):
        files[made.kind] = made.data
    with zipfile.ZipFile(BytesIO(resampled.encode(context).data)) as archive:
        files["resampled"] = archive.read("0001.dcm")
    for name, data in files.items():
        (folder / f"{name}.dcm").write_bytes(data)
    return {name: folder / f"{name}.dcm" for name in files}


def data_set(content):
    """What follows the file meta information, of which every node writes its own."""
    stream = BytesIO(content)
    pydicom.filereader.read_preamble(stream, force=False)
    pydicom.filereader._read_file_meta_info(stream)
    return stream.read()


def held(orthanc, path):
    uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    (instance,) = orthanc.find("Instance", {"SOPInstanceUID": uid})
    return instance


def forget_all(orthanc):
    for study in orthanc.find("Study", {}):
        orthanc.client.delete(f"/studies/{study['ID']}").raise_for_status()


def test_over_dicom(orthanc, objects):
    forget_all(orthanc)
    answers = send(Peer("ORTHANC", "127.0.0.1", orthanc.dicom_port), read_outgoing(objects.values()))
    assert {(answer.path.stem, answer.category) for answer in answers} == {(name, "Success") for name in objects}
    for path in objects.values():
        assert data_set(orthanc.file(held(orthanc, path))) == data_set(path.read_bytes()), path.stem


def test_over_the_web(orthanc, objects):
    """Needs Orthanc's DICOMweb plugin, Debian's orthanc-dicomweb."""
    if not WEB_PLUGIN.exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("orthanc-dicomweb is not installed")
    forget_all(orthanc)
    boundary = "leukoscope"
    parts = [b"--leukoscope\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n" for path in objects.values()]
    kind = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}', "Accept": "application/dicom+json"}
    answer = orthanc.client.post("/dicom-web/studies", content=b"".join(parts) + b"--leukoscope--", headers=kind).raise_for_status().json()
    assert len(answer["00081199"]["Value"]) == len(objects)
    for path in objects.values():
        header = pydicom.dcmread(path, stop_before_pixels=True)
        address = f"/dicom-web/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}/instances/{header.SOPInstanceUID}"
        wanted = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        back = orthanc.client.get(address, headers=wanted).raise_for_status()
        assert data_set(only_part(back)) == data_set(path.read_bytes()), path.stem


def only_part(answer):
    boundary = b"--" + answer.headers["content-type"].split("boundary=")[1].split(";")[0].strip('"').encode()
    _, part, end = answer.content.split(boundary)
    assert end.strip() == b"--"
    return part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")

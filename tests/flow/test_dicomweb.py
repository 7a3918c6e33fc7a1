"""A series stored by STOW-RS runs, and DICOMweb finds and gives what came of it."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import requests
from dicomweb_client.api import DICOMwebClient

from tests.running import series_uid


def test_what_is_stored_over_the_web_runs_and_comes_back_with_its_results(embedded_service, write_phantom):
    files = write_phantom("over-the-web")
    sent = [pydicom.dcmread(path) for path in files]
    study_uid = sent[0].StudyInstanceUID
    session = requests.Session()
    session.trust_env = False
    with session:
        client = DICOMwebClient(f"{str(embedded_service.client.base_url).rstrip('/')}/dicomweb", session=session)
        answer = client.store_instances(sent, study_instance_uid=study_uid)
        assert len(answer.ReferencedSOPSequence) == len(files)
        case = embedded_service.wait_until(series_uid(files), "done")

        (study,) = client.search_for_studies(search_filters={"StudyInstanceUID": study_uid, "ModalitiesInStudy": "SEG"})
        assert study["00100020"]["Value"] == ["P-over-the-web"]
        (found,) = client.search_for_instances(study_uid, search_filters={"Modality": "SEG"}, fields=["SegmentSequence"])
        series, instance = (found[tag]["Value"][0] for tag in ("0020000E", "00080018"))
        mask = client.retrieve_instance(study_uid, series, instance)
        output = pydicom.dcmread(io.BytesIO(embedded_service.output(case, "segmentation")))
        assert mask == output

        frames = client.retrieve_instance_frames(study_uid, series, instance, [1, len(files)])
        shape = (mask.Rows, mask.Columns)
        pixels = [
            np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")[: shape[0] * shape[1]].reshape(shape) for frame in frames
        ]
        assert np.array_equal(pixels, mask.pixel_array[[0, len(files) - 1]])
        assert "resampled.zip" in case["outputs"]
        series_found = client.search_for_series(study_uid)
        counts = {one["00080060"]["Value"][0]: one["00201209"]["Value"][0] for one in series_found}
        assert counts == {"MR": len(files), "SEG": 1, "SR": 1, "RTSTRUCT": 1, "DOC": 1, "OT": 1}, "and no axial series: it is no DICOM file"
        assert len(series_found) == len(counts)
        (metadata,) = client.retrieve_series_metadata(study_uid, series)
        assert len(metadata["52009230"]["Value"]) == mask.NumberOfFrames

"""Orthanc's DICOM web services as a destination: STOW-RS in, WADO-RS out, read by a client nobody here wrote."""

from __future__ import annotations

from dicomweb_client.api import DICOMwebClient
from pydicom.uid import generate_uid

from service.sections import WebDestination
from tests.provider import CLASSES
from tests.sending import sending, states

KINDS = tuple(CLASSES)


def test_orthanc_gets_every_result_over_the_web_byte_for_byte(orthanc, dicom_web, tmp_path):
    elements = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "StudyDescription": "Größe ≥ 3 mm³"}
    with sending(tmp_path, WebDestination(name="web", url=dicom_web, outputs=KINDS), kinds=KINDS, **elements) as made:
        made.sender.deliver(made.case_id)
        deliveries = made.book.deliveries(made.case_id)
        assert states(made.book, made.case_id) == dict.fromkeys(KINDS, "sent"), [one.last_error for one in deliveries]
        kept = {one.sop_instance_uid: (tmp_path / one.path).read_bytes() for one in deliveries}
        client = DICOMwebClient(dicom_web)
        found = client.retrieve_study(elements["StudyInstanceUID"])
        assert {str(one.SOPInstanceUID) for one in found} == set(kept)
        for instance in orthanc.find("Instance", {}):
            uid = instance["MainDicomTags"]["SOPInstanceUID"]
            assert orthanc.file(instance) == kept[uid]

"""The page as Encapsulated PDF, for a PACS (PS3.3 A.45.1, C.24.2)."""

from __future__ import annotations

from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage

from service.series_numbers import FIRST
from worker.encode.context import Context, Output
from worker.encode.frames import source_objects
from worker.encode.instance import as_output, begin, reference

KIND = "report.dcm"
SERIES_NUMBER = FIRST + 3
_TITLE = "FLAIR white-matter hyper-intensity report"


def encode(context: Context, page: Output) -> Output:
    """Put the page, unchanged, into an object that shows the patient's name, as the page does.

    Parameters
    ----------
    page : the PDF of this case

    References
    ----------
    PS3.3 C.24.1 (series), C.8.6.1 (equipment), C.24.2 (document)
    """
    dataset = begin(context, KIND, SERIES_NUMBER, sop_class_uid=EncapsulatedPDFStorage, modality="DOC")
    dataset.ConversionType = "WSD"
    dataset.AcquisitionDateTime = None
    dataset.BurnedInAnnotation = "YES"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.DocumentTitle = _TITLE
    dataset.ConceptNameCodeSequence = [CodedConcept.from_code(codes.DCM.ImagingMeasurementReport)]
    dataset.SourceInstanceSequence = [reference(source.SOPClassUID, source.SOPInstanceUID) for source in source_objects(context)]
    dataset.MIMETypeOfEncapsulatedDocument = page.media_type
    dataset.EncapsulatedDocumentLength = len(page.data)
    dataset.EncapsulatedDocument = page.data
    return as_output(dataset, context, KIND, "report.dcm")

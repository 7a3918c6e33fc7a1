"""The preview as Secondary Capture, for a PACS that shows no segmentation (PS3.3 A.8.1)."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from pydicom.uid import SecondaryCaptureImageStorage

from service.series_numbers import FIRST
from worker.encode.context import Context, Output
from worker.encode.frames import source_objects
from worker.encode.instance import as_output, begin, reference
from worker.encode.wording import STATEMENT, corrected_sentence, irradiated_sentence, sentence

KIND = "preview.dcm"
SERIES_NUMBER = FIRST + 4
_LONGEST_COMMENT = 10240  # LT


def encode(context: Context, picture: Output) -> Output:
    """Put the picture, uncompressed, into an object; its rows run to the patient's left, its columns to posterior, in every panel.

    Parameters
    ----------
    picture : the preview of this case, PNG

    References
    ----------
    PS3.3 C.8.6.1 (equipment), C.7.6.1 (general image), C.7.6.3 (pixels)
    """
    image = Image.open(BytesIO(picture.data)).convert("RGB")
    dataset = begin(context, KIND, SERIES_NUMBER, sop_class_uid=SecondaryCaptureImageStorage, modality="OT")
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.BodyPartExamined = "BRAIN"
    dataset.PatientOrientation = ["L", "P"]
    dataset.BurnedInAnnotation = "NO"
    dataset.DerivationDescription = "Montage of axial planes with the outlines of what was segmented"
    dataset.SourceImageSequence = [reference(source.SOPClassUID, source.SOPInstanceUID) for source in source_objects(context)]
    corrected = (corrected_sentence(context.corrected),) if context.corrected else ()
    said = (STATEMENT, irradiated_sentence(context.release.card), *corrected, *map(sentence, context.quality))
    dataset.ImageComments = " ".join(said)[:_LONGEST_COMMENT]
    dataset.LossyImageCompression = "01" if context.header.lossy else "00"  # once lossy, always lossy
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Columns, dataset.Rows = image.size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = image.tobytes()
    return as_output(dataset, context, KIND, "preview.dcm")

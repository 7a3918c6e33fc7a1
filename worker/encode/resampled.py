"""The axial MR series beside a structure set whose source is not axial: the source's values on the planes of the contours (PS3.3 A.4)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import numpy.typing as npt
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from model.volume import Volume, resample
from service.series_numbers import FIRST
from worker.encode.axial import AxialGrid
from worker.encode.context import Context, Output
from worker.encode.frames import source_objects
from worker.encode.instance import as_bytes, begin, finish
from worker.encode.wording import PRODUCT

KIND = "resampled.zip"
SERIES_NUMBER = FIRST + 5
_NAME = "resampled"
_SLAB = 32  # planes resampled at once: a whole volume beside the source would double the memory
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_HIGHEST_SCALED = 4095.0


def encode(context: Context) -> Output | None:
    """Encode the series as one zip of `0001.dcm` …, ascending to the head; nothing where the source's slices are axial.

    Stored, not deflated: noise hardly shrinks, and deflating takes longer than all the rest.

    Values are interpolated linearly and stored as whole numbers; where the source's are no such numbers, or few apart, they are scaled.
    Timing is left to the source: this is no acquisition, and would be taken for a second FLAIR when a PACS sends it back here.
    """
    structures = context.structures
    if structures is None:
        raise ValueError("an axial series needs the DICOM series it belongs to")
    if not structures.grid.resampled:
        return None
    image = _image(context, structures.grid)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for k, pixels in enumerate(_planes(context.volume, structures.grid)):
            _place(image, context, structures.grid, k)
            image.PixelData = pixels.tobytes()
            entry = zipfile.ZipInfo(f"{k + 1:04d}.dcm", _EPOCH)
            entry.create_system, entry.external_attr = _UNIX, 0o644 << 16
            archive.writestr(entry, as_bytes(image))
    return Output(KIND, "application/zip", KIND, buffer.getvalue())


def series_uid(context: Context) -> str:
    """Give the series' UID."""
    return context.identity.uid(f"{_NAME} series")


def instance_uid(context: Context, k: int) -> str:
    """Give the UID of the image of plane k."""
    return context.identity.uid(f"{_NAME}/{k}")


def _image(context: Context, grid: AxialGrid) -> Dataset:
    """What all images share: series, frame of reference, pixels and the little that is known of their acquisition (PS3.3 C.8.3.1)."""
    header = context.header
    image = begin(context, _NAME, SERIES_NUMBER, sop_class_uid=MRImageStorage, modality="MR")
    finish(image, context)
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = source_objects(context)[0].FrameOfReferenceUID, None
    image.SeriesDescription = f"{PRODUCT} axial MR {context.product_version} - resampled"[:64]
    image.PatientPosition = header.get("PatientPosition") or None
    image.BodyPartExamined = header.get("BodyPartExamined") or "BRAIN"
    image.ImageType = ["DERIVED", "SECONDARY", "MPR"]
    image.DerivationDescription = f"Linear interpolation of series {header.get('SeriesInstanceUID')} on transverse planes"[:1024]
    image.DerivationCodeSequence = [CodedConcept.from_code(codes.DCM.MultiplanarReformatting)]
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "RM", "NONE", None
    image.MRAcquisitionType = image.EchoTime = image.RepetitionTime = image.EchoTrainLength = None
    image.AcquisitionNumber = None
    _describe_pixels(image, context, grid)
    return image


def _describe_pixels(image: Dataset, context: Context, grid: AxialGrid) -> None:
    columns_apart, rows_apart, planes_apart = (float(np.linalg.norm(grid.affine_ras[:3, axis])) for axis in range(3))
    image.PixelSpacing = [format_number_as_ds(rows_apart), format_number_as_ds(columns_apart)]
    image.SliceThickness = image.SpacingBetweenSlices = format_number_as_ds(planes_apart)
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.Columns, image.Rows = grid.shape[:2]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    low, scale = _scaling(context.volume)
    shown = (np.percentile(context.volume.data[::4, ::4, ::4].astype(np.float32), (1, 99.5)) - low) * scale
    image.WindowCenter, image.WindowWidth = round(float(shown.mean())), max(1, round(float(np.ptp(shown))))
    image.LossyImageCompression = "01" if context.header.lossy else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if context.header.lossy and context.header.get(keyword):
            setattr(image, keyword, context.header.get(keyword).split("\\"))


def _place(image: Dataset, context: Context, grid: AxialGrid, k: int) -> None:
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(instance_uid(context, k))
    image.InstanceNumber = k + 1
    image.ImagePositionPatient = [format_number_as_ds(float(value)) for value in grid.positions_lps[k]]
    image.SliceLocation = image.ImagePositionPatient[2]


def _planes(volume: Volume, grid: AxialGrid) -> Iterator[npt.NDArray[np.uint16]]:
    """Give the stored values of each plane, shape (rows, columns), ascending along k; 0 outside of the source's field of view."""
    low, scale = _scaling(volume)
    source = volume if low == 0 else volume.with_data(volume.data.astype(np.float32) - np.float32(low))
    columns, rows, planes = grid.shape

    def slab(first: int) -> npt.NDArray[np.uint16]:
        affine = grid.affine_ras.copy()
        affine[:3, 3] += first * affine[:3, 2]
        values = resample(source, affine, (columns, rows, min(_SLAB, planes - first)), "linear") * np.float32(scale)
        return np.ascontiguousarray(np.rint(np.clip(values, 0, 65535)).astype(np.uint16).transpose(2, 1, 0))

    with ThreadPoolExecutor(1) as beside:  # interpolates the next slabs while these are written
        for stored in beside.map(slab, range(0, planes, _SLAB)):
            yield from stored


def _scaling(volume: Volume) -> tuple[float, float]:
    """Give what is taken from the source's values and what the rest is multiplied by, so that 16 bits without a sign hold them."""
    low = min(0.0, float(volume.data.min()))
    reach = float(volume.data.max()) - low
    return low, 1.0 if 255 <= reach <= 65535 else _HIGHEST_SCALED / max(reach, 1e-6)

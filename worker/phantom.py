"""Plays the scanner: writes any volume as the DICOM series a 3D FLAIR would have given, for the demo, the tests and the bench."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from model.volume import Affine, Volume
from worker import scanner

_NAMESPACE = uuid.UUID("a1a6c0de-0f1a-5b0e-9f1a-1e0c05c0be00")
_IMPLEMENTATION = UID("2.25.329800735698586629295641978511506172918")
_WRITABLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def make_uid(seed: str, *parts: object) -> UID:
    """The same UID for the same seed and parts, always (UUIDv5 under 2.25, PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join([seed, *map(str, parts)])).int}")


def write_series(
    volume: Volume,
    folder: Path,
    *,
    description: str = "FLAIR 3D phantom",
    patient_id: str = "LEUKOSCOPE-PHANTOM",
    uid_seed: str = "leukoscope-phantom",
    enhanced: bool = False,
    order: Sequence[int] | None = None,
    repeat: Sequence[int] = (),
    transfer_syntax: UID = ExplicitVRLittleEndian,
    headers: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a volume as one DICOM series, plane by plane, with the voxels where the affine says they are.

    A plane of constant k becomes one image; its columns run along axis i and its rows along axis j, so nothing is resampled.

    Parameters
    ----------
    volume : values 0-65535 (rounded, negatives cut to 0); any affine, sheared ones too
    folder : made if missing; files are `0001.dcm` … in the order of acquisition
    description, patient_id, uid_seed : SeriesDescription, PatientID, and what every UID is derived from
    enhanced : one Enhanced MR object of many frames instead of one MR object per slice
    order : the k indices in the order they were acquired (instance or frame numbers 1, 2, …); leaving some out drops those
        slices, and a k given twice is written as two instances at one position. Default: all, ascending
    repeat : the k indices whose file is written a second time, byte for byte, under another file name (classic only)
    transfer_syntax : one of the uncompressed ones
    headers : keyword → value put over the top-level data set of every file last; None removes the element

    Returns
    -------
    list of Path
        The files written, in the order of acquisition.
    """
    if transfer_syntax not in _WRITABLE:
        raise ValueError(f"cannot write {transfer_syntax.name}")
    folder.mkdir(parents=True, exist_ok=True)
    pixels = _stored(volume)
    planes = list(range(volume.shape[2]) if order is None else order)
    affine_lps = _RAS_TO_LPS @ volume.affine_ras
    identity = _identify(patient_id, uid_seed, description)
    if enhanced:
        dataset = _enhanced_object(volume, affine_lps, pixels, planes, identity, uid_seed)
        return [_save(dataset, folder / "0001.dcm", transfer_syntax, headers)]
    written = []
    highest = int(pixels.max(initial=0))
    for number, k in enumerate(planes, start=1):
        dataset = _classic_object(volume, affine_lps, pixels, k, number, identity, uid_seed, highest)
        written.append(_save(dataset, folder / f"{number:04d}.dcm", transfer_syntax, headers))
        if k in repeat:
            copy = folder / f"{number:04d}-again.dcm"
            copy.write_bytes(written[-1].read_bytes())
            written.append(copy)
    return written


def _stored(volume: Volume) -> npt.NDArray[np.uint16]:
    """Stored values as planes of rows, shape (k, j, i)."""
    values = np.rint(np.asarray(volume.data, dtype=np.float64)) if volume.data.dtype.kind == "f" else volume.data
    if values.size and float(values.max()) > 65535:
        raise ValueError(f"highest value {values.max()} does not fit 16 bits")
    return np.ascontiguousarray(np.clip(values, 0, 65535).astype(np.uint16).transpose(2, 1, 0))


def _identify(patient_id: str, uid_seed: str, description: str) -> Dataset:
    """What all files of the series share about patient, study, series and frame of reference."""
    shared = Dataset()
    shared.PatientName = "PHANTOM^LEUKOSCOPE"
    shared.PatientID = patient_id
    shared.StudyInstanceUID = make_uid(uid_seed, "study")
    shared.SeriesInstanceUID = make_uid(uid_seed, "series")
    shared.FrameOfReferenceUID = make_uid(uid_seed, "frame of reference")
    shared.SeriesDescription = description
    shared.ProtocolName = description
    return shared


def _describe_grid(volume: Volume, affine_lps: Affine) -> Dataset:
    """Orientation, spacing and thickness of the planes (PS3.3 C.7.6.2)."""
    spacing = volume.spacing_mm
    directions = affine_lps[:3, :3] / spacing
    step = abs(float(np.dot(np.cross(directions[:, 0], directions[:, 1]), affine_lps[:3, 2])))
    grid = Dataset()
    grid.ImageOrientationPatient = decimals(*directions[:, 0], *directions[:, 1])
    grid.PixelSpacing = decimals(spacing[1], spacing[0])
    grid.SliceThickness = decimals(step)[0]
    return grid


def decimals(*values: float) -> list[str]:
    """Numbers as DS, at most 16 characters each."""
    return [format_number_as_ds(float(value) + 0.0) for value in values]


def _position(affine_lps: Affine, k: int) -> list[str]:
    return decimals(*(affine_lps[:3, 3] + k * affine_lps[:3, 2]))


def _classic_object(
    volume: Volume,
    affine_lps: Affine,
    pixels: npt.NDArray[np.uint16],
    k: int,
    number: int,
    identity: Dataset,
    seed: str,
    highest: int,
) -> Dataset:
    grid = _describe_grid(volume, affine_lps)
    dataset = scanner.classic_header()
    dataset.update(identity)
    dataset.update(grid)
    dataset.SOPInstanceUID = make_uid(seed, "instance", k, number)
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = _position(affine_lps, k)
    dataset.SpacingBetweenSlices = grid.SliceThickness
    dataset.SliceLocation = decimals(k * float(grid.SliceThickness))[0]
    scanner.describe_pixels(dataset, rows=pixels.shape[1], columns=pixels.shape[2], highest=highest)
    dataset.PixelData = pixels[k].tobytes()
    return dataset


def _enhanced_object(
    volume: Volume, affine_lps: Affine, pixels: npt.NDArray[np.uint16], planes: Sequence[int], identity: Dataset, seed: str
) -> Dataset:
    dataset = scanner.enhanced_header(make_uid(seed, "dimensions"))
    dataset.update(identity)
    dataset.SOPInstanceUID = make_uid(seed, "instance", "enhanced", *planes)
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = len(planes)
    dataset.SharedFunctionalGroupsSequence = [scanner.shared_groups(_describe_grid(volume, affine_lps))]
    ranks = {k: rank for rank, k in enumerate(sorted(set(planes)), start=1)}
    dataset.PerFrameFunctionalGroupsSequence = [
        scanner.frame_groups(_position(affine_lps, k), rank=ranks[k], number=number) for number, k in enumerate(planes, start=1)
    ]
    scanner.describe_pixels(dataset, rows=pixels.shape[1], columns=pixels.shape[2], highest=int(pixels.max(initial=0)))
    dataset.PixelData = pixels[list(planes)].tobytes()
    return dataset


def _save(dataset: Dataset, path: Path, transfer_syntax: UID, headers: Mapping[str, Any] | None) -> Path:
    for keyword, value in (headers or {}).items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    if transfer_syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = EnhancedMRImageStorage if "NumberOfFrames" in dataset else MRImageStorage
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = _IMPLEMENTATION
    dataset.file_meta = meta
    dataset.preamble = bytes(128)
    dataset.save_as(path, enforce_file_format=True)
    return path

"""Files of one series → its frames: every image plane with its headers, its place and its decoded values, classic or Enhanced alike."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID

from service.errors import Rejected, Unavailable
from service.settings import Settings
from worker.geometry import Planes
from worker.pixels import Mask, Stored, decode, decode_with_padding, decoded_bytes, demand_grey, frame_count

# What pydicom raises on a value, and on a file, that is not what the standard says.
MALFORMED = (
    BytesLengthException,
    ValueError,
    TypeError,
    ArithmeticError,
    AttributeError,
    LookupError,
    EOFError,
    NotImplementedError,
    RecursionError,
    OSError,
    struct.error,
)
_UNREADABLE = (InvalidDicomError, zlib.error, *MALFORMED)


def is_of_the_disk(error: Exception) -> bool:
    """Whether the system raised it; pydicom raises an OSError without a number for what ends too early."""
    return isinstance(error, OSError) and error.errno is not None


@dataclass(frozen=True)
class Limits:
    """What a series may be at most, and must be at least."""

    decoded_bytes: int = 512 * 2**20
    columns: int = 1024
    rows: int = 1024
    slices: int = 512
    minimum_slices: int = 3
    minimum_values: int = 16

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """What an installation chose; admission goes by the same."""
        return cls(
            decoded_bytes=settings.maximum_series_bytes,
            columns=settings.maximum_columns,
            rows=settings.maximum_rows,
            slices=settings.maximum_slices,
            minimum_slices=settings.minimum_slices,
        )


@dataclass(frozen=True, eq=False)
class Frame:
    """One image plane.

    Attributes
    ----------
    dataset : the object it belongs to, without its pixels
    frame_number : 1-based in a multi-frame object, None in a classic one
    groups : where to look for an attribute of this frame: own functional groups, shared ones, the data set
    stored : integer, shape (rows, columns)
    padding : where `stored` was padding and is background now, None where nothing was
    """

    dataset: Dataset
    frame_number: int | None
    groups: tuple[Dataset, ...] = field(repr=False)
    stored: Stored = field(repr=False)
    padding: Mask | None = field(default=None, repr=False)

    def find(self, keyword: str, sequence: str | None = None) -> Any:
        """The frame's value of an attribute, None where it has none.

        Enhanced objects keep it in the item of a functional group (`sequence`); the data set's own root is looked at last, as some
        vendors write it there only.
        """
        for group in self.groups:
            item = value_of(group, sequence) if sequence is not None else None
            value = value_of(item[0], keyword) if item else None
            if value is not None:
                return value
        return value_of(self.dataset, keyword)

    @property
    def rescale(self) -> tuple[float, float]:
        """Slope and intercept (PS3.3 C.11.1.1.2)."""
        slope = self.find("RescaleSlope", "PixelValueTransformationSequence")
        intercept = self.find("RescaleIntercept", "PixelValueTransformationSequence")
        return (1.0 if slope is None else float(slope)), (0.0 if intercept is None else float(intercept))

    def demand_rescale(self) -> None:
        """Refuse a slope or intercept that gives no values.

        Raises
        ------
        Rejected
        """
        try:
            slope, intercept = self.rescale
        except (TypeError, ValueError):
            slope, intercept = 0.0, 0.0
        if slope == 0 or not np.isfinite([slope, intercept]).all():
            raise Rejected(f"no usable rescale slope and intercept in {name_of(self.dataset)}")


def read_frames(files: Sequence[Path], limits: Limits) -> tuple[Frame, ...]:
    """Read and decode all frames of one series, in the order of the files.

    The same instance in two files is taken once. Headers are checked before anything is decoded.

    Raises
    ------
    Rejected
        Not one readable grey series within the limits.
    Unavailable
        The disk fails, or a file went away meanwhile.
    """
    datasets = _distinct([_read(path) for path in files])
    if not datasets:
        raise Rejected("no files in the series")
    if len({str(dataset.get("SeriesInstanceUID", "")) for dataset in datasets}) > 1:
        raise Rejected("files of more than one series")
    classes = {str(dataset.SOPClassUID) for dataset in datasets}
    if len(classes) > 1:
        raise Rejected(f"objects of different classes in one series: {', '.join(sorted(UID(one).name for one in classes))}")
    try:
        for dataset in datasets:
            _demand_image(dataset, limits)
        _demand_limits(datasets, limits)
    except MALFORMED as error:
        raise Rejected("an image's size or layout is not readable") from error
    frames = tuple(frame for dataset in datasets for frame in _split(dataset))
    for frame in frames:
        frame.demand_rescale()
    return _without_padding(_as_displayed(frames))


def _without_padding(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Give padding the lowest value of the picture where it would pass for tissue, or lies so far below that it swamps the rest."""
    real = [values for values in map(_picture, frames) if values.size]
    if len(real) == len(frames) and all(frame.padding is None for frame in frames):
        return frames
    if not real:
        raise Rejected("all pixels are padding")
    lowest, highest = min(int(values.min()) for values in real), max(int(values.max()) for values in real)
    padded = [frame.stored[frame.padding] for frame in frames if frame.padding is not None]
    if all(2 * lowest - highest <= int(values.min()) and int(values.max()) <= lowest for values in padded):
        return tuple(replace(frame, padding=None) for frame in frames)
    return tuple(
        frame if frame.padding is None else replace(frame, stored=np.where(frame.padding, frame.stored.dtype.type(lowest), frame.stored))
        for frame in frames
    )


def _as_displayed(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Turn the values of MONOCHROME1 round: there the lowest is white (PS3.3 C.7.6.3.1.2), and a lesion would be dark to the network."""
    kinds = {is_inverted(frame.dataset) for frame in frames}
    if len(kinds) > 1:
        raise Rejected("some slices are MONOCHROME1, others MONOCHROME2")
    if kinds == {False}:
        return frames
    highest = max((int(values.max()) for values in map(_picture, frames) if values.size), default=0)
    return tuple(replace(frame, stored=_turned(frame.stored, highest)) for frame in frames)


def _picture(frame: Frame) -> Stored:
    """The values that are no padding."""
    return frame.stored if frame.padding is None else frame.stored[~frame.padding]


def _turned(stored: Stored, highest: int) -> Stored:
    # differences of signed values fit the unsigned type of the same width
    return (highest - stored.astype(np.int64)).astype(f"u{stored.dtype.itemsize}")


def is_inverted(dataset: Dataset) -> bool:
    """Whether the lowest value is shown white."""
    return str(value_of(dataset, "PhotometricInterpretation")) == "MONOCHROME1"


def locate(frames: Sequence[Frame]) -> Planes:
    """Where the frames lie, by their own headers.

    Raises
    ------
    Rejected
        A frame states no usable position, orientation or pixel spacing.
    """
    position = _numbers(frames, "ImagePositionPatient", "PlanePositionSequence", 3)
    cosines = _numbers(frames, "ImageOrientationPatient", "PlaneOrientationSequence", 6)
    spacing = _numbers(frames, "PixelSpacing", "PixelMeasuresSequence", 2)
    size = np.array([frame.stored.shape[::-1] for frame in frames], dtype=np.int64)
    return Planes(position, cosines[:, :3], cosines[:, 3:], spacing[:, ::-1], size)


def value_of(dataset: Dataset, keyword: str) -> Any:
    """The value of an attribute; None where it is absent, empty, or not what its representation allows."""
    try:
        value = dataset.get(keyword)
    except MALFORMED:
        return None
    return None if value is None or value == "" else value


def image_type(dataset: Dataset) -> list[str]:
    """The words of ImageType (PS3.3 C.8.3.1.1.1)."""
    value = value_of(dataset, "ImageType")
    return [value] if isinstance(value, str) else [str(word) for word in value or ()]


def name_of(dataset: Dataset) -> str:
    """How an object is called in a reason: no UID, no patient data."""
    number = value_of(dataset, "InstanceNumber")
    return f"instance {number}" if isinstance(number, int) else "an instance without a number"


def _read(path: Path) -> Dataset:
    try:
        dataset = pydicom.dcmread(path)
        missing = [word for word in ("SOPClassUID", "SOPInstanceUID") if not dataset.get(word)]
        dataset.get("SeriesInstanceUID")
    except _UNREADABLE as error:
        if isinstance(error, OSError) and is_of_the_disk(error):
            raise Unavailable(f"a file cannot be read: {error.strerror}") from error
        raise Rejected(f"a file is not readable DICOM: {type(error).__name__}") from error
    if missing:
        raise Rejected(f"an instance has no {missing[0]}")
    return dataset


def _distinct(datasets: Sequence[Dataset]) -> list[Dataset]:
    """Drop instances that came twice; the same UID with other pixels is never mixed in."""
    kept: dict[str, Dataset] = {}
    for dataset in datasets:
        first = kept.setdefault(str(dataset.SOPInstanceUID), dataset)
        if first is not dataset and _digest(first) != _digest(dataset):
            raise Rejected(f"{name_of(dataset)} came twice with different pixels under one SOPInstanceUID")
    return list(kept.values())


def _digest(dataset: Dataset) -> bytes:
    demand_grey(dataset, name_of(dataset))
    return hashlib.sha256(decode(dataset, name_of(dataset)).tobytes()).digest()


def _demand_image(dataset: Dataset, limits: Limits) -> None:
    demand_grey(dataset, name_of(dataset))
    if "MOSAIC" in image_type(dataset):
        raise Rejected("mosaic images (many slices tiled into one) cannot be taken as a volume")
    if int(dataset.Columns) > limits.columns or int(dataset.Rows) > limits.rows:
        raise Rejected(f"image of {dataset.Columns} × {dataset.Rows} voxels, at most {limits.columns} × {limits.rows} are taken")


def _demand_limits(datasets: Sequence[Dataset], limits: Limits) -> None:
    slices = sum(frame_count(dataset) for dataset in datasets)
    if slices < limits.minimum_slices:
        raise Rejected(f"only {slices} slice{'s' if slices != 1 else ''}, at least {limits.minimum_slices} make a volume")
    if slices > limits.slices:
        raise Rejected(f"{slices} slices, at most {limits.slices} are taken")
    size = sum(decoded_bytes(dataset) for dataset in datasets)
    if size > limits.decoded_bytes:
        raise Rejected(f"{size // 2**20} MiB decoded, at most {limits.decoded_bytes // 2**20} MiB are taken")


def _split(dataset: Dataset) -> Iterator[Frame]:
    """The frames of one object; its pixels are released as soon as they are decoded."""
    stored, padding = decode_with_padding(dataset, name_of(dataset))
    del dataset["PixelData"]
    masks = [None] * len(stored) if padding is None else [mask if mask.any() else None for mask in padding]
    own = value_of(dataset, "PerFrameFunctionalGroupsSequence")
    if own is None and len(stored) == 1:
        yield Frame(dataset, None, (), stored[0], masks[0])
        return
    if own is None or len(own) != len(stored):
        raise Rejected(f"{len(stored)} frames, but {len(own or [])} descriptions of where they lie")
    shared = tuple(value_of(dataset, "SharedFunctionalGroupsSequence") or ())
    for number, (groups, plane, mask) in enumerate(zip(own, stored, masks, strict=True), start=1):
        yield Frame(dataset, number, (groups, *shared), plane, mask)


def _numbers(frames: Sequence[Frame], keyword: str, sequence: str, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    rows = []
    for frame in frames:
        value = frame.find(keyword, sequence)
        try:
            row = [float(number) for number in value]
        except (TypeError, ValueError):
            row = []
        if len(row) != count or not np.all(np.isfinite(row)):
            raise Rejected(f"no usable {keyword} in {name_of(frame.dataset)}")
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(len(frames), count)

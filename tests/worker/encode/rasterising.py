"""An RTSTRUCT and the images it refers to, read with pydicom alone and filled again without a line of the encoder's."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pydicom


@dataclass(frozen=True)
class Image:
    """Where one referenced image lies, by its own headers: LPS, millimetres."""

    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    rows: int
    columns: int

    @property
    def centres(self):
        """Patient position of every pixel's centre, shape (rows, columns, 3)."""
        i, j = np.arange(self.columns), np.arange(self.rows)
        return self.position + j[:, None, None] * self.along_column + i[None, :, None] * self.along_row

    def pixels(self, points):
        """Column and row, fractional, of patient positions."""
        return np.linalg.lstsq(np.stack([self.along_row, self.along_column], axis=1), (points - self.position).T, rcond=None)[0].T


def images_of(datasets) -> dict[tuple[str, int | None], Image]:
    """By SOP Instance UID and frame number."""
    found = {}
    for dataset in datasets:
        groups = dataset.get("PerFrameFunctionalGroupsSequence")
        if groups is None:
            found[str(dataset.SOPInstanceUID), None] = _image(dataset, dataset, dataset, dataset)
            continue
        shared = dataset.SharedFunctionalGroupsSequence[0]
        for number, group in enumerate(groups, start=1):
            parts = (shared.PlaneOrientationSequence[0], shared.PixelMeasuresSequence[0], group.PlanePositionSequence[0])
            found[str(dataset.SOPInstanceUID), number] = _image(dataset, *parts)
    return found


def _image(dataset, orientation, measures, position) -> Image:
    cosines = np.array([float(value) for value in orientation.ImageOrientationPatient]).reshape(2, 3)
    down, across = (float(value) for value in measures.PixelSpacing)
    origin = np.array([float(value) for value in position.ImagePositionPatient])
    return Image(origin, cosines[0] * across, cosines[1] * down, int(dataset.Rows), int(dataset.Columns))


def unzipped(data: bytes) -> list[pydicom.Dataset]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return [pydicom.dcmread(BytesIO(archive.read(name))) for name in sorted(archive.namelist())]


def rasterised(data: bytes, images, name: str) -> dict[tuple[str, int | None], np.ndarray]:
    """The pixels of every image whose centre an ROI's contours enclose: even and odd, which keyholes, XOR and separate parts agree on."""
    dataset = pydicom.dcmread(BytesIO(data))
    (number,) = [item.ROINumber for item in dataset.StructureSetROISequence if item.ROIName == name]
    (drawn,) = [item for item in dataset.ROIContourSequence if item.ReferencedROINumber == number]
    masks = {key: np.zeros((image.rows, image.columns), bool) for key, image in images.items()}
    for contour in drawn.get("ContourSequence", ()):
        (reference,) = contour.ContourImageSequence
        key = (str(reference.ReferencedSOPInstanceUID), reference.get("ReferencedFrameNumber"))
        points = np.array([float(value) for value in contour.ContourData]).reshape(-1, 3)
        assert len(points) == contour.NumberOfContourPoints >= 4
        assert (points[:, 2] == images[key].position[2]).all(), "not in the plane of its image"
        beyond_edge = images[key].pixels(points) % 1.0 - 0.5
        assert np.abs(beyond_edge).max() < 0.005, "not along the edges of pixels"
        masks[key] ^= encloses(points[:, :2], images[key].centres[..., :2])
    return masks


def encloses(polygon: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Count, for each place, the edges that a ray along +x crosses."""
    x, y = places[..., 0], places[..., 1]
    odd = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            odd ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return odd


def expected(images, labels, affine_ras):
    """What a mask is at every pixel's centre, and where that is beyond doubt: no centre on the border of two voxels."""
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_ras)
    masks, certain = {}, {}
    for key, image in images.items():
        index = image.centres @ to_index[:3, :3].T + to_index[:3, 3]
        nearest = np.rint(index).astype(int)
        inside = ((nearest >= 0) & (nearest < labels.shape)).all(axis=-1)
        clipped = np.clip(nearest, 0, np.array(labels.shape) - 1)
        masks[key] = inside * labels[tuple(np.moveaxis(clipped, -1, 0))]
        certain[key] = (np.abs(np.abs(index - nearest) - 0.5) > 2e-3).all(axis=-1)
    return masks, certain


def dice(one, other) -> float:
    common = sum(int((one[key] & other[key]).sum()) for key in one)
    total = sum(int(one[key].sum()) + int(other[key].sum()) for key in one)
    return 2 * common / total if total else 1.0

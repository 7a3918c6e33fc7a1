"""Segmentation objects as dcmqi reads them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK


def dcmqi_segments(data, affine_ras, shape, folder):
    """Masks on the grid of the source, one a segment, in the order of the numbers."""
    images = _converted(data, folder)
    return [_on_grid(image, affine_ras, shape) > 0 for image in images]


def dcmqi_labels(data, affine_ras, shape, folder):
    """The same of a label map, which dcmqi gives as one image."""
    (image,) = _converted(data, folder)
    return _on_grid(image, affine_ras, shape)


def _converted(data, folder):
    binary = Path(pytest.importorskip("dcmqi").__file__).parent / "bin" / "segimage2itkimage"
    (folder / "seg.dcm").write_bytes(data)
    command = [str(binary), "--inputDICOM", str(folder / "seg.dcm"), "--outputDirectory", str(folder), "-p", "seg", "-t", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    files = sorted(folder.glob("seg-*.nrrd"), key=lambda path: int(path.stem.partition("-")[2]))
    return [SimpleITK.ReadImage(str(path)) for path in files]


def _on_grid(image, affine_ras, shape):
    """An ITK image's voxels that are not zero, by their own patient coordinates."""
    values = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    result = np.zeros(shape, values.dtype)
    to_patient = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    index = np.argwhere(values)
    points = index @ to_patient.T + image.GetOrigin()
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_ras)
    result[tuple(np.rint(points @ to_index[:3, :3].T + to_index[:3, 3]).astype(int).T)] = values[tuple(index.T)]
    return result

"""Real scanners' series against the geometry another tool gave them, and the ones that cannot be a volume."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from model.volume import Volume
from service.errors import Rejected
from worker.convert import read_series

FLAIR = [
    "siemens/anatomical/001",
    "siemens/anatomical/001_implicit",
    "philips/anatomical/001",
    "philips/anatomical/001_implicit",
    "hyperfine/anatomical/001",
    "anatomical/001",
    "anatomical/001_implicit",
    "generic/anatomical/001",
    "generic/anatomical/001_implicit",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
]
OTHER_GEOMETRIES = [
    "ge/anatomical/001",
    "ge/anatomical/001_implicit",
    "hitachi/anatomical/001",
    "hitachi/anatomical/001_implicit",
    "generic/anatomical/002_non_isotropic",
    "philips_enhanced/anatomical/001",
    "philips_enhanced/anatomical/001_implicit",
]
REFUSED = {
    "failing/notavolume/001": "two slices at one position",
    "failing/slicecount/001": "only 2 slices, at least 3 make a volume",
    "failing/sliceincrement/001": "gap after slice 3: 10.0 mm, expected 5.0 mm",
    "failing/sliceincrement/002": "gap after slice 3: 1.5 mm",
    "failing/sliceorientation/001": "different orientation",
    "ge/anatomical/001_single_slice": "only 1 slice",
    "ge/fmri/001": "two slices at one position",
    "philips/fmri/001": "two slices at one position",
    "philips_enhanced/dti/001": "several diffusion weightings",
    "philips_enhanced/dti/001_implicit": "several diffusion weightings",
    "philips_enhanced/fmri/001": "two slices at one position",
    "siemens/fmri/001": "mosaic",
    "generic/rgb/001": "colour image",
}


def assert_same_in_patient_space(volume: Volume, truth: nibabel.Nifti1Image) -> None:
    values = np.asanyarray(truth.dataobj)
    values = values.reshape(values.shape[:3])
    assert sorted(values.shape) == sorted(volume.shape)
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    to_truth = np.linalg.inv(truth.affine) @ volume.affine_ras
    there = index @ to_truth[:3, :3].T + to_truth[:3, 3]
    nearest = np.rint(there).astype(int)
    assert np.abs(there - nearest).max() < 1e-4
    assert nearest.min() >= 0
    assert np.all(nearest < values.shape)
    np.testing.assert_allclose(values[tuple(nearest.T)], volume.data.reshape(-1), rtol=1e-6)


@pytest.mark.parametrize("name", [*FLAIR, *OTHER_GEOMETRIES])
def test_every_voxel_lies_where_the_other_tool_puts_it(shared_data: Path, name: str):
    folder = shared_data / "dicom" / "vendors" / name
    series = read_series(sorted(folder.glob("*.dcm")))
    assert_same_in_patient_space(series.volume, nibabel.load(folder.parent / f"{folder.name}_ground_truth.nii.gz"))
    assert [frame.k for frame in series.frames] == list(range(series.volume.shape[2]))
    assert len({(frame.sop_instance_uid, frame.frame_number) for frame in series.frames}) == len(series.frames)
    assert any(flag.startswith("coverage:") for flag in series.quality)  # they are cropped to a few slices


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_volume_is_refused_with_the_reason(shared_data: Path, name: str):
    with pytest.raises(Rejected, match=REFUSED[name]) as caught:
        read_series(sorted((shared_data / "dicom" / "vendors" / name).glob("*.dcm")))
    assert "\n" not in caught.value.reason


def test_a_whole_oblique_2d_series_of_another_vendor_converts(shared_data: Path):
    folder = shared_data / "dicom" / "not_flair" / "papaya_ge_axial_oblique_PD_2d"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in {".dcm", ""})
    series = read_series(files)
    assert series.volume.shape[2] == 20
    assert any(flag.startswith("thick-slices") for flag in series.quality)

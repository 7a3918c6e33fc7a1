"""The structure set in dicompyler-core: its parser, its image coordinates and its filling of contours give the same masks."""

from __future__ import annotations

import importlib
import warnings
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pydicom
import pydicom.dicomio
import pytest

from service.sections import RTStruct
from tests.worker.encode.rasterising import rasterised, unzipped
from tests.worker.encode.test_rtstruct import SHAPE, blobs, case, made
from worker.encode import resampled


@pytest.fixture
def dicompyler(monkeypatch):
    """Version 0.5.6 asks pydicom for a function by the name it had before pydicom 3."""
    monkeypatch.setattr(pydicom.dicomio, "read_file", pydicom.dcmread, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser, filling = (importlib.import_module(f"dicompylercore.{name}") for name in ("dicomparser", "dvhcalc"))
    return SimpleNamespace(parse=parser.DicomParser, fill=filling.get_contour_mask)


def filled(dicompyler, contours, images):
    """The masks of an ROI by SOP Instance UID: dicompyler-core keeps planes by z, and takes contours on one plane together by XOR."""
    masks = {}
    for dataset in images:
        image = dicompyler.parse(dataset)
        across, down = image.GetPatientToPixelLUT()
        grid = {"lut": (across, down), "x_lut_index": image.x_lut_index()}
        places = np.column_stack([axis.ravel() for axis in np.meshgrid(across, down)])
        mask = np.zeros((len(down), len(across)), bool)
        for contour in contours.pop(f"{round(float(dataset.ImagePositionPatient[2]), 2)}0", ()):
            mask ^= dicompyler.fill(grid, 0, places, [point[:2] for point in contour["data"]])
        masks[str(dataset.SOPInstanceUID)] = mask
    assert not contours, "on no plane of an image"
    return masks


@pytest.mark.parametrize(("plane", "holes"), [("axial", "keyhole"), ("sagittal", "xor"), ("sagittal", "keyhole"), ("oblique", "keyhole")])
def test_dicompyler_names_and_fills_the_same(dicompyler, tmp_path, plane, holes):
    """No tolerance: every contour is half a pixel from all centres, so that no pixel is left to the reader's judgement."""
    context = case(tmp_path, plane, labels=blobs(SHAPE, 6, 0.4), chosen=RTStruct(holes=holes))
    data, images = made(context)
    beside = resampled.encode(context)
    assert (beside is None) == (plane == "axial")
    structures = dicompyler.parse(pydicom.dcmread(BytesIO(data)))
    found = {one["name"]: one["id"] for one in structures.GetStructures().values()}
    assert list(found) == ["WMH", "Tumour-like"]
    datasets = unzipped(beside.data) if beside else context.series.datasets
    for name, number in found.items():
        got = filled(dicompyler, structures.GetStructureCoordinates(number), datasets)
        ours = {uid: mask for (uid, _), mask in rasterised(data, images, name).items()}
        assert any(mask.any() for mask in ours.values())
        assert {uid: mask.tolist() for uid, mask in got.items()} == {uid: mask.tolist() for uid, mask in ours.items()}, name

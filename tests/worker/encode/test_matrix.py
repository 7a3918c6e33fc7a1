"""Every kind of source through every kind of object: dciodvfy finds no error, and dcmqi gives the mask back.

What dciodvfy (Debian's, of 2022) does not know yet is apart: label maps in test_segments.py, contours that are holes in test_rtstruct.py.
"""

from __future__ import annotations

import zipfile
from io import BytesIO

import numpy as np
import pydicom
import pytest

from model.volume import Volume
from service.sections import RTStruct, Segmentation
from tests.worker.encode.cases import affine, context_of, series_of, textured
from tests.worker.encode.decoding import dcmqi_segments
from tests.worker.encode.test_objects import PAGE, PICTURE, labels_with
from tests.worker.encode.test_seg import PLANES, errors_of
from worker.encode import capture, document, resampled, rtstruct, seg, sr

EVEN, ODD = (24, 16, 10), (23, 19, 11)  # rows times columns divisible by 8, and not
LESIONS = 12
# plane, spacing in mm, shape, how the series is written, lesions, encoding of the segmentation
CASES = {
    "axial": ("axial", (1.0, 1.0, 3.0), EVEN, {}, LESIONS, "binary"),
    "sagittal": ("sagittal", (1.0, 1.0, 1.0), EVEN, {}, LESIONS, "fractional"),
    "coronal": ("coronal", (0.9, 1.1, 1.3), ODD, {}, LESIONS, "binary"),
    "oblique": ("oblique", (1.0, 1.0, 2.0), ODD, {}, LESIONS, "fractional"),
    "reversed order": ("axial", (1.0, 1.0, 3.0), ODD, {"order": range(ODD[2])[::-1]}, LESIONS, "binary"),
    "anisotropic": ("axial", (0.45, 1.7, 6.0), ODD, {}, LESIONS, "binary"),
    "Enhanced": ("oblique", (1.0, 1.2, 3.0), ODD, {"enhanced": True, "order": (9, 0, 5, 3, 7, 1, 10, 2, 8, 4, 6)}, LESIONS, "binary"),
    "no lesion": ("axial", (1.0, 1.0, 3.0), ODD, {}, 0, "binary"),
    "300 lesions": ("axial", (1.0, 1.2, 3.0), (66, 60, 10), {}, 300, "binary"),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    plane, spacing, shape, written, lesions, encoding = CASES[request.param]
    series = series_of(Volume(textured(shape), affine(PLANES[plane], spacing)), tmp_path_factory.mktemp("in"), **written)
    labels = labels_with(lesions, series.volume.shape, tumour=lesions > 0)
    # highdicom's own pixels without a brain, ours with one
    chosen = Segmentation(encoding=encoding, lesion_segments=3, brain=request.param in {"sagittal", "coronal", "Enhanced", "300 lesions"})
    certain = (labels == 1).astype(np.float32)
    return context_of(series, labels, probability=certain, segmentation=chosen, rtstruct=RTStruct(lesion_rois=3))


@pytest.fixture(scope="module")
def objects(case):
    made = [seg.encode(case), sr.encode(case), rtstruct.encode(case), document.encode(case, PAGE), capture.encode(case, PICTURE)]
    found = {output.kind: output.data for output in made}
    if beside := resampled.encode(case):
        with zipfile.ZipFile(BytesIO(beside.data)) as archive:
            found["resampled"] = archive.read(archive.namelist()[len(archive.namelist()) // 2])
    return found


def test_dciodvfy_finds_no_error(peer, objects, tmp_path):
    found = {kind: errors_of(peer("dciodvfy"), data, tmp_path) for kind, data in objects.items()}
    assert found == {kind: [] for kind in objects}


def test_dcmqi_gives_back_the_identical_mask(case, objects, tmp_path):
    masks = dcmqi_segments(objects["segmentation"], case.volume.affine_ras, case.volume.shape, tmp_path)
    segments = pydicom.dcmread(BytesIO(objects["segmentation"])).SegmentSequence
    assert len(masks) == len(segments)
    by_code = {"110702": case.masks.labels == 1, "52988006": case.masks.labels == 2}
    if case.segments.brain is not None:
        by_code["12738006"] = case.masks.brain
    together = {code: np.zeros(case.volume.shape, int) for code in by_code}
    for segment, mask in zip(segments, masks, strict=True):
        together[segment.SegmentedPropertyTypeCodeSequence[0].CodeValue] += mask
    assert all(np.array_equal(together[code], mask) for code, mask in by_code.items())

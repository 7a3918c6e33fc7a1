"""What all objects of a case share: a block of Series Numbers, and codes that the conformance statement names."""

from __future__ import annotations

import zipfile
from io import BytesIO

import pydicom
import pytest

from model.volume import Volume
from service.sections import Segmentation
from tests.service.test_conformance import rows
from tests.worker.encode.cases import affine, context_of, series_of, textured
from tests.worker.encode.test_objects import PAGE, PICTURE, labels_with
from tests.worker.encode.test_seg import PLANES
from worker.encode import capture, document, resampled, rtstruct, seg, sr

SHAPE = (24, 19, 11)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """One of every kind, of the segmentation with the most codes."""
    series = series_of(Volume(textured(SHAPE), affine(PLANES["oblique"], (1.0, 1.2, 3.0))), tmp_path_factory.mktemp("in"))
    chosen = Segmentation(encoding="labelmap", lesion_segments=2, brain=True)
    context = context_of(series, labels_with(9, SHAPE, tumour=True), segmentation=chosen, series_shift=30)
    made = [
        seg.encode(context),
        sr.encode(context),
        rtstruct.encode(context),
        document.encode(context, PAGE),
        capture.encode(context, PICTURE),
    ]
    beside = zipfile.ZipFile(BytesIO(resampled.encode(context).data)).read("0001.dcm")
    return [pydicom.dcmread(BytesIO(data)) for data in (*(output.data for output in made), beside)]


def test_series_numbers_are_moved_on_together(objects):
    assert [dataset.SeriesNumber for dataset in objects] == [9130, 9131, 9132, 9133, 9134, 9135]


def test_the_conformance_statement_names_every_code(objects):
    assert set().union(*map(codes_in, objects)) == {tuple(row) for row in rows("### 12.4 ")}


def codes_in(dataset):
    found = {(str(dataset.CodeValue), dataset.CodingSchemeDesignator, dataset.CodeMeaning)} if "CodeValue" in dataset else set()
    return found.union(*(codes_in(item) for element in dataset if element.VR == "SQ" for item in element.value))

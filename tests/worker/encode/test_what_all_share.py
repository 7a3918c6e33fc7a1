"""What all objects of a case share: a block of Series Numbers, and codes that the conformance statement names."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import pydicom
import pytest

from model.volume import Volume
from service.headers import read_file
from service.rejecting import TITLES
from service.sections import Segmentation
from tests.service.test_conformance import rows
from tests.worker.encode.cases import affine, context_of, series_of, textured
from tests.worker.encode.test_objects import PAGE, PICTURE, labels_with
from tests.worker.encode.test_seg import PLANES
from worker.encode import Corrected, capture, document, resampled, rtstruct, seg, sr
from worker.rejection import encode_note

SHAPE = (24, 19, 11)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """The segmentation with the most codes."""
    series = series_of(Volume(textured(SHAPE), affine(PLANES["oblique"], (1.0, 1.2, 3.0))), tmp_path_factory.mktemp("in"))
    chosen = Segmentation(encoding="labelmap", lesion_segments=2, brain=True)
    return context_of(series, labels_with(9, SHAPE, tumour=True), segmentation=chosen, series_shift=30)


@pytest.fixture(scope="module")
def objects(context):
    """One of every kind."""
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


def test_each_is_known_as_ours_when_it_comes_back(objects):
    for dataset in objects:
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        buffer.seek(0)
        assert read_file(buffer)[0].made_here, dataset.Modality


@pytest.fixture(scope="module")
def notes(objects):
    return [encode_note(objects[:5], title) for title in TITLES]


def test_a_rejection_note_has_the_last_number_of_the_block(notes):
    assert {note.SeriesNumber for note in notes} == {9139}


def test_the_conformance_statement_names_every_code(context, objects, notes):
    corrected = Corrected("A. Reader", datetime(2026, 3, 4, tzinfo=UTC), 1, "c" * 64, "MANUAL", context.masks, context.findings)
    by_reader = pydicom.dcmread(BytesIO(sr.encode(replace(context, corrected=corrected)).data))
    assert set().union(*map(codes_in, [*objects, by_reader, *notes])) == {tuple(row) for row in rows("## 12 ")}


def codes_in(dataset):
    found = {(str(dataset.CodeValue), dataset.CodingSchemeDesignator, dataset.CodeMeaning)} if "CodeValue" in dataset else set()
    return found.union(*(codes_in(item) for element in dataset if element.VR == "SQ" for item in element.value))

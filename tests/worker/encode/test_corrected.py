"""What every output says where a reader corrected the mask: whose it is, and what the release itself had found."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from model.volume import Volume
from service.sections import Segmentation
from tests.worker.encode.cases import CARD, RELEASE, affine, context_of, masks_of, series_of, textured
from tests.worker.encode.test_objects import errors_in, labels_with, read, said
from tests.worker.encode.test_seg import PLANES
from worker import measure, pipeline
from worker.corrections import NOT_CORRECTED, read_corrections
from worker.encode import Corrected, capture, document, encode_all, pdf, preview, report_json, rtstruct, seg, sr
from worker.encode.nifti import encode as as_nifti
from worker.encode.wording import series_description
from worker.reader_mask import Correction

AT = datetime(2026, 3, 4, 9, 5, 6, tzinfo=UTC)
SENTENCE = "The mask was corrected by Ada Réader on 2026-03-04 at 09:05 UTC. The release itself found "


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return series_of(
        Volume(textured(labels_with(0).shape), affine(PLANES["axial"], (1.0, 1.2, 3.0))), tmp_path_factory.mktemp("corrected") / "in"
    )


@pytest.fixture(scope="module")
def corrected(series):
    """Make a context whose mask is a reader's, with 5 lesions or as many as asked for, where the release had found 9."""

    def make(algorithm="MANUAL", count=5):
        own = masks_of(labels_with(9, tumour=True))
        context = context_of(series, labels_with(count, tumour=count > 0))
        found = measure.measure(own, series.volume, CARD)
        return replace(context, corrected=Corrected("Ada Réader", AT, 1, "c" * 64, algorithm, own, found))

    return make


def objects_of(context):
    """The DICOM objects; capture and document take a small picture and a short page."""
    picture, page = preview.encode(context), pdf.encode(context)
    made = (seg.encode(context), sr.encode(context), rtstruct.encode(context), capture.encode(context, picture))
    return {output.kind: output for output in (*made, document.encode(context, page))}


@pytest.mark.parametrize(("algorithm", "count"), [("MANUAL", 5), ("SEMIAUTOMATIC", 5), ("MANUAL", 0)])
def test_dciodvfy_finds_no_error(peer, tmp_path, corrected, algorithm, count):
    assert errors_in(objects_of(corrected(algorithm, count)), peer("dciodvfy"), tmp_path) == {}


@pytest.mark.parametrize("algorithm", ["MANUAL", "SEMIAUTOMATIC"])
def test_objects_say_who_made_the_mask_and_how(corrected, algorithm):
    found = {kind: read(output) for kind, output in objects_of(corrected(algorithm)).items()}
    assert {str(dataset.SeriesDescription) for dataset in found.values()} == {"Leukoscope WMH 0.1.0 corrected by reader"}
    segmentation, structures = found["segmentation"], found["rtstruct"]
    assert str(segmentation.ContentCreatorName) == "Ada Réader^"
    assert segmentation.ContentDescription.endswith(", corrected by a reader")
    for segment in segmentation.SegmentSequence:
        assert segment.SegmentAlgorithmType == algorithm
        assert ("SegmentAlgorithmName" in segment) is (algorithm != "MANUAL")
    for roi in structures.StructureSetROISequence:
        assert (roi.ROIGenerationAlgorithm, roi.ROIGenerationDescription) == (algorithm, "corrected by a reader")
    assert {str(one.ROIInterpreter) for one in structures.RTROIObservationsSequence} == {"Ada Réader^"}
    assert SENTENCE in found["preview.dcm"].ImageComments


def test_the_reader_is_an_observer_of_the_report_and_verified_nothing_by_that(corrected):
    output = sr.encode(corrected())
    dataset = read(output)
    assert (dataset.VerificationFlag, "VerifyingObserverSequence" in dataset) == ("UNVERIFIED", False)
    types = [
        item.ConceptCodeSequence[0].CodeValue
        for item in dataset.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Observer Type"
    ]
    assert types == ["121006", "121007"]  # Person, Device
    (name,) = [item.PersonName for item in dataset.ContentSequence if "PersonName" in item]
    assert str(name) == "Ada Réader^"
    texts = said(output)
    assert [text for what, text in texts if what == "Algorithm Name"] == ["Leukoscope WMH test"], "of the brain only"
    own = corrected().corrected.findings
    counted = f"{own.lesion_volume_ml:.2f} ml in 9 lesions, and {own.tumour_like_volume_ml:.2f} ml tumour-like."
    assert ("Comment", SENTENCE + counted) in texts


@pytest.mark.parametrize(
    ("reader", "written"),
    [("x" * 60, "x" * 60 + "^"), ("Réader^Ada^^Dr", "Réader^Ada^^Dr"), ("a^b^c^d^e^f", "a b c d e f^"), ("山田 太郎", "山田 太郎^")],
)
def test_every_name_that_is_taken_can_be_written(corrected, reader, written):
    context = corrected()
    context = replace(context, corrected=replace(context.corrected, reader=reader))
    assert str(read(seg.encode(context)).ContentCreatorName) == written
    assert any(str(item.get("PersonName", "")) == written for item in read(sr.encode(context)).ContentSequence)


def test_the_json_has_both_and_the_estimates_stay_the_releases(corrected):
    context = corrected()
    report = json.loads(report_json.encode(context).data)
    own = context.corrected.findings
    correction = report["correction"]
    assert (correction["reader"], correction["at"], correction["revision"], correction["made"]) == (
        "Ada Réader",
        "2026-03-04T09:05:06+00:00",
        1,
        "MANUAL",
    )
    assert (report["findings"]["lesion_count"], correction["release_lesion_count"]) == (5, 9)
    assert report["volume_estimates"]["by_threshold_ml"] == own.lesion_volume_ml != report["findings"]["lesion_volume_ml"]
    assert json.loads(report_json.encode(replace(context, corrected=None)).data)["correction"] is None


def test_page_and_picture_say_so(peer, tmp_path, corrected):
    context = corrected()
    (tmp_path / "report.pdf").write_bytes(pdf.encode(context).data)
    command = [peer("pdftotext"), "-layout", "-enc", "UTF-8", str(tmp_path / "report.pdf"), "-"]
    text = " ".join(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.decode().split())
    assert SENTENCE in text
    assert "mask corrected by a reader, report not verified" in text
    assert "component of the reader's mask, whatever its size" in text
    assert "computed by AI" not in text
    with_reader, without = (preview.encode(one).data for one in (context, replace(context, corrected=None)))
    assert with_reader != without


def test_the_same_correction_gives_the_same_bytes_and_descriptions_fit(corrected):
    first, second = ({output.kind: output.data for output in encode_all(corrected())} for _ in range(2))
    assert first == second
    assert len(series_description("123.456.789-very-long.0", corrected=True)) <= 64
    assert np.array_equal(corrected().masks.labels, labels_with(5, tumour=True))


@pytest.fixture(scope="module")
def placed(series, tmp_path_factory):
    """Put a reader's mask where the release found nothing, one voxel of it outside of the brain."""
    own = masks_of(labels_with(0), brain=labels_with(5) == 0)
    path = tmp_path_factory.mktemp("mask") / "mask.nii.gz"
    path.write_bytes(as_nifti(context_of(series, labels_with(5))).data)
    seen = frozenset(frame.sop_instance_uid for frame in series.frames)
    found = pipeline.Found(own, measure.measure(own, series.volume, CARD), ())
    return pipeline.correct(found, Correction(path, "c" * 64, "Ada Réader", AT, 1, seen), series, RELEASE)


def test_a_fractional_object_holds_the_readers_mask_and_not_the_releases_probability(series, placed):
    found, corrected = placed
    how = {"segmentation": Segmentation(encoding="fractional", brain=True), "probability": found.masks.lesion_probability}
    context = replace(context_of(series, found.masks.labels, brain=found.masks.brain, **how), corrected=corrected)
    dataset = read(seg.encode(context))
    planes = [
        plane.astype(np.uint8).tobytes()
        for group, plane in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True)
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 1
    ]
    drawn = np.where(labels_with(5) == 1, np.uint8(255), np.uint8(0))
    assert sorted(planes) == sorted(drawn[..., k].T.tobytes() for k in range(drawn.shape[2]))
    assert [item.SegmentAlgorithmType for item in dataset.SegmentSequence] == ["SEMIAUTOMATIC", "AUTOMATIC"], "the brain is the release's"
    assert {"a mask, no probability" in item.SegmentDescription for item in dataset.SegmentSequence} == {True}


def test_an_object_of_ours_with_the_brain_beside_a_readers_lesions_is_a_correction(series, placed, tmp_path):
    found, corrected = placed
    source = tmp_path / "in"
    context = context_of(series_of(series.volume, source), found.masks.labels, segmentation=Segmentation(brain=True, lesion_segments=3))
    for name, reader in (("corrected", corrected), ("own", None)):
        (source / "mask.dcm").write_bytes(seg.encode(replace(context, corrected=reader)).data)
        manifest = read_corrections(source, tmp_path / name).read_text(encoding="utf-8")
        assert (NOT_CORRECTED in manifest) is (reader is None)
        assert ("by Ada Réader" in manifest) is (reader is not None)

"""The structured report, the encapsulated page and the captured picture, against readers and checkers that nobody here wrote."""

from __future__ import annotations

import json
import re
import subprocess
from io import BytesIO
from pathlib import Path
from typing import get_args

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.sr.codedict import codes

from model.volume import Volume
from service.api.status import FACES
from service.sendable import DEFAULT, Sendable
from tests.provider import CLASSES
from tests.worker.encode.cases import VENDORS, affine, context_of, series_of, textured, vendor_series
from tests.worker.encode.test_seg import PLANES, errors_of
from worker.encode import Output, capture, document, encode_all, report_json, sr
from worker.encode.wording import HEADLINE_UNCONFIRMED, NONE_FOUND, STATEMENT

SHAPE = (26, 24, 15)
NEW = ("structured-report", "report.dcm", "preview.dcm")
QUALITY = ("thick-slices: 3.0 mm, volumes ≥ 10 mm³ are uncertain",)


def labels_with(count, shape=SHAPE, tumour=False):
    """`count` lesions of different sizes, apart from each other; the first ones are the largest."""
    labels = np.zeros(shape, np.uint8)
    places = [(i, j, k) for k in range(1, shape[2] - 2, 4) for j in range(1, shape[1] - 3, 4) for i in range(1, shape[0] - 3, 4)]
    for number, (i, j, k) in enumerate(places[:count]):
        labels[i : i + 2, j : j + 2, k] = 1
        labels[i, j, k + 1] = number % 3 == 0
    if tumour:
        labels[-3:, -3:, -3:] = 2
    return labels


def case(folder, labels, plane="axial", **options):
    volume = Volume(textured(labels.shape), affine(PLANES[plane], (1.0, 1.2, 3.0)))
    return context_of(series_of(volume, folder, **options), labels, quality=QUALITY)


_PNG = BytesIO()
Image.new("RGB", (5, 3), (9, 8, 7)).save(_PNG, "PNG")
PICTURE = Output("preview.png", "image/png", "preview.png", _PNG.getvalue())
PAGE = Output("report.pdf", "application/pdf", "report.pdf", b"%PDF-1.4 short")


def made(context):
    """The three objects around a short page and a small picture: drawing them takes longer than all the rest."""
    return {output.kind: output for output in (sr.encode(context), document.encode(context, PAGE), capture.encode(context, PICTURE))}


def errors_in(found, program, folder):
    """What dciodvfy calls an error, by output; empty where it finds none."""
    complaints = {kind: errors_of(program, output.data, folder) for kind, output in found.items()}
    return {kind: errors for kind, errors in complaints.items() if errors}


def read(output):
    return pydicom.dcmread(BytesIO(output.data))


def report_of(output):
    return highdicom.sr.srread(BytesIO(output.data)).content


def numbers(group):
    return [
        (one.name.value, one.value, one.unit.value, one.derivation.meaning if one.derivation else "") for one in group.get_measurements()
    ]


def said(output):
    """Every text of the report with its concept's meaning."""
    items = highdicom.sr.utils.find_content_items(read(output), value_type="TEXT", recursive=True)
    return [(item.ConceptNameCodeSequence[0].CodeMeaning, item.TextValue) for item in items]


def uids_in(items):
    return {str(item.ReferencedSOPInstanceUID) for item in items}


def uids_of(context):
    return {str(dataset.SOPInstanceUID) for dataset in context.series.datasets}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return case(tmp_path_factory.mktemp("in"), labels_with(17, tumour=True))


@pytest.fixture(scope="module")
def outputs(context):
    return {output.kind: output for output in encode_all(context)}


@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("count", [0, 5])
def test_dciodvfy_finds_no_error(peer, tmp_path, plane, enhanced, count):
    found = made(case(tmp_path / "in", labels_with(count, tumour=count > 0), plane, enhanced=enhanced))
    assert errors_in(found, peer("dciodvfy"), tmp_path) == {}


@pytest.mark.parametrize("folder", VENDORS)
def test_real_headers_give_valid_objects(peer, shared_data, tmp_path, folder):
    """Needs ../shared/data: series as vendors write them, with their mistakes."""
    series = vendor_series(shared_data, folder)
    found = made(context_of(series, labels_with(9, series.volume.shape, tumour=True)))
    assert errors_in(found, peer("dciodvfy"), tmp_path) == {}


def test_every_object_says_whose_it_is_and_who_made_it(context, outputs):
    expected = {"segmentation": ("SEG", 9100), "structured-report": ("SR", 9101), "rtstruct": ("RTSTRUCT", 9102)}
    expected |= {"report.dcm": ("DOC", 9103), "preview.dcm": ("OT", 9104)}
    datasets = {kind: read(outputs[kind]) for kind in expected}
    assert {kind: (dataset.Modality, dataset.SeriesNumber) for kind, dataset in datasets.items()} == expected
    assert len({dataset.SeriesInstanceUID for dataset in datasets.values()}) == len(datasets)
    source, reference = context.series.datasets[0], datasets.pop("segmentation")
    for kind, dataset in datasets.items():
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert dataset.SeriesDescription == "Leukoscope WMH 0.1.0 AI - unverified"
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyDescription"):
            assert dataset.get(keyword) == source.get(keyword), keyword
        dated = () if kind == "rtstruct" else ("ContentDate", "ContentTime")
        for keyword in (*dated, "SoftwareVersions", "DeviceSerialNumber", "ContributingEquipmentSequence"):
            assert dataset[keyword] == reference[keyword], keyword
        assert "InstanceCreationDate" not in dataset
        assert "ab" * 32 in str(dataset.ContributingEquipmentSequence)


def test_what_the_source_got_wrong_is_blank_and_every_charset_survives(peer, tmp_path):
    headers = {"PatientSex": "0000", "StudyDate": "20250231", "PatientName": "Müller^Zoë≥", "SpecificCharacterSet": "ISO_IR 192"}
    found = made(case(tmp_path / "in", labels_with(2), headers=headers))
    for kind in NEW:
        dataset = read(found[kind])
        assert (dataset.PatientSex, dataset.StudyDate, str(dataset.PatientName)) == ("", "", "Müller^Zoë≥")
    assert errors_in(found, peer("dciodvfy"), tmp_path) == {}
    assert any("PatientSex" in text for _, text in said(found["structured-report"]))


def test_the_report_has_every_lesion_with_its_volume_segment_and_series(context, outputs):
    groups = report_of(outputs["structured-report"]).get_volumetric_roi_measurement_groups()
    expected = [*context.findings.lesions, *context.findings.tumour_like]
    assert len(groups) == len(expected) == 18
    assert [group.tracking_identifier for group in groups] == [f"Leukoscope {one.kind} {one.number}" for one in expected]
    assert len({group.tracking_uid for group in groups}) == len(groups)
    dataset = read(outputs["segmentation"])
    for group, lesion in zip(groups, expected, strict=True):
        assert numbers(group) == [("118565006", pytest.approx(lesion.volume_ml * 1000, abs=0.05), "mm3", "")]
        tumour_like = lesion.kind == "tumour-like"
        assert group.finding_type == (codes.SCT.Lesion if tumour_like else codes.DCM.WhiteMatterT2Hyperintensity)
        (site,) = group.finding_sites
        assert (site.laterality.meaning.lower() if site.laterality else "midline") == lesion.side
        segment, source = group.referenced_segment
        item = segment.ReferencedSOPSequence[0]
        assert (item.ReferencedSOPInstanceUID, item.ReferencedSegmentNumber) == (dataset.SOPInstanceUID, 2 if tumour_like else 1)
        assert str(context.series.datasets[0].SeriesInstanceUID) == source.UID
    assert {one.side for one in expected} > {"left", "right"}, "groups are repeated by side: the case must have several"


def test_totals_agree_with_the_json(context, outputs):
    found = json.loads(report_json.encode(context).data)["findings"]
    total, lesions, tumour_like, brain = report_of(outputs["structured-report"]).get_image_measurement_groups()

    def mm3(key):
        return pytest.approx(found[key] * 1000, abs=0.1)

    assert numbers(total) == [("118565006", mm3("total_hyperintensity_ml"), "mm3", "Total")]
    assert numbers(lesions) == [
        ("246206008", found["lesion_count"], "1", ""),
        ("118565006", mm3("lesion_volume_ml"), "mm3", "Total"),
        ("118565006", mm3("largest_lesion_ml"), "mm3", "Maximum"),
    ]
    assert numbers(tumour_like) == [
        ("246206008", found["tumour_like_count"], "1", ""),
        ("118565006", mm3("tumour_like_volume_ml"), "mm3", "Total"),
    ]
    assert numbers(brain) == [("118565006", mm3("brain_volume_ml"), "mm3", "")]
    assert total.tracking_identifier == f"Leukoscope {HEADLINE_UNCONFIRMED}"


def test_the_report_says_what_it_is_who_made_it_and_what_limits_it(outputs):
    dataset = read(outputs["structured-report"])
    assert (dataset.VerificationFlag, dataset.CompletionFlag, dataset.PreliminaryFlag) == ("UNVERIFIED", "COMPLETE", "PRELIMINARY")
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    texts = said(outputs["structured-report"])
    comments = [text for name, text in texts if name == "Comment"]
    assert comments[0] == STATEMENT
    assert "No irradiated patient" in comments[1]
    assert comments[2].startswith(HEADLINE_UNCONFIRMED)
    assert "Thick slices: 3.0 mm, volumes ≥ 10 mm³ are uncertain." in comments
    assert any(text.startswith("Tumour-like 1: at the edge") for text in comments)
    assert NONE_FOUND not in comments
    groups = 4 + 18
    assert [text for name, text in texts if name == "Algorithm Name"] == ["Leukoscope WMH test"] * groups
    assert [text for name, text in texts if name == "Algorithm Version"] == ["0.0.1"] * groups
    assert f"sha256 {'ab' * 32}" in {text for name, text in texts if name == "Algorithm Parameters"}


def test_none_found_is_said_and_the_empty_segmentation_is_no_evidence(tmp_path):
    context = case(tmp_path / "in", labels_with(0))
    output = sr.encode(context)
    report = report_of(output)
    assert report.get_volumetric_roi_measurement_groups() == []
    assert numbers(report.get_image_measurement_groups()[1])[:2] == [("246206008", 0, "1", ""), ("118565006", 0, "mm3", "Total")]
    assert ("Finding", NONE_FOUND) in said(output)
    assert context.identity.uid("segmentation") not in str(read(output))


def test_the_evidence_is_the_source_and_the_segmentation(context, outputs):
    (study,) = read(outputs["structured-report"]).CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == context.series.datasets[0].StudyInstanceUID
    named = {str(series.SeriesInstanceUID): uids_in(series.ReferencedSOPSequence) for series in study.ReferencedSeriesSequence}
    segmentation = read(outputs["segmentation"])
    assert named == {
        str(context.series.datasets[0].SeriesInstanceUID): uids_of(context),
        str(segmentation.SeriesInstanceUID): {str(segmentation.SOPInstanceUID)},
    }


def test_three_hundred_lesions(peer, tmp_path):
    output = sr.encode(case(tmp_path / "in", labels_with(300, (66, 60, 10), tumour=True)))
    (tmp_path / "sr.dcm").write_bytes(output.data)
    told = subprocess.run([peer("dsrdump"), "+Pl", str(tmp_path / "sr.dcm")], capture_output=True, text=True, timeout=60).stdout
    assert len(set(re.findall(r'"Tracking Unique Identifier"\)="([\d.]+)"', told))) == 4 + 301
    assert told.count('"Referenced Segment")=(SG image,,1)') == 300
    assert errors_of(peer("dciodvfy"), output.data, tmp_path) == []


def test_dcmtk_reads_the_report(peer, tmp_path, outputs):
    (tmp_path / "sr.dcm").write_bytes(outputs["structured-report"].data)
    told = subprocess.run([peer("dsrdump"), "+Pl", "+Pc", str(tmp_path / "sr.dcm")], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0
    assert [line for line in told.stderr.splitlines() if line.startswith(("E:", "F:"))] == []
    assert told.stdout.count('(118565006,SCT,"Volume")') == 18 + 5
    assert STATEMENT in told.stdout


def test_dcmqi_reads_the_report(context, tmp_path, outputs):
    binary = Path(pytest.importorskip("dcmqi").__file__).parent / "bin" / "tid1500reader"
    (tmp_path / "sr.dcm").write_bytes(outputs["structured-report"].data)
    command = [str(binary), "--inputDICOM", str(tmp_path / "sr.dcm"), "--outputMetadata", str(tmp_path / "sr.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    lesions = [group for group in groups if "ReferencedSegment" in group]
    volumes = [float(group["measurementItems"][0]["value"]) for group in lesions]
    assert volumes == pytest.approx([one.volume_ml * 1000 for one in (*context.findings.lesions, *context.findings.tumour_like)], abs=0.05)


def test_the_page_in_the_object_is_the_page(peer, tmp_path, context, outputs):
    (tmp_path / "report.dcm").write_bytes(outputs["report.dcm"].data)
    subprocess.run([peer("dcm2pdf"), str(tmp_path / "report.dcm"), str(tmp_path / "report.pdf")], check=True, timeout=60)
    assert (tmp_path / "report.pdf").read_bytes() == outputs["report.pdf"].data
    dataset = read(outputs["report.dcm"])
    marks = (dataset.MIMETypeOfEncapsulatedDocument, dataset.BurnedInAnnotation, dataset.VerificationFlag)
    assert marks == ("application/pdf", "YES", "UNVERIFIED")
    assert uids_in(dataset.SourceInstanceSequence) == uids_of(context)


def test_a_page_of_odd_length_is_padded_and_says_its_length(context):
    dataset = read(document.encode(context, Output("report.pdf", "application/pdf", "report.pdf", b"%PDF-12")))
    assert (dataset.EncapsulatedDocument, dataset.EncapsulatedDocumentLength) == (b"%PDF-12\0", 7)


def test_the_captured_picture_is_the_preview(context, outputs):
    dataset = read(outputs["preview.dcm"])
    assert uids_in(dataset.SourceImageSequence) == uids_of(context)
    assert np.array_equal(dataset.pixel_array, np.asarray(Image.open(BytesIO(outputs["preview.png"].data)).convert("RGB")))
    assert list(dataset.PatientOrientation) == ["L", "P"]
    assert dataset.ImageComments.startswith(STATEMENT)
    assert "≥ 10 mm³" in dataset.ImageComments


@pytest.mark.parametrize("enhanced", [False, True])
def test_the_same_case_gives_the_same_bytes(tmp_path, enhanced):
    one, two = (made(case(tmp_path / name, labels_with(6, tumour=True), enhanced=enhanced)) for name in ("one", "two"))
    assert {kind: one[kind].data == two[kind].data for kind in NEW} == dict.fromkeys(NEW, True)
    other = made(case(tmp_path / "three", labels_with(7, tumour=True), enhanced=enhanced))
    assert all(other[kind].sop_instance_uid != one[kind].sop_instance_uid for kind in NEW)


def test_what_can_be_sent_is_what_is_a_dicom_object_and_has_an_address(outputs):
    objects = {kind: output.sop_class_uid for kind, output in outputs.items() if output.media_type == "application/dicom"}
    assert objects == CLASSES
    assert set(get_args(Sendable)) == set(objects) >= set(DEFAULT)
    made_here = {(output.kind, output.media_type, output.filename) for output in outputs.values()}
    beside = ("resampled.zip", "application/zip", "resampled.zip")  # not where the scan is axial, as here
    assert {(face.name, face.media_type, face.filename) for face in FACES} == made_here | {beside}

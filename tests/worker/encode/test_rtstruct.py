"""The structure set, on the source's slices or on the series beside it: the mask comes back, and validators are content."""

from __future__ import annotations

import os
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from model.volume import Volume
from service.sections import RTStruct
from tests.worker.encode.cases import VENDORS, affine, context_of, series_of, textured, turned, vendor_series
from tests.worker.encode.rasterising import dice, expected, images_of, rasterised, unzipped
from tests.worker.encode.test_seg import ANGLES, PLANES, SPACINGS, errors_of
from worker.encode import resampled, rtstruct
from worker.encode.wording import NONE_FOUND, STATEMENT

SHAPE = (17, 19, 13)
EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "12"))
# Debian's dciodvfy is older than this value (PS3.3 C.8.8.6.1)
UNKNOWN_TO_DCIODVFY = "Error - Unrecognized enumerated value <CLOSEDPLANAR_XOR> for value 1 of attribute <Contour Geometric Type>"


def blobs(shape, seed=1, share=0.3):
    """Lesions with holes and islands, lone voxels, corners that touch, all faces; and one tumour-like part."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random(shape), 0.8)
    labels = (noise > np.quantile(noise, 1 - share)).astype(np.uint8)
    labels[rng.random(shape) > 0.98] ^= 1
    labels[2:6, 2:7, 1:4] = 2
    return labels


def made(context):
    """The structure set's bytes, and the images it refers to."""
    beside = resampled.encode(context)
    images = images_of(unzipped(beside.data) if beside else context.series.datasets)
    return rtstruct.encode(context).data, images


def case(folder, plane="axial", spacing=(0.9, 1.1, 1.6), shape=SHAPE, labels=None, chosen=RTStruct(), **options):
    series = series_of(Volume(textured(shape), affine(PLANES[plane], spacing)), folder / "in", **options)
    return context_of(series, blobs(series.volume.shape) if labels is None else labels, rtstruct=chosen)


def assert_comes_back(context, data, images):
    """Every pixel is as the mask at its centre; a lesion in which no pixel has its centre may have one pixel all the same."""
    for value, name in ((1, "WMH"), (2, "Tumour-like")):
        numbers, count = ndimage.label(context.masks.labels == value, np.ones((3, 3, 3)))
        want, certain = expected(images, numbers, context.volume.affine_ras)
        met = set(np.unique(np.stack(list(want.values()))).tolist()) - {0}
        got = rasterised(data, images, name)
        lost = sum(int((~got[key] & (want[key] > 0) & certain[key]).sum()) for key in want)
        added = sum(int((got[key] & (want[key] == 0) & certain[key]).sum()) for key in want)
        assert lost == 0
        assert added <= count - len(met)
        if added == 0:
            assert dice({key: mask > 0 for key, mask in want.items()}, got) >= 0.99


@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("plane", PLANES)
def test_dciodvfy_finds_no_error_and_the_mask_comes_back(peer, tmp_path, plane, enhanced):
    context = case(tmp_path, plane, enhanced=enhanced, chosen=RTStruct(lesion_rois=3))
    data, images = made(context)
    assert errors_of(peer("dciodvfy"), data, tmp_path) == []
    assert_comes_back(context, data, images)
    beside = resampled.encode(context)
    assert (beside is None) == (plane == "axial")
    for image in unzipped(beside.data)[::9] if beside else ():
        buffer = BytesIO()
        image.save_as(buffer)
        assert errors_of(peer("dciodvfy"), buffer.getvalue(), tmp_path) == []


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_xor_marks_holes_as_the_standard_says(peer, tmp_path, plane):
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:14, 4:15, 1:12] = 1
    labels[6:11, 7:12, 4:9] = 0
    context = case(tmp_path, plane, spacing=(1, 1, 1), labels=labels, chosen=RTStruct(holes="xor"))
    data, images = made(context)
    assert set(errors_of(peer("dciodvfy"), data, tmp_path)) == {UNKNOWN_TO_DCIODVFY}
    want, _ = expected(images, labels == 1, context.volume.affine_ras)
    assert dice(want, rasterised(data, images, "WMH")) == 1.0
    contours = pydicom.dcmread(BytesIO(data)).ROIContourSequence[0].ContourSequence
    assert {contour.ContourGeometricType for contour in contours} == {"CLOSEDPLANAR_XOR"}
    assert len(contours) == 11 + 5
    keyholes, _ = made(case(tmp_path / "keyhole", plane, spacing=(1, 1, 1), labels=labels))
    contours = pydicom.dcmread(BytesIO(keyholes)).ROIContourSequence[0].ContourSequence
    assert {contour.ContourGeometricType for contour in contours} == {"CLOSED_PLANAR"}
    assert len(contours) == 11
    without = case(tmp_path / "without", plane, labels=(labels > 0) & (np.indices(SHAPE)[0] > 12), chosen=RTStruct(holes="xor"))
    contours = pydicom.dcmread(BytesIO(made(without)[0])).ROIContourSequence[0].ContourSequence
    assert {contour.ContourGeometricType for contour in contours} == {"CLOSED_PLANAR"}, "every reader knows this one"


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    angles=st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(ANGLES, ANGLES, ANGLES)),
    spacing=st.tuples(SPACINGS, SPACINGS, SPACINGS),
    shape=st.tuples(st.integers(7, 19), st.integers(8, 19), st.integers(5, 12)),
    enhanced=st.booleans(),
    holes=st.sampled_from(["keyhole", "xor"]),
    seed=st.integers(0, 1000),
)
def test_any_grid_comes_back_from_transverse_planes(tmp_path_factory, axes, signs, angles, spacing, shape, enhanced, holes, seed):
    volume = Volume(textured(shape, seed), affine(turned(axes, signs, angles), spacing))
    order = np.random.default_rng(seed).permutation(shape[2]).tolist()
    series = series_of(volume, tmp_path_factory.mktemp("in"), enhanced=enhanced, order=order)
    context = context_of(series, blobs(shape, seed), rtstruct=RTStruct(holes=holes))
    data, images = made(context)
    assert_comes_back(context, data, images)
    for roi in context.structures.rois:
        assert roi.dice == 1.0
        assert roi.rasterised_ml == pytest.approx(roi.grid_ml)


def test_plastimatch_fills_the_same(tmp_path):
    """Another's reader and another's rasteriser, on all three kinds of grid."""
    program = str(Path(pytest.importorskip("plastimatch").__file__).parent / "bin/plastimatch")
    for plane in ("axial", "sagittal", "oblique"):
        folder = tmp_path / plane
        context = case(folder, plane, spacing=(0.9, 1.1, 1.3), labels=blobs(SHAPE, 5, share=0.6))
        data, images = made(context)
        (folder / "rtstruct.dcm").write_bytes(data)
        place = folder / "in"
        if (beside := resampled.encode(context)) is not None:
            place = folder / "resampled"
            place.mkdir()
            for number, image in enumerate(unzipped(beside.data)):
                image.save_as(place / f"{number}.dcm")
        command = [
            program,
            "convert",
            "--input",
            "rtstruct.dcm",
            "--referenced-ct",
            place.name,
            "--output-prefix",
            "out",
            "--prefix-format",
        ]
        subprocess.run([*command, "nrrd"], cwd=folder, check=True, capture_output=True, timeout=60)
        filled = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "out/WMH.nrrd"))) > 0
        ours = rasterised(data, images, "WMH")
        ascending = sorted(images, key=lambda key: images[key].position[2])
        assert np.array_equal(filled, np.stack([ours[key] for key in ascending]))


def test_dcmtk_reads_it(peer, tmp_path):
    (tmp_path / "rtstruct.dcm").write_bytes(rtstruct.encode(case(tmp_path)).data)
    said = subprocess.run([peer("drtdump"), str(tmp_path / "rtstruct.dcm")], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert "RT Structure Set object" in said.stdout
    assert said.stderr == ""


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_nothing_found_is_a_region_without_contours(peer, tmp_path, plane):
    context = case(tmp_path, plane, labels=np.zeros(SHAPE, np.uint8))
    data, images = made(context)
    assert errors_of(peer("dciodvfy"), data, tmp_path) == []
    dataset = pydicom.dcmread(BytesIO(data))
    (roi,) = dataset.StructureSetROISequence
    (drawn,) = dataset.ROIContourSequence
    assert roi.ROIName == "WMH"
    assert NONE_FOUND in roi.ROIDescription
    assert "ContourSequence" not in drawn
    assert not any(mask.any() for mask in rasterised(data, images, "WMH").values())
    assert context.structures.rois[0].dice == 1.0


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_what_the_object_says_about_itself(tmp_path, plane):
    context = case(tmp_path, plane, headers={"PatientName": "Ærø^Zoë", "SpecificCharacterSet": "ISO_IR 192", "PatientPosition": "HFS"})
    dataset = pydicom.dcmread(BytesIO(rtstruct.encode(context).data))
    source = context.series.datasets[0]
    assert (dataset.Modality, dataset.SeriesNumber, dataset.ApprovalStatus) == ("RTSTRUCT", 9102, "UNAPPROVED")
    assert dataset.SeriesDescription == "Leukoscope WMH 0.1.0 AI - unverified"
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert str(dataset.PatientName) == "Ærø^Zoë"
    assert "InstanceCreationDate" not in dataset
    assert dataset.StructureSetDescription == STATEMENT
    assert (dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == (source.StudyInstanceUID, source.FrameOfReferenceUID)
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert study.ReferencedSOPInstanceUID == source.StudyInstanceUID
    named = [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence]
    beside = unzipped(resampled.encode(context).data) if plane == "coronal" else context.series.datasets
    assert named == [image.SOPInstanceUID for image in beside]
    assert {series.SeriesInstanceUID} == {image.SeriesInstanceUID for image in beside}
    names = [item.ROIName for item in dataset.StructureSetROISequence]
    assert names == ["WMH", "Tumour-like"]
    assert {item.ROIGenerationAlgorithm for item in dataset.StructureSetROISequence} == {"AUTOMATIC"}
    code = dataset.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("110702", "DCM")


def test_numbers_and_names_are_short_enough(tmp_path):
    """DS and SH have 16 characters; pydicom reads longer ones without a word, so the bytes are asked."""
    context = case(tmp_path, "oblique", spacing=(0.937512345, 1.1000001, 2.4987654), chosen=RTStruct(lesion_rois=200))
    files = [pydicom.dcmread(BytesIO(rtstruct.encode(context).data)), *unzipped(resampled.encode(context).data)[::7]]
    asked = 0
    for dataset in files:
        for element in dataset.iterall():
            if element.VR in {"DS", "SH"} and element.value is not None:
                values = element.value if isinstance(element.value, pydicom.multival.MultiValue) else [element.value]
                texts = [getattr(value, "original_string", str(value)) for value in values]
                assert all(len(text) <= 16 and text.isascii() for text in texts), element.keyword
                asked += len(texts)
    assert asked > 1000
    rois = files[0].StructureSetROISequence
    assert len(rois) > 4
    assert all(len(roi.ROIName) <= 16 and roi.ROIName.isascii() for roi in rois)


def test_the_largest_lesions_get_regions_of_their_own(tmp_path):
    labels = np.zeros((40, 40, 12), np.uint8)
    for number, size in enumerate((5, 2, 4, 3)):
        labels[4 + 9 * number : 4 + 9 * number + size, 10 : 10 + size, 2 : 2 + size] = 1
    context = case(tmp_path, "sagittal", shape=labels.shape, spacing=(1, 1, 1), labels=labels, chosen=RTStruct(lesion_rois=3))
    data, images = made(context)
    rois = pydicom.dcmread(BytesIO(data)).StructureSetROISequence
    assert [(roi.ROIName, float(roi.ROIVolume)) for roi in rois] == [
        ("WMH", pytest.approx(0.224)),
        ("WMH 1", pytest.approx(0.125)),
        ("WMH 2", pytest.approx(0.064)),
        ("WMH 3", pytest.approx(0.027)),
    ]
    counts = [sum(int(mask.sum()) for mask in rasterised(data, images, roi.ROIName).values()) for roi in rois]
    assert counts == [224, 125, 64, 27]


def test_no_lesion_falls_between_the_planes(tmp_path):
    """Lone voxels finer than the grid's steps: each is there, if only as one voxel of the grid."""
    labels = np.zeros((60, 60, 30), np.uint8)
    labels[5::9, 5::9, 3::6] = 1
    context = case(tmp_path, "oblique", shape=labels.shape, spacing=(0.4, 0.4, 0.4), labels=labels)
    data, images = made(context)
    filled = rasterised(data, images, "WMH")
    _, found = ndimage.label(np.stack(list(filled.values())), np.ones((3, 3, 3)))
    assert found == context.findings.lesion_count == int(labels.sum())


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_settings_and_nothing_else_change_the_identity(tmp_path, plane):
    one, two = (case(tmp_path / name, plane) for name in ("one", "two"))
    assert [rtstruct.encode(one), resampled.encode(one)] == [rtstruct.encode(two), resampled.encode(two)]
    uids = {
        rtstruct.encode(case(tmp_path / f"{number}", plane, chosen=chosen)).sop_instance_uid
        for number, chosen in enumerate((RTStruct(), RTStruct(holes="xor"), RTStruct(lesion_rois=2)))
    }
    assert len(uids) == 3


def test_without_a_series_there_is_none():
    context = context_of(Volume(textured(SHAPE), affine(PLANES["axial"], (1, 1, 2))), blobs(SHAPE))
    for encode in (rtstruct.encode, resampled.encode):
        with pytest.raises(ValueError, match="DICOM series"):
            encode(context)


@pytest.mark.parametrize("folder", VENDORS)
def test_real_headers_give_valid_objects(peer, shared_data, tmp_path, folder):
    """Needs ../shared/data: series as vendors write them, with their mistakes."""
    series = vendor_series(shared_data, folder)
    shape = series.volume.shape
    labels = np.zeros(shape, np.uint8)
    window = tuple(slice(size // 3, size // 3 + min(40, size // 3)) for size in shape)
    labels[window] = blobs(labels[window].shape) == 1
    context = context_of(series, labels)
    data = rtstruct.encode(context).data
    assert errors_of(peer("dciodvfy"), data, tmp_path) == []
    beside = resampled.encode(context)
    for image in unzipped(beside.data)[::60] if beside else ():
        buffer = BytesIO()
        image.save_as(buffer)
        assert errors_of(peer("dciodvfy"), buffer.getvalue(), tmp_path) == []
    assert context.structures.rois[0].dice == 1.0
    assert context.structures.rois[0].rasterised_ml == pytest.approx(context.structures.rois[0].mask_ml, rel=0.2)

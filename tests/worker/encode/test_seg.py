"""The segmentation object against decoders and validators that nobody here wrote."""

from __future__ import annotations

import json
import os
import subprocess
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.volume import Volume
from service.sections import Segmentation
from tests.worker.encode.cases import VENDORS, affine, context_of, series_of, textured, turned, vendor_series
from worker.encode import seg
from worker.encode.wording import STATEMENT

PLANES = {
    "axial": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "sagittal": ((0, -1, 0), (0, 0, -1), (1, 0, 0)),
    "coronal": ((-1, 0, 0), (0, 0, -1), (0, -1, 0)),
    "oblique": ((-0.96, 0.0, 0.28), (-0.1680, -0.8, -0.576), (0.2240, -0.6, 0.768)),
}
SHAPE = (11, 13, 14)


def blobs(shape, seed=1, tumour=False):
    """Labels that no mirror image of themselves equals, touching several faces."""
    labels = (np.random.default_rng(seed).random(shape) > 0.8).astype(np.uint8)
    labels[:2, :3, 0] = 1
    if tumour:
        labels[5:7, 2:9, 3:5] = 2
    return labels


def from_highdicom(data: bytes, segment: int = 1):
    """Mask (k, j, i) and LPS affine, as highdicom understands the object."""
    decoded = highdicom.seg.segread(BytesIO(data)).get_volume(segment_numbers=[segment], combine_segments=False)
    array = decoded.array[..., 0] if decoded.array.ndim == 4 else decoded.array
    return array, decoded.affine


def placed_by_hand(data: bytes, affine_ras, shape, segment: int = 1):
    """Mask (i, j, k) on the source grid, frame by frame from the positions in the object, with pydicom alone."""
    dataset = pydicom.dcmread(BytesIO(data))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    pixels = bits[: dataset.NumberOfFrames * dataset.Rows * dataset.Columns].reshape(-1, dataset.Rows, dataset.Columns)
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    down, across = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_ras)
    result = np.zeros(shape, np.uint8)
    for pixel, group in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        identification = group if "SegmentIdentificationSequence" in group else shared
        if identification.SegmentIdentificationSequence[0].ReferencedSegmentNumber != segment:
            continue
        rows, columns = np.nonzero(pixel)
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        points = position + columns[:, None] * cosines[0] * across + rows[:, None] * cosines[1] * down
        index = np.rint(points @ to_index[:3, :3].T + to_index[:3, 3]).astype(int)
        result[tuple(index.T)] += 1
    return result


def errors_of(program: str, data: bytes, folder: Path) -> list[str]:
    path = folder / "checked.dcm"
    path.write_bytes(data)
    said = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=60)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("order", ["ascending", "reversed"])
def test_dciodvfy_finds_no_error_and_the_mask_comes_back(peer, tmp_path, plane, enhanced, order):
    volume = Volume(textured(SHAPE), affine(PLANES[plane], (0.9, 1.1, 2.5)))
    sequence = list(range(SHAPE[2]))[:: -1 if order == "reversed" else 1]
    series = series_of(volume, tmp_path / "in", enhanced=enhanced, order=sequence)
    labels = blobs(series.volume.shape, tumour=True)
    data = seg.encode(context_of(series, labels)).data
    assert errors_of(peer("dciodvfy"), data, tmp_path) == []
    for number in (1, 2):
        assert np.array_equal(placed_by_hand(data, series.volume.affine_ras, labels.shape, number), labels == number)
    assert_references_every_frame(data, series)


def assert_references_every_frame(data, series):
    """Each frame of the object names the source frame that lies where it lies."""
    dataset = pydicom.dcmread(BytesIO(data))
    said = {}
    for group in dataset.PerFrameFunctionalGroupsSequence:
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        key = (str(reference.ReferencedSOPInstanceUID), reference.get("ReferencedFrameNumber"))
        said.setdefault(key, []).append([float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient])
    assert len(said) == len(series.frames)
    for frame in series.frames:
        corner = series.volume.affine_ras @ (0, 0, frame.k, 1) * (-1, -1, 1, 1)
        assert np.allclose(said[frame.sop_instance_uid, frame.frame_number], corner[:3], atol=0.01)
    named = dataset.ReferencedSeriesSequence[0]
    assert named.SeriesInstanceUID == series.datasets[0].SeriesInstanceUID
    instances = {str(item.ReferencedSOPInstanceUID) for item in named.ReferencedInstanceSequence}
    assert instances == {frame.sop_instance_uid for frame in series.frames}


def test_zero_lesions_is_a_valid_empty_segment(peer, tmp_path):
    series = series_of(Volume(textured(SHAPE), affine(PLANES["axial"], (1, 1, 3))), tmp_path / "in")
    output = seg.encode(context_of(series, np.zeros(SHAPE, np.uint8)))
    assert errors_of(peer("dciodvfy"), output.data, tmp_path) == []
    decoded = highdicom.seg.segread(BytesIO(output.data))
    assert decoded.number_of_segments == 1
    assert decoded.NumberOfFrames == SHAPE[2]
    assert not decoded.pixel_array.any()


def test_dcmqi_gives_the_identical_mask_in_patient_space(peer, tmp_path):
    binary = Path(pytest.importorskip("dcmqi").__file__).parent / "bin" / "segimage2itkimage"
    series = series_of(Volume(textured(SHAPE), affine(PLANES["oblique"], (0.9, 1.1, 2.5))), tmp_path / "in")
    labels = blobs(SHAPE, tumour=True)
    (tmp_path / "seg.dcm").write_bytes(seg.encode(context_of(series, labels)).data)
    command = [str(binary), "--inputDICOM", str(tmp_path / "seg.dcm"), "--outputDirectory", str(tmp_path), "-p", "seg", "-t", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    for number in (1, 2):
        image = SimpleITK.ReadImage(str(tmp_path / f"seg-{number}.nrrd"))
        assert np.array_equal(on_grid(image, series.volume.affine_ras, SHAPE), labels == number)
    meta = json.loads((tmp_path / "seg-meta.json").read_text())
    assert meta["segmentAttributes"][0][0]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "110702"


def on_grid(image, affine_ras, shape):
    """An ITK image's non-zero voxels by their own patient coordinates, as a mask on our grid."""
    result = np.zeros(shape, bool)
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_ras)
    for k, j, i in np.argwhere(SimpleITK.GetArrayViewFromImage(image)):
        point = image.TransformIndexToPhysicalPoint((int(i), int(j), int(k)))
        result[tuple(np.rint(to_index[:3, :3] @ point + to_index[:3, 3]).astype(int))] = True
    return result


ANGLES = st.floats(-40, 40)
SPACINGS = st.floats(0.4, 6.0).map(lambda value: round(value, 3))


@settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "12")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    angles=st.tuples(ANGLES, ANGLES, ANGLES),
    spacing=st.tuples(SPACINGS, SPACINGS, SPACINGS),
    shape=st.tuples(st.integers(4, 19), st.integers(4, 19), st.integers(3, 12)),
    enhanced=st.booleans(),
    encoding=st.sampled_from(["binary", "labelmap", "fractional"]),
    seed=st.integers(0, 1000),
)
def test_any_grid_survives_encode_and_decode(tmp_path_factory, axes, signs, angles, spacing, shape, enhanced, encoding, seed):
    """Orientations, signs, slice orders, oblique angles, anisotropy and odd sizes: the identical mask in patient space."""
    orientation = turned(axes, signs, angles)
    volume = Volume(textured(shape, seed), affine(orientation, spacing))
    order = np.random.default_rng(seed).permutation(shape[2]).tolist()
    series = series_of(volume, tmp_path_factory.mktemp("in"), enhanced=enhanced, order=order)
    labels = blobs(shape, seed)
    data = seg.encode(context_of(series, labels, segmentation=Segmentation(encoding=encoding))).data
    if encoding == "binary":
        assert np.array_equal(placed_by_hand(data, series.volume.affine_ras, shape), labels == 1)
    array, decoded = from_highdicom(data)
    array = array > 0.5
    points = np.c_[np.argwhere(array), np.ones(int(array.sum()))] @ decoded.T
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.volume.affine_ras)
    found = np.rint(points @ to_index.T).astype(int)[:, :3]
    mask = np.zeros(shape, bool)
    mask[tuple(found.T)] = True
    assert np.array_equal(mask, labels == 1)


def test_what_the_object_says_about_itself(tmp_path):
    series = series_of(Volume(textured(SHAPE), affine(PLANES["axial"], (1, 1, 3))), tmp_path / "in")
    dataset = pydicom.dcmread(BytesIO(seg.encode(context_of(series, blobs(SHAPE))).data))
    assert dataset.SeriesDescription == "Leukoscope WMH 0.1.0 AI - unverified"
    assert dataset.SeriesNumber == 9100
    assert dataset.SegmentationType == "BINARY"
    assert "InstanceCreationDate" not in dataset
    (segment,) = dataset.SegmentSequence
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "110702"
    assert segment.AnatomicRegionSequence[0].CodeValue == "68523003"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert segment.TrackingUID
    assert segment.TrackingID
    assert segment.SegmentDescription == STATEMENT
    equipment = [item for item in dataset.ContributingEquipmentSequence if item.Manufacturer == "Leukoscope"]
    ours = [item for item in equipment if item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"]
    assert "ab" * 32 in ours[0].ContributionDescription


@pytest.mark.parametrize("enhanced", [False, True])
def test_the_same_case_gives_the_same_bytes(tmp_path, enhanced):
    volume = Volume(textured(SHAPE), affine(PLANES["sagittal"], (1, 1, 1.2)))
    labels = blobs(SHAPE)
    twice = [
        seg.encode(context_of(series_of(volume, tmp_path / name, enhanced=enhanced, order=order), labels)).data
        for name, order in (("one", range(14)), ("two", range(14)))
    ]
    assert twice[0] == twice[1]
    other = seg.encode(context_of(series_of(volume, tmp_path / "three", enhanced=enhanced), labels, revision=2))
    assert other.sop_instance_uid != pydicom.dcmread(BytesIO(twice[0])).SOPInstanceUID


@pytest.mark.parametrize("folder", VENDORS)
def test_real_headers_give_valid_objects(peer, shared_data, tmp_path, folder):
    """Needs ../shared/data: series as vendors write them, with their mistakes."""
    series = vendor_series(shared_data, folder)
    labels = blobs(series.volume.shape)
    data = seg.encode(context_of(series, labels)).data
    assert errors_of(peer("dciodvfy"), data, tmp_path) == []
    assert np.array_equal(placed_by_hand(data, series.volume.affine_ras, labels.shape), labels == 1)
    assert_references_every_frame(data, series)

"""Masks that readers send: what is taken voxel for voxel, and what is refused with which words."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from model.volume import Volume
from service.errors import Rejected
from tests.worker.encode.cases import affine, series_of, textured
from tests.worker.encode.test_seg import PLANES, SHAPE, blobs
from tests.worker.test_corrections import write_foreign
from tests.workstation import described
from worker.reader_mask import read_mask

LESION, TUMOUR = described(1, "WMH"), described(2, "Tumour")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(scope="module")
def series(home):
    return series_of(Volume(textured(SHAPE), affine(PLANES["oblique"], (0.9, 1.1, 2.5))), home / "in" / "one")


@pytest.fixture
def write(home, series):
    """Write a SEG about the series; the last one is overwritten."""
    return lambda labels, descriptions=(LESION,), **options: write_foreign(home, series, labels, list(descriptions), **options)


def edit(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_drawn_mask_is_taken_voxel_for_voxel(write, series, kind):
    labels = blobs(SHAPE, seed=5, tumour=True)
    mask = read_mask(write(labels, (LESION, TUMOUR), kind=kind), series)
    assert np.array_equal(mask.labels, labels)
    assert (mask.algorithm, mask.flags) == ("MANUAL", ())


def test_a_mask_made_with_an_algorithms_help_says_so(write, series):
    def help_along(dataset):
        dataset.SegmentSequence[0].SegmentAlgorithmType = "SEMIAUTOMATIC"

    assert read_mask(edit(write(blobs(SHAPE)), help_along), series).algorithm == "SEMIAUTOMATIC"


def test_half_of_a_fractional_voxel_counts_and_is_flagged(write, series):
    share = np.random.default_rng(2).choice([0.0, 0.4, 0.6, 1.0], SHAPE).astype(np.float32)
    mask = read_mask(write(share, kind="FRACTIONAL", max_fractional_value=200), series)
    assert np.array_equal(mask.labels, share > 0.5)
    assert mask.flags == ("correction: the mask was fractional, half and more of a voxel was taken",)


@pytest.mark.parametrize("voxels", [0, 1])
def test_no_lesion_and_one_voxel_are_masks_too(write, series, voxels):
    labels = np.zeros(SHAPE, np.uint8)
    labels[4, 5, 6] = voxels
    assert np.array_equal(read_mask(write(labels, omit_empty_frames=bool(voxels)), series).labels, labels)


def test_overlapping_segments_are_one_where_both_are_lesions_and_a_contradiction_where_not(write, series):
    both = np.zeros((*SHAPE, 2), bool)
    both[2:5, 3, 4, 0] = both[4:7, 3, 4, 1] = True
    stack = np.ascontiguousarray(both)

    def path(second):
        return write(_Stacked(stack), (LESION, second))

    mask = read_mask(path(described(2, "Lesion 2")), series)
    assert np.array_equal(mask.labels, both.any(axis=3))
    with pytest.raises(Rejected, match="1 voxel called a lesion and a tumour too; say which"):
        read_mask(path(TUMOUR), series)


class _Stacked:
    """Segments as a 4D stack, in the way `write_foreign` turns labels."""

    def __init__(self, stack):
        self._stack = stack

    def transpose(self, *_):
        return np.ascontiguousarray(self._stack.transpose(2, 1, 0, 3)).astype(np.uint8)


def test_a_segment_that_nobody_knows_is_refused_unless_it_is_empty(write, series):
    labels = blobs(SHAPE)
    with pytest.raises(Rejected, match=r"no segment is called a lesion or a tumour \(there are: 1 'Segment_1'\)"):
        read_mask(write(labels, (described(1, "Segment_1"),)), series)
    second = described(2, "Segment_2")
    assert np.array_equal(read_mask(write(labels, (LESION, second)), series).labels, labels)
    labels[3:6, 3:6, 3:6] = 2
    with pytest.raises(Rejected, match="what these segments are is not known here: 2 'Segment_2'"):
        read_mask(write(labels, (LESION, second)), series)
    assert not (read_mask(write(labels, (LESION, described(2, "ignore"))), series).labels == 2).any()


def test_another_grid_and_another_series_are_refused(write, series):
    def move(dataset):
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.55, 0.45]

    def estrange(dataset):
        dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()
        for group in dataset.PerFrameFunctionalGroupsSequence:
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = generate_uid()

    def forget(dataset):
        del dataset.ReferencedSeriesSequence
        for group in dataset.PerFrameFunctionalGroupsSequence:
            del group.DerivationImageSequence

    with pytest.raises(Rejected, match="lies on another grid than its source series"):
        read_mask(edit(write(blobs(SHAPE)), move), series)
    with pytest.raises(Rejected, match="is about another series than this case's"):
        read_mask(edit(write(blobs(SHAPE)), estrange), series)
    assert read_mask(edit(write(blobs(SHAPE)), forget), series).labels.any(), "the grid is proof enough"
    with pytest.raises(Rejected, match="is empty and names no series"):
        read_mask(edit(write(np.zeros(SHAPE, np.uint8), omit_empty_frames=False), forget), series)


def test_what_is_no_segmentation_is_refused(home, series):
    path = home / "broken"
    path.write_bytes(bytes(128) + b"DICM" + bytes(20))
    with pytest.raises(Rejected, match=r"not a DICOM segmentation|cannot be read"):
        read_mask(path, series)
    with pytest.raises(Rejected, match=r"not a DICOM segmentation \(SEG\)"):
        read_mask(next((home / "in" / "one").iterdir()), series)


def write_nifti(home, labels, place, *, packed=True, code=1):
    image = nibabel.Nifti1Image(labels, None)
    image.set_sform(place, code=code)
    image.set_qform(None, code=0)
    path = home / "mask"
    path.write_bytes(gzip.compress(image.to_bytes()) if packed else image.to_bytes())
    return path


@pytest.mark.parametrize(("dtype", "packed"), [(np.uint8, True), (np.float64, False)])
def test_nifti_on_the_grid_is_taken(home, series, dtype, packed):
    labels = blobs(SHAPE, tumour=True)
    mask = read_mask(write_nifti(home, labels.astype(dtype), series.volume.affine_ras, packed=packed), series)
    assert np.array_equal(mask.labels, labels)
    assert mask.algorithm == "SEMIAUTOMATIC"


def _step(axis):
    moved = np.eye(4)
    moved[axis, 3] = 1
    return moved


def test_nifti_that_does_not_fit_is_refused(home, series):
    place, labels = series.volume.affine_ras, blobs(SHAPE)
    shifted = place.copy()
    shifted[:3, 3] += place[:3, 0]
    for mask, where in ((labels, shifted), (labels[:, :, :-1], place), (labels[::-1], np.eye(4))):
        with pytest.raises(Rejected, match="lies on another grid than the series"):
            read_mask(write_nifti(home, mask, where), series)
    grown = read_mask(write_nifti(home, labels[:, :, 1:], place @ _step(2)), series, grown=True)
    assert np.array_equal(grown.labels[:, :, 1:], labels[:, :, 1:])
    assert not grown.labels[:, :, 0].any()
    with pytest.raises(Rejected, match="neither sform nor qform is set"):
        read_mask(write_nifti(home, labels, place, code=0), series)
    with pytest.raises(Rejected, match="other values than 0, 1"):
        read_mask(write_nifti(home, labels * 3, place), series)
    with pytest.raises(Rejected, match="larger than the grid"):
        read_mask(write_nifti(home, np.zeros((200, 200, 200), np.uint8), place), series)
    path = home / "mask"
    for broken in (b"\x1f\x8b nothing", write_nifti(home, labels, place, packed=False).read_bytes()[:400], b""):
        path.write_bytes(broken)
        with pytest.raises(Rejected, match="no readable NIfTI file"):
            read_mask(path, series)


def test_planes_that_came_later_keep_what_the_release_found(home, series, write):
    labels, found = blobs(SHAPE, seed=3), blobs(SHAPE, seed=4)
    later = {series.frames[0].sop_instance_uid, series.frames[7].sop_instance_uid}
    seen = frozenset(frame.sop_instance_uid for frame in series.frames) - later
    mask = read_mask(write(labels), series)
    assert mask.with_later(series, seen | later, found) is mask
    mixed = mask.with_later(series, seen, found)
    for k in range(SHAPE[2]):
        assert np.array_equal(mixed.labels[:, :, k], (found if k in (0, 7) else labels)[:, :, k])
    assert mixed.algorithm == "SEMIAUTOMATIC"
    assert mixed.flags == ("correction: 2 slices came after it, and no reader has seen what the release found there",)

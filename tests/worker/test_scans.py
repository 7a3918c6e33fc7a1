"""What a folder holds to be measured: layouts training knows, NIfTI files, DICOM series, and which masks belong to which."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from service.errors import Rejected
from worker.phantom import write_series
from worker.scans import find_scans, read_case

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def save(path, data=None, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 9, 10), np.uint8) if data is None else data, affine), path)
    return path


def told(cases):
    return {case.id: (case.lesion and case.lesion.name, case.tumour and case.tumour.name) for case in cases}


def test_masks_and_series_are_told_from_scans(phantom, tmp_path):
    save(tmp_path / "p1" / "p1_FLAIR.nii.gz")
    save(tmp_path / "p1" / "p1_MASK.nii.gz")
    save(tmp_path / "p3" / "head.nii")
    for other in ("gt.nii.gz", "brainmask.nii.gz", "GOLD_STANDARD_3.nii.gz", "head_seg.nii", ".hidden.nii"):
        save(tmp_path / "p3" / other)
    write_series(phantom.flair, tmp_path / "p2")
    (tmp_path / "notes.txt").write_text("not a scan")
    assert told(find_scans(tmp_path)) == {"p1/p1_FLAIR.nii.gz": ("p1_MASK.nii.gz", None), "p2": (None, None), "p3/head.nii": (None, None)}


def test_a_layout_that_training_knows_is_read_at_any_depth_with_what_nobody_annotated_beside_it(tmp_path):
    save(tmp_path / "deep" / "brats" / "B1" / "B1_flair.nii.gz")
    save(tmp_path / "deep" / "brats" / "B1" / "B1_seg.nii.gz")
    save(tmp_path / "deep" / "brats" / "B2" / "B2_flair.nii.gz")
    save(tmp_path / "P1_T1_FLAIR.nii.gz")
    assert told(find_scans(tmp_path)) == {
        "deep/brats/B1/B1_flair.nii.gz": (None, "B1_seg.nii.gz"),
        "deep/brats/B2/B2_flair.nii.gz": (None, None),
        "P1_T1_FLAIR.nii.gz": (None, None),
    }


def test_folders_together_are_named_from_what_they_share_and_a_scan_counts_once(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name / "x.nii.gz")
    assert set(told(find_scans(tmp_path / "a", tmp_path / "b"))) == {"a/x.nii.gz", "b/x.nii.gz"}
    assert set(told(find_scans(tmp_path, tmp_path / "b"))) == {"a/x.nii.gz", "b/x.nii.gz"}


def test_nothing_there_and_a_manifest_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(Rejected, match="no NIfTI file and no DICOM"):
        find_scans(tmp_path)
    (tmp_path / "manifest.csv").write_text("patient,flare\nP1,x.nii.gz\n")
    with pytest.raises(Rejected, match="unknown column 'flare'"):
        find_scans(tmp_path)


def test_one_volume_of_several_and_its_labels_are_read_as_the_manifest_says(tmp_path):
    channels = np.stack([np.full((8, 9, 10), value, np.int16) for value in (3, 7)], axis=-1)
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[0], labels[1] = 1, 2
    save(tmp_path / "both.nii.gz", channels)
    save(tmp_path / "labels.nii.gz", labels)
    columns = "patient,flair,channel,lesion,lesion_values,ignore,ignore_values"
    (tmp_path / "manifest.csv").write_text(f"{columns}\nP1,both.nii.gz,1,labels.nii.gz,1,labels.nii.gz,2\n")
    (case,) = find_scans(tmp_path)
    scan = read_case(case, lambda _: pytest.fail("no DICOM here"))
    assert np.unique(scan.volume.data) == [7]
    assert scan.lesion.sum() == scan.ignore.sum() == 90 and scan.tumour is None


def test_the_flags_of_a_series_are_those_of_its_headers_and_of_its_pixels(phantom, tmp_path):
    files = write_series(phantom.flair, tmp_path / "series")
    (case,) = find_scans(tmp_path)
    scan = read_case(case, lambda folder: (files, ("after-contrast: said so",)))
    assert scan.flags[0] == "after-contrast: said so" and any(flag.startswith("thick-slices") for flag in scan.flags)

"""Every check of annotated scans by itself: a sound folder is spoilt in one way, and just that is said, of just those scans."""

from __future__ import annotations

import dataclasses

import nibabel
import numpy as np
import pytest

from model.training.checks import check_case, check_together
from model.training.layouts import find_cases
from tests.model.training import folders
from tests.model.training.folders import SHAPE, SPACING_MM, make_labels, make_scan, one, save, write_cohort

LESIONS = one(make_labels(), 1)
GRID = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])


def scan_of(data, **told):
    """Replace the second patient's scan."""
    return lambda root: save(root / "bert.nii.gz", np.asarray(data, np.float32), **told)


def mask_of(data, **told):
    """Replace the second patient's mask."""
    return lambda root: save(root / "bert-mask.nii.gz", np.asarray(data, np.uint8), **told)


def on_grid(affine, cut=np.s_[:]):
    """The second patient's scan and mask on another grid."""

    def spoil(root):
        for name, data in (("bert", make_scan(seed=1)), ("bert-mask", LESIONS)):
            header = nibabel.Nifti1Header()
            header.set_sform(affine, code=1)
            nibabel.save(nibabel.Nifti1Image(data[cut], None, header), root / f"{name}.nii.gz")

    return spoil


def not_finite():
    data = make_scan()
    data[20:24, 20:24, 20] = np.nan
    return data


def huge():
    """A sixth of the brain is lesion, and looks it."""
    marked = np.zeros(SHAPE, np.uint8)
    marked[12:32, 14:30, 12:28] = 1

    def spoil(root):
        scan_of(np.where(marked == 1, 170, make_scan(seed=1)))(root)
        mask_of(marked)(root)

    return spoil


def few_and_dark(root):
    """As on a T1, but too few lesions to be sure, and tissue as on a FLAIR."""
    scan_of(np.where(one(make_labels(4), 1) == 1, 60, make_scan(seed=1)))(root)
    mask_of(one(make_labels(4), 1))(root)


def torn(root):
    (root / "bert.nii.gz").write_bytes(b"torn")


def fractions(root):
    save(root / "bert-mask.nii.gz", (1.5 * LESIONS).astype(np.float32))


def same_scan(root):
    save(root / "bert.nii.gz", make_scan(seed=0))


def tumour(mask):
    return lambda root: save(root / "bert-tumour.nii.gz", mask)


def brain(mask, **told):
    return lambda root: save(root / "bert-brain.nii.gz", mask, **told)


TUMOUR, BRAIN = {"tumour": "bert-tumour.nii.gz"}, {"brain": "bert-brain.nii.gz"}
AWAY = np.roll(LESIONS, 20, axis=0)
TALL, FLAT = np.diag([SPACING_MM, SPACING_MM, 8.2, 1.0]), np.diag([SPACING_MM, SPACING_MM, 0.0, 1.0])
# what is said -> how the folder is spoilt, and what is changed in the second row of its manifest
UNUSABLE = {
    "no mask: nothing to learn from": (None, {"lesion": ""}),
    "nowhere.nii.gz: no such file": (None, {"flair": "nowhere.nii.gz"}),
    "bert.nii.gz: not readable as NIfTI": (torn, {}),
    "bert.nii.gz: holds 16 values that are not finite": (scan_of(not_finite()), {}),
    "4 dimensions, expected 3; a manifest.csv can say which volume is the FLAIR": (scan_of(np.stack([make_scan()] * 2, axis=-1)), {}),
    "has no volume 3": (None, {"channel": "3"}),
    "its header gives no grid: the affine is singular": (on_grid(FLAT), {}),
    "all voxels have one value": (scan_of(np.full(SHAPE, 7)), {}),
    "no head found": (scan_of(make_scan() * ((np.indices(SHAPE)[0] > 36) | (LESIONS > 0))), {}),
    "bert-mask.nii.gz: shape (43, 52, 40), the scan has (44, 52, 40)": (mask_of(LESIONS[1:]), {}),
    "bert-mask.nii.gz: lies on another grid than its scan, 12.0 mm apart": (mask_of(LESIONS, shift_mm=12.0), {}),
    "labels nobody declared: 1, 2; a manifest.csv can say what each one means": (mask_of(make_labels()), {}),
    "labels nobody declared: 2 (declared: 1)": (mask_of(make_labels()), {"lesion_values": "1"}),
    "holds 1.5, which is neither a label nor a probability": (fractions, {}),
    "nothing.nii.gz: no such file": (None, {"second": "nothing.nii.gz"}),
    "bert-tumour.nii.gz: shape (44, 52, 39)": (tumour(LESIONS[..., 1:]), TUMOUR),
    "bert-brain.nii.gz: lies on another grid than its scan": (brain(one(make_labels(), 1), shift_mm=20.0), BRAIN),
    "surely T1-weighted and no FLAIR (8 of 8 lesions are darker": (scan_of(make_scan(seed=1, kind="T1")), {}),
}
SUSPICIOUS = {
    "nobody corrected this mask": (None, {"provenance": "SEG 2.25.1; as Leukoscope made it; not corrected"}),
    "voxels of 4 x 4 x 8.2 mm: is the header right?": (on_grid(TALL, np.s_[:, :, ::2]), {}),
    "only 11 slices": (on_grid(GRID, np.s_[:, :, 15:26]), {}),
    "its brain mask holds 5857 ml, more than any brain": (brain(np.ones(SHAPE, np.uint8)), BRAIN),
    "328 ml of lesion": (huge(), {}),
    "the lesion mask is empty: right if this scan has none": (mask_of(np.zeros(SHAPE)), {}),
    "the tumour mask is empty": (tumour(np.zeros(SHAPE, np.uint8)), TUMOUR),
    "36 % of the lesion lies outside the brain: moved, or mirrored?": (mask_of(AWAY), {}),
    "36 % of the tumour lies outside the brain": (tumour(AWAY), TUMOUR),
    "perhaps T1-weighted and no FLAIR (4 of 4 lesions are darker": (few_and_dark, {}),
    "perhaps T2-weighted and no FLAIR": (scan_of(make_scan(seed=1, kind="T2")), {}),
}
TOGETHER = {
    "the same patient and session as": (None, {"patient": "anna", "scan": "bert-1"}),
    "the same image as anna-1, of another patient: keep one": (same_scan, {}),
    "the same image as anna-1: keep one": (same_scan, {"patient": "anna", "scan": "bert-1", "session": "2"}),
}


def findings(root, spoil, changes):
    """Severity and text of all that is said, by scan."""
    write_cohort(root, **changes)
    if spoil:
        spoil(root)
    checked = [check_case(case) for case in find_cases("manifest", root)]
    check_together(checked)
    return {one.case.id: [(finding.severity, finding.text) for finding in one.findings] for one in checked}


@pytest.mark.parametrize(
    ("words", "severity"), [*((words, "unusable") for words in UNUSABLE), *((words, "suspicious") for words in SUSPICIOUS)]
)
def test_one_thing_wrong_is_the_one_thing_said(tmp_path, words, severity):
    found = findings(tmp_path, *{**UNUSABLE, **SUSPICIOUS}[words])
    (said,) = [finding for scan, texts in found.items() for finding in texts if scan.startswith("bert")]
    assert said[0] == severity and words in said[1]
    assert [scan for scan, texts in found.items() if texts] == [scan for scan in found if scan.startswith("bert")]


@pytest.mark.parametrize("words", TOGETHER)
def test_what_is_there_twice_is_said_of_both(tmp_path, words):
    found = findings(tmp_path, *TOGETHER[words])
    assert [len(texts) for texts in found.values()] == [1, 1, 0]
    assert words in found["bert-1"][0][1] and found["bert-1"][0][0] == found["anna-1"][0][0] == "unusable"
    assert "bert-1" in found["anna-1"][0][1] and "anna-1" in found["bert-1"][0][1]


def test_a_sound_cohort_has_nothing_said_of_it(tmp_path):
    assert findings(tmp_path, None, {}) == {"anna-1": [], "bert-1": [], "carl-1": []}


@pytest.mark.parametrize("head", [False, True], ids=["extracted", "whole head"])
def test_what_comes_in_another_space_is_said_where_it_cannot_be_carried_over(tmp_path, head):
    folders.open_ms_raw(tmp_path)
    case = find_cases("open_ms_raw", tmp_path)[0]
    save(case.flair, make_scan(head=head))
    sound = dataclasses.replace(case, brain=None)
    assert not check_case(sound).findings
    (finding,) = check_case(dataclasses.replace(sound, changed=tmp_path / "nowhere.nii.gz")).findings
    assert finding.severity == "unusable" and "nowhere.nii.gz" in finding.text


def test_a_rater_s_mask_that_cannot_be_read_is_said_and_gives_no_agreement(tmp_path):
    folders.msseg2016(tmp_path)
    (case,) = find_cases("msseg2016", tmp_path)
    assert not check_case(case).findings
    save(case.raters[1], make_labels()[1:])
    checked = check_case(dataclasses.replace(case, second=None))
    (finding,) = checked.findings
    assert finding.severity == "unusable" and "shape (43, 52, 40)" in finding.text and np.isnan(checked.agreement)

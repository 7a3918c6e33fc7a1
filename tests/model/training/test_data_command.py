"""`leukoscope train data`: what it says, what it draws, and when it fails."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from model.training.case_picture import draw_case
from model.training.checks import check_case, check_together
from model.training.cli import app
from model.training.contrast import judge_contrast
from model.training.layouts import find_cases
from model.training.metrics import dice
from model.volume import Volume
from service.__main__ import APP
from tests.model.training import folders
from tests.model.training.folders import SHAPE, SPACING_MM, make_labels, make_scan, one, save
from tests.worker.encode.cases import context_of
from worker.convert import read_series
from worker.encode import seg
from worker.phantom import write_series


def run(*arguments, command=app):
    """Exit status and all that was said, in one line."""
    result = CliRunner().invoke(command, [str(word) for word in arguments], env={"COLUMNS": "250"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def write_cohort(root, **changes):
    """Three patients in a manifest; `changes`: columns of the second one."""
    rows = []
    for number, name in enumerate(("anna", "bert", "carl")):
        save(root / f"{name}.nii.gz", make_scan(seed=number))
        save(root / f"{name}-mask.nii.gz", one(make_labels(), 1))
        rows.append({"patient": name, "session": "1", "flair": f"{name}.nii.gz", "lesion": f"{name}-mask.nii.gz", "provenance": ""})
    rows[1] |= changes
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (root / "manifest.csv").write_text("\n".join(lines))
    return root


def test_a_sound_folder_gives_a_table_a_report_and_no_picture(tmp_path):
    code, said = run("data", write_cohort(tmp_path / "in"), "-o", tmp_path / "out")
    assert code == 0
    assert "manifest: 3 scans (a file manifest.csv)" in said
    assert "3 scans of 3 patients; 0 unusable, 0 to look at" in said
    report = json.loads((tmp_path / "out" / "data.json").read_text())
    volume = int(one(make_labels(), 1).sum()) * SPACING_MM**3 / 1000
    assert [(scan["patient"], scan["lesion_ml"], scan["lesions"]) for scan in report["scans"]] == [
        (name, pytest.approx(volume, abs=0.001), 8) for name in ("anna", "bert", "carl")
    ]
    assert report["human_ceiling_dice"] == {}
    assert not (tmp_path / "out" / "pictures").exists()


def swap_contrast(root):
    save(root / "bert.nii.gz", make_scan(kind="T1"))


def same_image(root):
    save(root / "bert.nii.gz", make_scan(seed=0))


def other_grid(root):
    save(root / "bert-mask.nii.gz", one(make_labels(), 1), shift_mm=12.0)


def strange_label(root):
    save(root / "bert-mask.nii.gz", make_labels())


def not_finite(root):
    broken = make_scan()
    broken[20:24, 20:24, 20] = np.nan
    save(root / "bert.nii.gz", broken)


def four_dimensions(root):
    save(root / "bert.nii.gz", np.stack([make_scan(), make_scan()], axis=-1))


def no_head(root):
    save(root / "bert.nii.gz", (make_scan() * (np.indices(SHAPE)[0] > 36)).astype(np.float32))


def one_value(root):
    save(root / "bert.nii.gz", np.full(SHAPE, 7, np.float32))


UNUSABLE = {
    "surely T1-weighted and no FLAIR (8 of 8 lesions are darker than what lies around them and deep white matter is": (swap_contrast, {}),
    "the same image as bert-1, of another patient: keep one": (same_image, {}),
    "the same patient and session as anna-1": (None, {"patient": "anna", "session": "1"}),
    "bert-mask.nii.gz: lies on another grid than its scan, 12.0 mm apart": (other_grid, {}),
    "labels nobody declared: 1, 2": (strange_label, {}),
    "bert.nii.gz: holds 16 values that are not finite": (not_finite, {}),
    "4 dimensions, expected 3; a manifest.csv can say which volume is the FLAIR": (four_dimensions, {}),
    "no head found": (no_head, {}),
    "all voxels have one value": (one_value, {}),
    "nowhere.nii.gz: no such file": (None, {"flair": "nowhere.nii.gz"}),
    "no mask: nothing to learn from": (None, {"lesion": ""}),
}


def check(root, spoil):
    """The findings of a cohort whose second patient was spoilt."""
    if spoil:
        spoil(root)
    checked = [check_case(case) for case in find_cases("manifest", root)]
    check_together(checked)
    return checked


@pytest.mark.parametrize("words", UNUSABLE)
def test_what_cannot_be_trained_on_is_named(tmp_path, words):
    spoil, changes = UNUSABLE[words]
    checked = check(write_cohort(tmp_path, **changes), spoil)
    found = {one.case.id: [finding.text for finding in one.findings if finding.severity == "unusable"] for one in checked}
    assert [scan for scan, texts in found.items() if any(words in text for text in texts)], found
    assert not found["carl-1"]


def healthy(root):
    save(root / "bert-mask.nii.gz", np.zeros(SHAPE, np.uint8))


def outside(root):
    save(root / "bert-mask.nii.gz", np.roll(one(make_labels(), 1), 20, axis=0))


def like_t2(root):
    save(root / "bert.nii.gz", make_scan(kind="T2"))


SUSPICIOUS = {
    "the lesion mask is empty: right if this scan has none": (healthy, {}),
    "of the lesion lies outside the brain: moved, or mirrored?": (outside, {}),
    "perhaps T2-weighted and no FLAIR": (like_t2, {}),
    "nobody corrected this mask": (None, {"provenance": "SEG 2.25.1; as Leukoscope made it; not corrected"}),
}


@pytest.mark.parametrize("words", SUSPICIOUS)
def test_what_a_person_should_look_at_is_named_and_may_be_trained_on(tmp_path, words):
    spoil, changes = SUSPICIOUS[words]
    checked = check(write_cohort(tmp_path, **changes), spoil)
    ((finding,),) = [one.findings for one in checked if one.findings]
    assert words in finding.text
    assert finding.severity == "suspicious"


def test_a_brain_mask_larger_than_any_brain_is_named(tmp_path):
    folders.ljubljana(tmp_path)
    assert not check_case(find_cases("ljubljana", tmp_path)[0]).findings
    save(tmp_path / "patient05" / "patient05_brainmask.nii.gz", np.ones(SHAPE, np.uint8))
    (finding,) = check_case(find_cases("ljubljana", tmp_path)[0]).findings
    assert "more than any brain: a mask of the head?" in finding.text


def test_what_is_wrong_is_drawn_and_only_the_unusable_ends_with_one(tmp_path):
    root = write_cohort(tmp_path / "in")
    healthy(root)
    code, said = run("data", root, "-o", tmp_path / "out")
    assert code == 0, said
    assert "look: the lesion mask is empty" in said
    assert "0 unusable, 1 to look at" in said
    assert [path.name for path in (tmp_path / "out" / "pictures").iterdir()] == ["bert-1.png"]
    not_finite(root)
    (root / "carl.nii.gz").write_bytes(b"torn")
    code, said = run("data", root, "-o", tmp_path / "worse")
    assert code == 1
    assert "2 unusable, 0 to look at" in said
    assert [path.name for path in (tmp_path / "worse" / "pictures").iterdir()] == ["bert-1.png"]  # of a torn file there is no picture


def test_a_picture_shows_a_shifted_mask_where_its_own_header_puts_it(tmp_path):
    root, drawn = write_cohort(tmp_path), {}
    for name, shift_mm in (("right", 0.0), ("shifted", 12.0)):
        save(root / "bert-mask.nii.gz", one(make_labels(), 1), shift_mm=shift_mm)
        assert draw_case(check_case(find_cases("manifest", root)[1]), tmp_path / f"{name}.png")
        red, green, blue = imread(tmp_path / f"{name}.png")[..., :3].transpose(2, 0, 1)
        drawn[name] = (green > red + 0.3) & (green > blue + 0.3)  # lime
    assert min(mask.sum() for mask in drawn.values()) > 200
    assert (drawn["right"] & drawn["shifted"]).sum() < 0.5 * drawn["right"].sum()


def test_the_human_ceiling_is_the_dice_between_raters(tmp_path):
    folders.wmh2017(tmp_path / "in")
    code, said = run("data", tmp_path / "in", "-o", tmp_path / "out")
    expected = dice(one(make_labels(), 1) > 0, one(make_labels(6), 1) > 0)
    assert code == 0
    assert "Human ceiling (n = 1 patients)" in said
    assert f"{expected:.3f}" in said
    folders.msseg2016(tmp_path / "raters")
    (case,) = find_cases("msseg2016", tmp_path / "raters")  # three pairs of raters: 8-6, 8-8, 6-8 lesions
    assert check_case(case).agreement == pytest.approx((2 * expected + 1) / 3)


def test_a_scan_without_a_mask_beside_it_is_named_as_not_taken(tmp_path):
    folders.brats2021(tmp_path / "in")
    save(tmp_path / "in" / "BraTS2021_00009" / "BraTS2021_00009_flair.nii.gz", make_scan())
    code, said = run("data", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 0
    assert "not taken, no mask was found for them: BraTS2021_00009/BraTS2021_00009_flair.nii.gz" in said


def test_a_folder_that_cannot_be_told_ends_with_one_and_the_way_out(tmp_path):
    save(tmp_path / "in" / "scan.nii.gz", make_scan())
    code, said = run("data", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 1
    assert "cannot tell its layout" in said
    assert "write manifest.csv" in said
    code, said = run("data", tmp_path / "in", "--layout", "bratwurst", "-o", tmp_path / "out")
    assert code == 1
    assert "unknown layout 'bratwurst'; known: bids" in said


@pytest.mark.parametrize("kind", ["FLAIR", "T1", "T2"])
def test_the_contrast_of_a_whole_head_is_judged_by_its_lesions_alone(kind):
    scan = Volume(make_scan(kind=kind, head=True), np.diag([SPACING_MM] * 3 + [1.0]))
    seen = judge_contrast(scan, None, make_labels() == 1)
    assert seen.kind == ("T1" if kind == "T1" else None)
    assert seen.sure == (kind == "T1")
    few = judge_contrast(scan, None, make_labels(2) == 1)  # two dark lesions prove little
    assert few.kind == seen.kind
    assert not few.sure


def test_corrected_dicom_is_converted_checked_and_told_of(tmp_path):
    volume = Volume(make_scan(head=True), np.diag([SPACING_MM] * 3 + [1.0]))
    series = read_series(write_series(volume, tmp_path / "in", patient_id="4711"))
    (tmp_path / "in" / "seg.dcm").write_bytes(seg.encode(context_of(series, one(make_labels(), 1))).data)
    code, said = run("train", "data", tmp_path / "in", "-o", tmp_path / "out", command=APP)
    (scan,) = json.loads((tmp_path / "out" / "data.json").read_text())["scans"]
    assert code == 0, said
    assert "dicom: 1 scan" in said
    assert "nobody corrected this mask" in said
    assert scan["lesions"] == 8
    assert "4711" not in said
    code, said = run("data", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 1
    assert "DICOM is read by `leukoscope train data`" in said

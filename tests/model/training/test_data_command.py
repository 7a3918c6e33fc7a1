"""`leukoscope train data`: what it says, what it draws, and when it fails."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from model.training.case_picture import draw_case
from model.training.checks import check_case
from model.training.cli import app
from model.training.contrast import judge_contrast
from model.training.layouts import find_cases
from model.training.metrics import dice
from model.volume import Volume
from service.__main__ import APP
from tests.model.training import folders
from tests.model.training.folders import SHAPE, SPACING_MM, make_labels, make_scan, one, save, write_cohort
from tests.worker.encode.cases import context_of
from worker.convert import read_series
from worker.encode import seg
from worker.phantom import write_series


def run(*arguments, command=app):
    """Exit status and all that was said, in one line."""
    result = CliRunner().invoke(command, [str(word) for word in arguments], env={"COLUMNS": "250"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


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


def healthy(root):
    save(root / "bert-mask.nii.gz", np.zeros(SHAPE, np.uint8))


def not_finite(root):
    broken = make_scan()
    broken[20:24, 20:24, 20] = np.nan
    save(root / "bert.nii.gz", broken)


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

"""Every folder layout gives the same case: the FLAIR among the channels, each label where it belongs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest

from model.release import InputPreparation
from model.training.assemble import held_out_cases, training_cases
from model.training.configuration import Data, Source, read_config
from model.training.examples import IGNORE, make_example, read_truth
from model.training.layouts import LAYOUTS, Case, UnusableCase, demand_apart, detect_layouts, find_cases, read_role, read_scan
from tests.model.training import folders
from tests.model.training.folders import make_labels, make_scan, one, save

CONFIGURATIONS = Path(__file__).parents[3] / "model" / "training" / "configurations"


@dataclass(frozen=True)
class Expected:
    patient: str
    session: str = "1"
    site: str = ""
    lesion: tuple[int, ...] = ()
    tumour: tuple[int, ...] = ()
    ignore: tuple[int, ...] = ()
    head: bool = False


EXPECTED = {
    "brats2018": Expected("brats/Brats18_TCIA01_123_1", site="TCIA01", tumour=(1, 2)),
    "brats2021": Expected("brats/BraTS2021_00002", tumour=(1, 2)),
    "brats2024": Expected("brats/BraTS-GLI-02073", "101", tumour=(1,)),
    "msd": Expected("msd/BRATS_001", tumour=(1, 2)),
    "nnunet": Expected("nnunet/WML_007", lesion=(1,), ignore=(2,)),
    "bids": Expected("bids/sub-03", "02", "Lyon", lesion=(1,), ignore=(2,)),
    "wmh2017": Expected("wmh2017/training/Amsterdam/GE3T/100", site="Amsterdam/GE3T", lesion=(1,), ignore=(2,)),
    "msseg2016": Expected("msseg2016/Training/Center_01/Patient_03", site="Center_01", lesion=(1,)),
    "mslesseg": Expected("mslesseg/P14", "T2", lesion=(1,)),
    "open_ms_mni": Expected("open_ms/07", lesion=(1,)),
    "ljubljana": Expected("open_ms/05", lesion=(1,), head=True),
    "open_ms_raw": Expected("open_ms_raw/01", "study1", head=True),
    "manifest": Expected("Dupont", "2", "Lyon", lesion=(1,), ignore=(2,)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_folder_is_told_and_its_labels_go_where_they_belong(tmp_path, name):
    expected = EXPECTED[name]
    root = tmp_path / name
    getattr(folders, name)(root)
    (found,) = detect_layouts(root)
    (case,) = found.cases
    assert found.layout == ("brats" if name.startswith("brats") else name)
    assert (case.patient, case.session, case.site) == (expected.patient, expected.session, expected.site)
    scan = read_scan(case)
    assert np.array_equal(scan.data, make_scan(head=expected.head))
    for role in ("lesion", "tumour", "ignore"):
        values = getattr(expected, role)
        mask = read_role(case, role, scan)
        assert (mask is None) == (not values), role
        assert mask is None or np.array_equal(mask, one(make_labels(), *values)), role
    assert find_cases(found.layout, root) == [case]


def test_every_layout_is_among_those_tried():
    assert {"brats" if name.startswith("brats") else name for name in EXPECTED} == set(LAYOUTS)


@pytest.mark.parametrize("name", ["bids", "wmh2017", "msseg2016"])
def test_a_second_rater_is_found(tmp_path, name):
    getattr(folders, name)(tmp_path)
    (case,) = detect_layouts(tmp_path)[0].cases
    drawn = {"bids": 6, "wmh2017": 6, "msseg2016": 8}[name]
    assert np.array_equal(read_role(case, "second", read_scan(case)), one(make_labels(drawn), 1))
    assert len(case.raters) == (3 if name == "msseg2016" else 0)


def test_a_folder_of_several_layouts_gives_all_of_them_and_no_scan_twice(tmp_path):
    folders.open_ms_mni(tmp_path)
    folders.open_ms_raw(tmp_path)
    folders.manifest(tmp_path)
    assert [found.layout for found in detect_layouts(tmp_path)] == ["manifest", "open_ms_mni", "open_ms_raw"]


def test_a_layout_nobody_can_tell_lists_what_was_looked_for_and_points_to_the_manifest(tmp_path):
    save(tmp_path / "somebody" / "scan.nii.gz", make_scan())
    with pytest.raises(UnusableCase, match="cannot tell") as caught:
        detect_layouts(tmp_path)
    for words in (*(layout.signs for layout in LAYOUTS.values()), "DICOM", "manifest.csv", "patient, flair, lesion"):
        assert words in str(caught.value)


def test_what_is_ignored_teaches_the_lesion_head_nothing(tmp_path, bank):
    folders.wmh2017(tmp_path)
    (case,) = find_cases("wmh2017", tmp_path)
    truth = read_truth(case)
    assert np.array_equal(truth.ignore, one(make_labels(), 2))
    labels = make_example(truth, "target", InputPreparation(spacing_mm=4.0, shapes=((48, 64, 48),)), bank).labels
    expected = {value: int((make_labels() == label).sum()) for value, label in ((1, 1), (IGNORE, 2))}
    assert {value: int((labels[0] == value).sum()) for value in expected} == expected
    assert (labels[1] == 0).all()


def test_a_patient_in_training_and_test_is_named(tmp_path):
    cases = [Case(f"{name}-1", name, "1", tmp_path / f"{name}.nii") for name in ("anna", "bert", "carl")]
    demand_apart(cases[:2], cases[2:])
    with pytest.raises(UnusableCase, match="in training and test at once: bert"):
        demand_apart(cases[:2], cases[1:])
    with pytest.raises(UnusableCase, match=r"one scan under two patients: .*anna\.nii \(anna and dora\)"):
        demand_apart(cases[:1], [Case("dora-1", "dora", "1", tmp_path / "anna.nii")])


def test_held_out_patients_of_a_new_layout_are_not_trained_on(tmp_path):
    folders.wmh2017(tmp_path / "wmh")
    patient = EXPECTED["wmh2017"].patient
    source = Source(layout="wmh2017", folder="wmh", kind="target", held_out=(patient,))
    shipped = read_config(next(CONFIGURATIONS.glob("release-0.3.0.yaml")))
    config = shipped.model_copy(update={"data": Data(root=tmp_path, sources=(source,), shapes="none")})
    assert training_cases(config, source) == []
    assert [case.patient for case in held_out_cases(config)] == [patient]


BROKEN = {
    "labels nobody declared: 7 (declared: 1, 2)": lambda root: save(root / "masks/a.nii.gz", make_labels() + 6 * one(make_labels(), 1)),
    "shape (44, 52, 39), the scan has (44, 52, 40)": lambda root: save(root / "masks/a.nii.gz", make_labels()[..., :-1]),
    "another grid than its scan, 8.0 mm apart": lambda root: save(root / "masks/a.nii.gz", make_labels(), shift_mm=8.0),
    "a.nii.gz: no such file": lambda root: (root / "masks/a.nii.gz").unlink(),
    "not readable as NIfTI": lambda root: (root / "masks/a.nii.gz").write_bytes(b"hello"),
    "has no volume 1": lambda root: save(root / "scans/a.nii.gz", make_scan()),
    "values that are not finite": lambda root: save(root / "scans/a.nii.gz", np.full((*make_scan().shape, 2), np.nan)),
    "unknown column 'lession'": lambda root: (root / "manifest.csv").write_text("patient,flair,lession\na,b,c\n"),
    "column 'flair' is missing": lambda root: (root / "manifest.csv").write_text("patient,lesion\na,b\n"),
    "line 2: patient is empty": lambda root: (root / "manifest.csv").write_text("patient,flair\n,b\n"),
    "line 3: more values than columns": lambda root: (root / "manifest.csv").write_text("patient,flair\na,b\nc,d,e\n"),
    "lesion_values is 'one'": lambda root: (root / "manifest.csv").write_text("patient,flair,lesion_values\na,b,one\n"),
    "healthy_tumour is 'maybe'": lambda root: (root / "manifest.csv").write_text("patient,flair,healthy_tumour\na,b,maybe\n"),
}  # fmt: skip


@pytest.mark.parametrize("words", BROKEN)
def test_what_is_broken_is_refused_in_words(tmp_path, words):
    folders.manifest(tmp_path)
    BROKEN[words](tmp_path)
    with pytest.raises(UnusableCase) as caught:
        for case in detect_layouts(tmp_path)[0].cases:
            read_truth(case)
    assert words in str(caught.value)


def test_two_labels_without_a_meaning_are_a_riddle_and_one_is_a_mask(tmp_path):
    save(tmp_path / "a.nii.gz", make_scan())
    save(tmp_path / "mask.nii.gz", 255 * one(make_labels(), 1))
    (tmp_path / "manifest.csv").write_text("patient,flair,lesion\na,a.nii.gz,mask.nii.gz\n")
    (case,) = find_cases("manifest", tmp_path)
    assert np.array_equal(read_truth(case).lesion, one(make_labels(), 1))
    save(tmp_path / "mask.nii.gz", make_labels())
    with pytest.raises(UnusableCase, match=r"labels nobody declared: 1, 2; a manifest\.csv can say"):
        read_truth(case)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channel_names": {"0": "T1", "1": "T2"}}, "which channel is the FLAIR? (0: T1, 1: T2)"),
        ({"labels": {"background": 0, "liver": 1}}, "none of its labels is called a lesion or a tumour: background, liver"),
    ],
)
def test_a_dataset_json_that_names_no_flair_or_no_lesion_is_refused(tmp_path, change, words):
    folders.nnunet(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UnusableCase) as caught:
        detect_layouts(tmp_path)
    assert words in str(caught.value)


def test_an_unpacked_nifti_is_read_as_a_packed_one(tmp_path):
    folders.brats2021(tmp_path)
    for path in sorted(tmp_path.rglob("*.nii.gz")):
        nibabel.save(nibabel.load(path), path.with_suffix(""))
        path.unlink()
    (case,) = find_cases("brats", tmp_path)
    assert np.array_equal(read_truth(case).tumour, make_labels() > 0)

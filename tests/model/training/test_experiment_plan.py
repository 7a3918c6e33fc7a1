"""The plan of an experiment: what is refused before anything trains, folds and draws, and what no fold may see."""

from __future__ import annotations

import csv
import shutil

import nibabel
import numpy as np
import pytest
import torch
import yaml

from model.training.arms import UnusableExperiment, read_experiment
from model.training.assemble import read_bank
from model.training.experiment import Experiment
from model.training.folds import collect_cases, make_folds
from model.training.overview import Overview
from model.training.plan import distinct_runs, plan_trials
from tests.model.training.test_experiment import SMOKE, run_experiment


def _told(**changes):
    return {**yaml.safe_load(SMOKE.read_text()), "phantoms": [], "folds": "leave-one-patient-out", **changes}


@pytest.fixture
def scans(tmp_path):
    """Four patients with a lesion each, one without, as a manifest; and one tumour."""

    def write(name, data):
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / name)

    rng = np.random.default_rng(0)
    rows = []
    for number in range(5):
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[3:5, 3:5, 3:5] = number < 4
        write(f"{number}_flair.nii.gz", rng.normal(100, 9, (8, 8, 8)).astype(np.float32))
        write(f"{number}_lesion.nii.gz", mask)
        rows.append({"patient": f"P{number}", "flair": f"{number}_flair.nii.gz", "lesion": f"{number}_lesion.nii.gz"})
    write("t_flair.nii.gz", rng.normal(100, 9, (8, 8, 8)).astype(np.float32))
    write("t_tumour.nii.gz", np.ones((8, 8, 8), np.uint8))
    _manifest(tmp_path / "target.csv", rows)
    _manifest(tmp_path / "tumour.csv", [{"patient": "T", "flair": "t_flair.nii.gz", "tumour": "t_tumour.nii.gz"}])
    return tmp_path, rows


def _manifest(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _config(scans, arms=("scratch", "transfer"), **changes):
    folder, _ = scans
    sources = [{"layout": "manifest", "folder": f"{kind}.csv", "kind": kind} for kind in ("target", "tumour")]
    chosen = {name: arm for name, arm in _told()["arms"].items() if name in arms}
    told = _told(arms=chosen, data={"root": str(folder), "sources": sources}, comparisons=[], classical=[], **changes)
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def _bad_folds(scans):
    return _config(scans, folds={"n_train": 9, "n_test": 11})


def _in_both(scans):
    return _config(scans, folds=[{"train": ["P0", "P1"], "test": ["P1"]}])


def _unknown_patient(scans):
    return _config(scans, folds=[{"train": ["P0"], "test": ["P7"]}])


def _nothing_to_learn(scans):
    return _config(scans, folds=[{"train": ["P4"], "test": ["P0"]}])


def _copied_scan(scans):
    folder, rows = scans
    shutil.copy(folder / "0_flair.nii.gz", folder / "copy.nii.gz")
    _manifest(folder / "target.csv", [*rows, {**rows[0], "patient": "P9", "flair": "copy.nii.gz"}])
    return _config(scans)


def _twice_one_file(scans):
    folder, rows = scans
    _manifest(folder / "target.csv", [*rows, {**rows[0], "patient": "P9"}])
    return _config(scans)


def _no_mask(scans):
    folder, rows = scans
    _manifest(folder / "target.csv", [*rows[:3], {**rows[3], "lesion": ""}])
    return _config(scans)


def _no_such_kind(scans):
    return _config(scans, arms=("ms+target", "transfer"))


def _no_such_stage(scans):
    return _config(scans, schedules={})


def _unknown_key(scans):
    return _config(scans, epochs=3)


def _no_file(scans):
    return scans[0] / "none.yaml"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_bad_folds, "n_train 9 and n_test 11 need 20 patients of kind target; there are 5"),
        (_in_both, "in training and test at once: P1"),
        (_unknown_patient, "no such patient: P7; there are P0, P1"),
        (_nothing_to_learn, "no training scan holds a lesion (P4)"),
        (_copied_scan, "one scan under two patients, P0 and P9"),
        (_twice_one_file, "one scan under two patients"),
        (_no_mask, "a scan of kind target without a lesion mask"),
        (_no_such_kind, "mix the kind ms, of which there is no scan"),
        (_no_such_stage, "no such name: alone"),
        (_unknown_key, "epochs: Extra inputs are not permitted"),
        (_no_file, "shipped: miniature-cpu.yaml, miniature.yaml, paper.yaml, smoke.yaml"),
    ],
)
def test_what_cannot_work_is_said_before_anything_trains(scans, make, words, tmp_path):
    result = run_experiment(make(scans), tmp_path / "out", tmp_path / "cache")
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "out" / "runs").exists()


def _trials(scans, tmp_path, **changes):
    config = read_experiment(_config(scans, **changes), cache=tmp_path / "cache")
    cases = collect_cases(config)
    return plan_trials(config, cases, make_folds(config, cases))


def test_folds_share_a_pre_training_that_saw_no_target_patient_and_a_fine_tuning_leaves_out_the_tested_one(scans, tmp_path):
    trials = _trials(scans, tmp_path)
    transfer = [trial for trial in trials if trial.arm == "transfer"]
    assert len(distinct_runs(trials)) == 5 + 1 + 5
    assert len({trial.run.start.key for trial in transfer}) == 1
    assert transfer[0].run.start.left_out == {"P0", "P1", "P2", "P3", "P4"}
    assert all(trial.run.left_out == set(trial.fold.test) for trial in transfer)


def test_draws_are_of_the_asked_size_differ_and_come_again_with_the_seed(scans, tmp_path):
    config = read_experiment(_config(scans, folds={"n_train": 2, "n_test": 2, "draws": 3}), cache=tmp_path / "cache")
    folds = make_folds(config, collect_cases(config))
    assert [(len(fold.train), len(fold.test), set(fold.train) & set(fold.test)) for fold in folds] == [(2, 2, set())] * 3
    assert len({fold.train for fold in folds}) > 1
    assert folds == make_folds(config, collect_cases(config))
    other = make_folds(config.model_copy(update={"seed": 2}), collect_cases(config))
    assert [fold.test for fold in other] != [fold.test for fold in folds]


def test_a_cuda_device_that_is_asked_for_and_not_there_is_an_error(scans, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    config = read_experiment(_config(scans, device="cuda"), cache=tmp_path / "cache")
    with pytest.raises(UnusableExperiment, match="device: cuda"):
        Experiment(config, tmp_path / "out", Overview())


def test_masks_of_patients_left_out_are_not_painted_with(scans, tmp_path):
    folder = tmp_path / "shapes" / "cross_sectional" / "MNI"
    for number in ("01", "02", "03"):
        (folder / f"patient{number}").mkdir(parents=True)
        mask = np.zeros((24, 24, 24), np.uint8)
        mask[8:12, 8:12, 8:12] = 1
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / f"patient{number}" / f"GOLD_STANDARD_{number}.nii.gz")
    config = read_experiment(_config(scans), cache=tmp_path / "cache")
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"shapes": str(tmp_path / "shapes"), "shapes_left_out": ("01",)})}
    )
    without = frozenset({(folder / "patient02" / "GOLD_STANDARD_02.nii.gz").resolve()})
    assert read_bank(config).names == ("02", "03")
    assert read_bank(config, without).names == ("03",)

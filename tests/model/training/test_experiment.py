"""The experiment: phantoms end to end through the command line, a kill in the middle, and what is refused before anything trains."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from model.training.arms import CONFIGURATIONS, UnusableExperiment, read_experiment
from model.training.assemble import read_bank
from model.training.card import START_DEFINITION
from model.training.cli import app
from model.training.evaluate import Served
from model.training.examples import Truth
from model.training.experiment import Experiment
from model.training.folds import Fold, collect_cases, make_folds
from model.training.network import AttentionVNet, NetworkConfig
from model.training.outcome import choose_definitions
from model.training.overview import Overview
from model.training.plan import Run, Trial, distinct_runs, plan_trials
from model.training.served import aim_heads
from model.volume import Volume

SMOKE = CONFIGURATIONS / "smoke.yaml"
ARMS = ("scratch", "source-only", "ms+target", "source+target", "transfer")


def _told(**changes):
    return {**yaml.safe_load(SMOKE.read_text()), "phantoms": [], "folds": "leave-one-patient-out", **changes}


def _run(config, out, cache):
    threads = torch.get_num_threads()
    result = CliRunner().invoke(app, ["experiment", str(config), "-o", str(out), "--cache", str(cache)])
    torch.set_num_threads(threads)
    return result


def _rows(folder, table="results.csv"):
    with (folder / table).open() as stream:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("experiment") / "smoke"
    result = _run("smoke.yaml", folder, cache)
    assert result.exit_code == 0, result.output
    return folder, result


def test_the_smoke_configuration_runs_every_arm_and_writes_every_file(finished):
    folder, result = finished
    rows = _rows(folder)
    scans = sorted({row["scan"] for row in rows})
    assert [(row["arm"], row["scan"]) for row in rows] == [(arm, scan) for arm in ARMS for scan in scans]
    assert all(row["patient"] == row["fold"] and row["n_train_patients"] == "1" for row in rows)
    assert all(row["chosen_on"] == next(other for other in scans if other != row["scan"]) for row in rows)
    cases = json.loads((folder / "cases.json").read_text())
    assert sorted(cases) == scans
    for row in rows:
        found = nibabel.load(folder / "predictions" / row["arm"] / "seed-1" / f"{row['scan']}.nii.gz")
        scan = nibabel.load(cases[row["scan"]]["flair"])
        assert np.allclose(found.affine, scan.affine)
        ml = float(np.prod(scan.header.get_zooms())) / 1000
        assert np.count_nonzero(np.asarray(found.dataobj) == 1) * ml == pytest.approx(float(row["found_ml"]), rel=1e-4)
    assert len(_rows(folder, "reliability.csv")) == 10 * len(rows)
    told = json.loads((folder / "experiment.json").read_text())
    assert len(told["runs"]) == 9  # two folds of four arms, and one pre-training that two arms and all folds share
    assert all(run["seconds"] > 0 for run in told["runs"])
    assert told["parity"]["openvino-cpu f32"]["largest"] < 2e-3
    assert told["command"] == "leukoscope train experiment smoke.yaml"
    assert (folder / "table.md").stat().st_size > 0
    assert (folder / "summary.pdf").read_bytes().startswith(b"%PDF")
    assert "summary.pdf" in result.output


def test_a_killed_experiment_goes_on_repeats_no_finished_run_and_ends_the_same(finished, cache, tmp_path):
    folder, _ = finished
    again = tmp_path / "again"
    shutil.copytree(folder / "runs", again / "runs")
    fine = next(path for path in sorted((again / "runs").iterdir()) if path.name.startswith("finetune"))
    shutil.rmtree(fine)
    source = next(path for path in (again / "runs").iterdir() if path.name.startswith("source")) / "final.pt"
    before = source.stat().st_mtime_ns
    command = [sys.executable, "-m", "model.training", "experiment", "smoke.yaml", "-o", str(again), "--cache", str(cache)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (fine / "last.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (fine / "final.pt").exists()
    assert not (again / "results.csv").exists()
    result = _run("smoke.yaml", again, cache)
    assert result.exit_code == 0, result.output
    assert "8 of 9 runs were finished before and are not repeated" in result.output
    assert "an earlier run was interrupted; going on from step" in result.output
    assert source.stat().st_mtime_ns == before
    assert _rows(again) == _rows(folder)
    assert _rows(again, "reliability.csv") == _rows(folder, "reliability.csv")


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
    result = _run(make(scans), tmp_path / "out", tmp_path / "cache")
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


def _served(patient, probability):
    lesion = np.zeros((12, 12, 12), bool)
    lesion[4:8, 4:8, 4:8] = True
    everywhere = np.ones(lesion.shape, bool)
    truth = Truth(f"{patient}-1", patient, Volume(lesion.astype(np.float32), np.diag([3.0, 3, 3, 1])), lesion, None, everywhere, True)
    return Served(truth, np.where(lesion, probability, 0.02).astype(np.float32), ~everywhere, everywhere, (), START_DEFINITION)


def _choose(probabilities):
    patients = tuple(probabilities)
    trials = [Trial("arm", 1, Fold(name, tuple(other for other in patients if other != name), (name,)), _no_run()) for name in patients]
    return choose_definitions(trials, {name: [(_served(name, value), 0.0)] for name, value in probabilities.items()})


def _no_run():
    schedule = read_experiment(SMOKE).schedules["alone"]
    return Run("key", "alone", NetworkConfig(), schedule, 1, None, frozenset())


def test_the_lesion_definition_of_a_fold_does_not_hang_on_its_own_test_scan():
    before, after = _choose({"a": 0.97, "b": 0.97, "c": 0.97}), _choose({"a": 0.4, "b": 0.97, "c": 0.97})
    assert before["a"] == after["a"]
    assert before["a"][1] == ("b", "c")
    assert before["b"][0] != after["b"][0]


def test_a_single_draw_keeps_the_definition_it_started_from_and_says_so():
    trial = Trial("arm", 1, Fold("draw-1", ("a",), ("b",)), _no_run())
    assert choose_definitions([trial], {"draw-1": [(_served("b", 0.9), 0.0)]}) == {"draw-1": (START_DEFINITION, ())}


def test_the_head_that_segments_speaks_for_lesion_and_the_tumour_head_is_silent(tiny_config):
    torch.manual_seed(3)
    network = AttentionVNet(tiny_config).eval()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        before = network(x)
        aimed = aim_heads(network, "tumour")(x)
    assert torch.allclose(aimed[:, 0], before[:, 1])
    assert float(aimed[:, 1].max()) < -20
    assert torch.allclose(aimed[:, 2], before[:, 2])
    with torch.no_grad():
        network = AttentionVNet(tiny_config).eval()
        before, alone = network(x), aim_heads(network, "lesion")(x)
    assert torch.equal(alone[:, 0], before[:, 0])
    assert float(alone[:, 1].max()) < -20

"""The experiment: phantoms end to end through the command line, a kill in the middle, and the lesion definition of each fold."""

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
from typer.testing import CliRunner

from model.training.arms import CONFIGURATIONS, read_experiment
from model.training.card import START_DEFINITION
from model.training.cli import app
from model.training.evaluate import Served
from model.training.examples import Truth
from model.training.folds import Fold
from model.training.network import AttentionVNet, NetworkConfig
from model.training.outcome import choose_definitions
from model.training.plan import Run, Trial
from model.training.served import aim_heads
from model.volume import Volume

SMOKE = CONFIGURATIONS / "smoke.yaml"
ARMS = ("scratch", "source-only", "ms+target", "source+target", "transfer")


def run_experiment(config, out, cache):
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
    result = run_experiment("smoke.yaml", folder, cache)
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
    result = run_experiment("smoke.yaml", again, cache)
    assert result.exit_code == 0, result.output
    assert "8 of 9 runs were finished before and are not repeated" in result.output
    assert "an earlier run was interrupted; going on from step" in result.output
    assert source.stat().st_mtime_ns == before
    assert _rows(again) == _rows(folder)
    assert _rows(again, "reliability.csv") == _rows(folder, "reliability.csv")


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

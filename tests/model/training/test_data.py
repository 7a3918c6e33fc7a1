from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydantic import ValidationError

from model.release import InputPreparation
from model.training.configuration import read_config
from model.training.examples import IGNORE, Truth, make_example, with_head
from model.training.layouts import UnusableCase, find_cases, open_ms_shapes, read_mask, read_volume
from model.volume import Volume

CONFIGURATIONS = Path(__file__).parents[3] / "model" / "training" / "configurations"
INPUT = InputPreparation(spacing_mm=2.0, shapes=((80, 96, 80), (112, 128, 112)))


def _ball(size=(120, 150, 120)):
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in size]
    radius = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2)
    brain = radius < 0.95
    random = np.random.default_rng(0)
    image = np.where(brain, 100 + 10 * random.normal(size=size), 0).clip(0).astype(np.float32)
    image[radius < 0.2] = 30
    return Volume(image, np.diag([1.0, 1.0, 1.0, 1.0])), brain


@pytest.fixture(scope="module")
def truth():
    scan, brain = _ball()
    lesion = np.zeros(scan.shape, bool)
    lesion[30:40, 70:82, 60:70] = True
    scan.data[lesion] = 150
    return Truth("ball", "someone", scan, lesion, None, brain, True)


def test_an_example_knows_what_each_head_may_learn(truth, bank):
    example = make_example(truth, "target", INPUT, bank)
    assert int((example.labels[0] == 1).sum()) == pytest.approx(1200 / 8, rel=0.2)
    assert (example.labels[1] == 0).all()
    assert float((example.labels[2] == 1).sum()) * 8 == pytest.approx(truth.brain.sum(), rel=0.05)
    assert float(example.image[example.labels[0] == 1].float().mean()) > example.white.mean + 2 * example.white.sd


def test_bright_matter_nobody_labelled_is_ignored(truth, bank):
    tumour = np.zeros(truth.scan.shape, bool)
    tumour[80:100, 50:70, 50:70] = True
    unlabelled = Truth("ball", "someone", truth.scan, None, tumour, truth.brain, False)
    example = make_example(unlabelled, "tumour", INPUT, bank)
    lesion = make_example(truth, "target", INPUT, bank).labels[0] == 1
    assert (example.labels[0][lesion] == IGNORE).float().mean() > 0.9
    assert (example.labels[1][lesion] == 0).all()
    assert (example.labels[0][example.labels[1] == 1] != 1).all()
    assert float((example.labels[0] == IGNORE).float().mean()) < 0.1


def test_a_lesion_that_changed_between_visits_is_one_only_where_the_scan_is_bright(truth, bank):
    gone = np.zeros_like(truth.lesion)
    gone[80:90, 70:82, 60:70] = True
    raw = replace(truth, lesion=None, changed=truth.lesion | gone)
    labels = make_example(raw, "raw", INPUT, bank).labels[0]
    bright = make_example(truth, "target", INPUT, bank).labels[0] == 1
    dark = make_example(replace(truth, lesion=gone), "target", INPUT, bank).labels[0] == 1
    assert (labels[bright] == 1).float().mean() > 0.8
    assert (labels[dark] == IGNORE).float().mean() > 0.9
    assert (labels[dark] != 0).all()


def test_a_synthetic_head_leaves_the_brain_and_its_labels_where_they_were(truth):
    inside = with_head(truth, 3)
    assert inside.scan.data.max() > 0
    assert np.array_equal(np.sort(inside.scan.data[inside.brain]), np.sort(truth.scan.data[truth.brain]))
    assert inside.lesion is not None
    world = inside.scan.affine_ras @ np.append(np.argwhere(inside.lesion).mean(0), 1)
    before = truth.scan.affine_ras @ np.append(np.argwhere(truth.lesion).mean(0), 1)
    assert np.allclose(world, before)
    assert (np.asarray(inside.scan.data)[~inside.brain] > 20).sum() > 50_000


def test_masks_on_another_grid_and_scans_that_are_not_finite_are_refused(tmp_path):
    def save(name, data, shift=0.0):
        affine = np.eye(4)
        affine[0, 3] = shift
        nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), affine), tmp_path / name)
        return tmp_path / name

    scan = read_volume(save("scan.nii", np.ones((4, 5, 6))))
    with pytest.raises(UnusableCase, match="shape"):
        read_mask(save("other.nii", np.ones((4, 5, 7))), scan)
    with pytest.raises(UnusableCase, match="another grid"):
        read_mask(save("moved.nii", np.ones((4, 5, 6)), shift=3.0), scan)
    with pytest.raises(UnusableCase, match="finite"):
        read_volume(save("nan.nii", np.full((4, 5, 6), np.nan)))


def test_a_folder_without_scans_or_an_unknown_layout_says_so(tmp_path):
    with pytest.raises(UnusableCase, match="no scan of layout 'brats'"):
        find_cases("brats", tmp_path)
    with pytest.raises(UnusableCase, match=r"known: .*brats"):
        find_cases("bratwurst", tmp_path)


def test_the_scans_beside_the_project_are_found(shared_data):
    counts = {name: len(find_cases(name, shared_data / folder)) for name, folder in
              (("brats", "brats2021"), ("mslesseg", "mslesseg"), ("open_ms_mni", "open_ms"), ("open_ms_raw", "open_ms"))}  # fmt: skip
    assert counts == {"brats": 10, "mslesseg": 3, "open_ms_mni": 2, "open_ms_raw": 9}
    assert len(open_ms_shapes(shared_data / "open_ms")) == 29


@pytest.mark.parametrize("name", ["release-0.3.0.yaml", "release-0.4.0.yaml", "release-0.4.0-confluent.yaml"])
def test_shipped_configurations_read_and_keep_left_out_patients_out(name):
    config = read_config(CONFIGURATIONS / name)
    left_out = {patient.split("/")[1] for patient in config.folds if patient.startswith("open_ms/")}
    assert left_out <= set(config.data.shapes_left_out)
    assert "target" not in config.pretrain.mixture


def test_an_unknown_key_stops_a_training(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text((CONFIGURATIONS / "release-0.3.0.yaml").read_text() + "\nlearning_speed: 3\n")
    with pytest.raises(ValidationError, match="learning_speed"):
        read_config(path)

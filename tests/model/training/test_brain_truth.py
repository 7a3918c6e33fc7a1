"""A brain mask that holds the head is no truth: nothing is learnt from it, nothing compared with it, and somebody is told."""

from __future__ import annotations

import dataclasses

import nibabel
import numpy as np
import pytest

from model.phantom import make_phantom
from model.release import InputPreparation
from model.training.assemble import load_examples
from model.training.augment import Painting, draw_crop, find_centres
from model.training.card import START_DEFINITION
from model.training.checks import check_case
from model.training.configuration import Data, Source
from model.training.evaluate import Served, other_figures
from model.training.examples import IGNORE, read_truth
from model.training.layouts import find_cases

SIZE = (48, 48, 48)


@dataclasses.dataclass(frozen=True)
class Scans:
    data: Data
    seed: int = 1
    input: InputPreparation = dataclasses.field(default_factory=InputPreparation)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A phantom twice: with its brain for a brain mask, and with its head."""
    folder = tmp_path_factory.mktemp("two")
    phantom = make_phantom(3, (96, 120, 40), (2.0, 2.0, 4.5))
    flair = np.asarray(phantom.flair.data, np.float32)
    brain = np.asarray(phantom.brain.data, bool)
    masks = {"flair": flair, "lesion": phantom.lesions.data, "brain": brain, "head": flair > 0.1 * flair.max()}
    for name, data in masks.items():
        image = nibabel.Nifti1Image(np.asarray(data, np.float32 if name == "flair" else np.uint8), phantom.flair.affine_ras)
        nibabel.save(image, folder / f"{name}.nii")
    rows = [f"{patient},flair.nii,lesion.nii,{patient}.nii,yes" for patient in ("brain", "head")]
    (folder / "manifest.csv").write_text("\n".join(["patient,flair,lesion,brain,healthy_tumour", *rows]))
    assert brain.sum() * phantom.flair.voxel_ml < 2000 < masks["head"].sum() * phantom.flair.voxel_ml
    return folder


def test_the_brain_of_such_a_scan_is_the_released_network_s_and_no_truth(folder):
    brain, head = (read_truth(case) for case in find_cases("manifest", folder))
    assert brain.brain_known and not head.brain_known
    both = (brain.brain & head.brain).sum() * 2 / (brain.brain.sum() + head.brain.sum())
    assert 0.8 < both < 1.0
    for truth, known in ((brain, True), (head, False)):
        nothing = np.zeros(truth.scan.shape, bool)
        served = Served(truth, nothing.astype(np.float32), nothing, truth.brain, (), START_DEFINITION)
        figures = other_figures(served, START_DEFINITION)
        assert [figures[name] is not None for name in ("brain_dice", "lesion_outside_brain_ml", "reference_brain_ml")] == [known] * 3


def test_it_is_told_when_it_is_prepared_read_from_the_cache_and_checked(folder, tmp_path, bank):
    data = Data(root=folder, cache=tmp_path, sources=(Source(layout="manifest", folder=".", kind="target"),))
    for _ in range(2):
        said: list[str] = []
        known = {one.patient: one.brain_known for one in load_examples(Scans(data), bank, said.append)}
        assert known == {"brain": True, "head": False}
        assert [text.partition(":")[0] for text in said if "the brain head learns nothing" in text] == ["head-1"]
    _, head = (check_case(case) for case in find_cases("manifest", folder))
    assert any("more than any brain" in finding.text for finding in head.findings)


def test_only_the_brain_head_learns_nothing_from_it(example, bank):
    unknown = dataclasses.replace(example, brain_known=False)
    painting = Painting(lesions=1.0, tumours=1.0, strip=0.5)
    painted = 0
    for _ in range(4):
        crop = draw_crop(unknown, find_centres(unknown), SIZE, 0.5, painting, bank)
        assert (crop.labels[0, 2] == IGNORE).all()
        painted += int((crop.labels[0, :2] == 1).sum())
    assert painted > 0 and (unknown.labels[2] == 1).any()

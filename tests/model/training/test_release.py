from __future__ import annotations

import numpy as np
import pytest
import torch

from model.release import load, newest
from model.training.card import INTENDED_USE, LIMITS, START_DEFINITION, START_LIMITS
from model.training.export import NotEqual, check_parity, write_release
from model.training.network import AttentionVNet, NetworkConfig


def _card():
    return {
        "name": "tiny", "version": "0.0.0", "summary": "Untrained.", "input": {"shapes": ((16, 16, 16),)},
        "lesion": START_DEFINITION.model_dump(), "engine": START_LIMITS.model_dump(), "training": {}, "figures": {},
        "intended_use": INTENDED_USE, "limits": LIMITS,
    }  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(1)
    network = AttentionVNet(NetworkConfig(widths=(4, 4, 8)))
    folder = tmp_path_factory.mktemp("release") / "tiny"
    write_release(network, folder, _card())
    return network, folder


def test_a_release_computes_in_every_engine_what_was_trained(exported):
    network, folder = exported
    release = load(folder)
    assert release.card.architecture.widths == (4, 4, 8)
    for shape in ((16, 32, 48), (48, 16, 16)):
        x = np.random.default_rng(0).normal(size=(1, 1, *shape)).astype(np.float32)
        differences = check_parity(network, release.weights, x)
        assert differences["onnxruntime-cpu f32"]["largest"] < 1e-4
        assert differences["openvino-cpu f32"]["largest"] < 1e-3


def test_another_network_than_the_exported_one_is_found_out(exported):
    _, folder = exported
    torch.manual_seed(2)
    with pytest.raises(NotEqual):
        check_parity(AttentionVNet(NetworkConfig(widths=(4, 4, 8))), folder / "weights.onnx")


def test_the_shipped_release_is_measured_and_says_what_it_was_not_tested_on():
    card = newest().card
    assert card.figures["leave_one_patient_out"]["n_patients"] >= 3
    assert card.training["irradiated_patients"] == 0
    assert any("No irradiated patient" in limit for limit in card.limits)
    assert newest().weights.stat().st_size < 12e6
    assert 0 < card.engine.largest_probability_difference <= 0.5

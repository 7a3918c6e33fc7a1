from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from model.release import load, newest
from model.training import export
from model.training.card import INTENDED_USE, LIMITS, START_DEFINITION, START_LIMITS
from model.training.export import Members, NotEqual, average_weights, check_parity, round_weights, write_release
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
    network = round_weights(AttentionVNet(NetworkConfig(widths=(4, 4, 8))))
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


def test_weights_that_float16_holds_take_half_the_room(exported):
    network, folder = exported
    stored = onnx.load(folder / "weights.onnx")
    halved = [tensor for tensor in stored.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    large = [p for p in network.parameters() if p.numel() >= export.SMALLEST_HALVED]
    assert sum(int(np.prod(tensor.dims)) for tensor in halved) == sum(p.numel() for p in large)
    assert (folder / "weights.onnx").stat().st_size < 0.75 * 4 * sum(p.numel() for p in network.parameters()) + 150_000


def test_weights_that_float16_would_change_stay_as_they_are():
    values = np.random.default_rng(0).normal(size=600).astype(np.float32)
    for kept, wanted in ((values, onnx.TensorProto.FLOAT), (values.astype(np.float16).astype(np.float32), onnx.TensorProto.FLOAT16)):
        graph = onnx.helper.make_graph([], "g", [], [], [onnx.numpy_helper.from_array(kept, "w")])
        model = onnx.helper.make_model(graph)
        export.halve(model)
        assert [tensor.data_type for tensor in model.graph.initializer] == [wanted]
        assert len(model.graph.node) == (wanted == onnx.TensorProto.FLOAT16)


def test_rounded_weights_are_near_and_members_speak_with_one_voice():
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(AttentionVNet(NetworkConfig(widths=(4, 4, 8))).eval())
    both, x = Members(networks), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(both(x), (networks[0](x) + networks[1](x)) / 2, atol=1e-6)
        assert torch.allclose(average_weights([networks[0], networks[0]])(x), networks[0](x), atol=1e-5)
        first, second, mean = (next(iter(n.parameters())) for n in (*networks, average_weights(networks)))
        assert torch.allclose(mean, (first + second) / 2)
        rounded = round_weights(networks[0])
        assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(networks[0].parameters(), rounded.parameters(), strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(networks[0].parameters(), rounded.parameters(), strict=True))
    assert export.architecture(both).members == 2
    assert export.architecture(networks[0]).members == 1


def test_weights_too_large_to_ship_are_refused(tmp_path, monkeypatch):
    (tmp_path / "weights.onnx").write_bytes(bytes(2000))
    export.demand_small(tmp_path / "weights.onnx")
    monkeypatch.setattr(export, "LARGEST_BYTES", 1000)
    with pytest.raises(export.TooLarge, match="at most 0 MB"):
        export.demand_small(tmp_path / "weights.onnx")

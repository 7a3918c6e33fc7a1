from __future__ import annotations

import pytest
import torch

from model.training.network import AttentionVNet, NetworkConfig, count_parameters


def test_serving_gives_one_logit_per_head_and_voxel(tiny_network):
    with torch.no_grad():
        assert tiny_network.eval()(torch.randn(1, 1, 16, 32, 48)).shape == (1, 3, 16, 32, 48)


def test_training_gives_a_logit_map_per_supervised_scale():
    stages = AttentionVNet(NetworkConfig(widths=(4, 4, 4, 4))).train()(torch.randn(1, 1, 16, 16, 32))
    assert [tuple(s.shape[2:]) for s in stages] == [(16, 16, 32), (8, 8, 16), (4, 4, 8)]


@pytest.mark.parametrize("change", [{"gates": False}, {"kernel_size": 5}, {"norm": "group"}, {"norm": "none"}])
def test_every_variant_is_one_word_of_configuration(change):
    network = AttentionVNet(NetworkConfig(widths=(4, 8, 8), **change)).eval()
    with torch.no_grad():
        assert torch.isfinite(network(torch.randn(1, 1, 16, 16, 16))).all()


def test_gates_start_nearly_open(tiny_network):
    with torch.no_grad():
        _, attention = tiny_network.eval().decode(torch.zeros(1, 1, 16, 16, 16))
    assert all(seen is not None and 0.6 < float(seen.mean()) < 1.0 for seen in attention)


def test_shipped_width_has_the_size_the_design_names():
    assert 9e6 < count_parameters(AttentionVNet(NetworkConfig())) < 11e6


def test_encoder_decoder_and_heads_are_all_there_is(tiny_network):
    parts = [*tiny_network.encoder_parameters(), *tiny_network.decoder_parameters(), *tiny_network.head_parameters()]
    assert sum(p.numel() for p in parts) == count_parameters(tiny_network)


def test_unknown_configuration_and_even_kernels_are_refused():
    with pytest.raises(ValueError, match="Extra inputs"):
        NetworkConfig(depth=3)
    with pytest.raises(ValueError, match="no such head: oedema"):
        NetworkConfig(heads=("lesion", "oedema"))
    with pytest.raises(ValueError, match="odd"):
        AttentionVNet(NetworkConfig(widths=(4, 4), kernel_size=4))

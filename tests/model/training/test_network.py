from __future__ import annotations

import pytest
import torch

from model.training.describe import describe_network, kept_bytes
from model.training.network import AttentionVNet, NetworkConfig, count_parameters, fold_norm


def test_serving_gives_one_logit_per_head_and_voxel(tiny_network):
    with torch.no_grad():
        assert tiny_network.eval()(torch.randn(1, 1, 16, 32, 48)).shape == (1, 3, 16, 32, 48)


def test_training_gives_a_logit_map_per_supervised_scale():
    stages = AttentionVNet(NetworkConfig(widths=(4, 4, 4, 4))).train()(torch.randn(1, 1, 16, 16, 32))
    assert [tuple(s.shape[2:]) for s in stages] == [(16, 16, 32), (8, 8, 16), (4, 4, 8)]


@pytest.mark.parametrize("stages", [2, 3, 4, 5])
def test_fewer_stages_give_a_shallower_network(stages):
    config = NetworkConfig(widths=(4,) * stages)
    size = 2 ** (stages - 1)
    with torch.no_grad():
        assert AttentionVNet(config).eval()(torch.zeros(1, 1, 2 * size, size, size)).shape == (1, 3, 2 * size, size, size)
    assert len(AttentionVNet(config).train()(torch.randn(1, 1, 32, 32, 32))) == min(3, stages - 1)


def test_attention_maps_are_there_in_training_and_gradients_flow_through_them(tiny_network):
    seen = tiny_network.train().attention_maps(torch.randn(1, 1, 16, 16, 16))
    assert [tuple(part.shape) for part in seen] == [(1, 1, 16, 16, 16), (1, 1, 8, 8, 8)]
    sum(part.sum() for part in seen).backward()
    assert tiny_network.up[0].gate.attention.weight.grad.abs().sum() > 0
    assert AttentionVNet(NetworkConfig(widths=(4, 4), gates=False)).attention_maps(torch.randn(1, 1, 8, 8, 8)) == ()


def test_parameters_and_operations_are_those_of_the_design():
    described = describe_network(NetworkConfig(), (160, 192, 160))
    assert described.parameters == sum(part.parameters for part in described.parts) + 294 == 10_057_741  # two more scales are supervised
    assert described.flops == pytest.approx(525.3e9, rel=1e-3)
    assert sum(part.flops for part in described.parts) == described.flops
    first, last = described.parts[0], described.parts[-1]
    assert first.flops == 2 * 27 * 16 * 160 * 192 * 160  # two for each weight of a 3 x 3 x 3 kernel, voxel and output
    assert (first.shape, last.shape) == ((16, 160, 192, 160), (3, 160, 192, 160))
    large = describe_network(NetworkConfig(kernel_size=5), (160, 192, 160))
    assert 4 < large.flops / described.flops < 5


def test_memory_grows_with_crop_and_batch_and_odd_sizes_are_refused():
    config = NetworkConfig(widths=(4, 4, 8))
    one = kept_bytes(config, (32, 32, 32), 1)
    assert kept_bytes(config, (32, 32, 32), 2) == pytest.approx(2 * one, rel=0.05)
    assert kept_bytes(config, (64, 32, 32), 1) == pytest.approx(2 * one, rel=0.05)
    with pytest.raises(ValueError, match="30 × 32 × 32 does not go through 3 stages: every side must be a multiple of 4"):
        describe_network(config, (30, 32, 32))


@pytest.mark.parametrize("change", [{"gates": False}, {"kernel_size": 5}, {"norm": "group"}, {"norm": "none"}, {"norm": "batch"}])
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


def test_batch_norm_folds_into_the_convolutions_and_then_a_part_gives_what_the_whole_gives():
    torch.manual_seed(2)
    network = AttentionVNet(NetworkConfig(widths=(4, 8), norm="batch")).train()
    for _ in range(20):
        network(2.0 * torch.randn(1, 1, 32, 32, 32) + 1.0)
    served = network.eval()
    folded = fold_norm(served)
    whole = torch.randn(1, 1, 64, 64, 64)
    with torch.no_grad():
        expected = served(whole)
        assert folded.config.norm == "none" and expected.std() > 0.1
        torch.testing.assert_close(folded(whole), expected, atol=1e-5, rtol=1e-4)
        part = folded(whole[..., 16:48, 16:48, 16:48])
    torch.testing.assert_close(part[..., 14:18, 14:18, 14:18], expected[..., 30:34, 30:34, 30:34], atol=1e-5, rtol=1e-4)


def test_other_norms_have_nothing_to_fold(tiny_network):
    assert fold_norm(tiny_network) is tiny_network and not tiny_network.lacks_statistics

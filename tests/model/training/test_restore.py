"""A release's weights into a network and back, weight for weight, and what is no release of the architecture."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from model.release import newest
from model.training.export import run_onnxruntime
from model.training.restore import NotRestored, empty_network, read_weights, restore_network, write_weights


def test_a_release_comes_back_from_its_file_weight_for_weight(base, tmp_path):
    network = restore_network(base)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    write_weights(base, network, tmp_path / "weights.onnx")
    back = read_weights(tmp_path / "weights.onnx", empty_network(base.card.architecture))
    assert all(torch.equal(back[name], value) for name, value in network.state_dict().items())
    x = np.random.default_rng(0).normal(size=(1, 1, 32, 48, 32)).astype(np.float32)
    with torch.no_grad():
        assert np.allclose(network.eval()(torch.from_numpy(x)).numpy(), run_onnxruntime(tmp_path / "weights.onnx", x), atol=1e-4)


def test_the_same_weights_give_the_same_file_and_another_architecture_is_found_out(base, tmp_path):
    shipped = newest()
    assert write_weights(shipped, restore_network(shipped), tmp_path / "again.onnx") == shipped.card.sha256
    with pytest.raises(NotRestored, match="has shape"):
        read_weights(base.weights, empty_network(base.card.architecture.model_copy(update={"widths": (4, 4, 4, 4, 6)})))
    with pytest.raises(NotRestored, match="layers"):
        read_weights(base.weights, empty_network(base.card.architecture.model_copy(update={"gates": False})))


def test_arrays_that_the_exporter_stored_once_are_told_apart_again(base, tmp_path):
    model = onnx.load(base.weights)
    slopes = [node for node in model.graph.node if node.op_type == "PRelu"]
    slopes[1].input[1] = slopes[0].input[1]
    onnx.save(model, tmp_path / "weights.onnx")
    shared = dataclasses.replace(base, folder=tmp_path)
    network = empty_network(base.card.architecture)
    network.load_state_dict(read_weights(shared.weights, network))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    write_weights(shared, network, tmp_path / "apart.onnx")
    back = read_weights(tmp_path / "apart.onnx", network)
    assert all(torch.equal(back[name], value) for name, value in network.state_dict().items())


def test_weights_kept_in_half_precision_are_read_and_written_in_it(base, tmp_path):
    model = onnx.load(base.weights)
    kernel = next(node for node in model.graph.node if node.op_type == "Conv").input[1]
    stored = next(array for array in model.graph.initializer if array.name == kernel)
    stored.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(stored).astype(np.float16), "half"))
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["half"], [kernel], to=onnx.TensorProto.FLOAT))
    onnx.save(model, tmp_path / "weights.onnx")
    halved = dataclasses.replace(base, folder=tmp_path)
    network = restore_network(halved)
    assert torch.equal(network.first.layers[0][0].weight, network.first.layers[0][0].weight.half().float())
    write_weights(halved, network, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "weights.onnx").read_bytes()


def test_a_release_that_averages_networks_is_not_trained_on(base):
    class OfThree:
        def model_dump(self):
            return {**base.card.architecture.model_dump(), "members": 3}

    with pytest.raises(NotRestored, match="averages 3 networks"):
        empty_network(OfThree())

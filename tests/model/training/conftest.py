"""A tiny scan, a tiny shape bank and a tiny network: seconds on one core."""

from __future__ import annotations

import hashlib

import onnx
import pytest
import torch

from model.release import Card, InputPreparation, load, newest
from model.training.card import INTENDED_USE, LIMITS, START_DEFINITION, START_LIMITS
from model.training.examples import Example
from model.training.export import architecture
from model.training.network import AttentionVNet, NetworkConfig
from model.training.paint import Bank, WhiteMatter
from model.training.restore import empty_network, match_layers

SIZE = 64


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_config():
    return NetworkConfig(widths=(4, 4, 8))


@pytest.fixture
def tiny_network(tiny_config):
    return AttentionVNet(tiny_config)


@pytest.fixture(scope="session")
def bank():
    shape = torch.zeros(182, 218, 182, dtype=torch.uint8)
    shape[60:80, 90:110, 80:96] = 1
    shape[102:110, 100:130, 84:92] = 1
    prior = torch.zeros(182, 218, 182)
    prior[40:140, 40:180, 40:130] = 1.0
    return Bank((shape,), prior, ("box",))


@pytest.fixture(scope="session")
def example():
    """A ball of brain with a lesion, a tumour and an ignored piece; its voxels map onto the middle of MNI space."""
    generator = torch.Generator().manual_seed(1)
    axes = torch.linspace(-1, 1, SIZE)
    radius = (axes[:, None, None] ** 2 + axes[None, :, None] ** 2 + axes[None, None, :] ** 2).sqrt()
    labels = torch.zeros(3, SIZE, SIZE, SIZE, dtype=torch.uint8)
    labels[2] = radius < 0.8
    labels[0, 20:25, 30:36, 30:36] = 1
    labels[1, 42:48, 30:36, 30:36] = 1
    labels[0, 30:34, 44:48, 30:36] = 255
    image = torch.where(labels[2] == 1, 0.2 * torch.randn(radius.shape, generator=generator), torch.tensor(-2.0))
    image[radius > 0.95] = 0.0
    to_mni = torch.diag(torch.tensor([2.2, 2.2, 2.2, 1.0], dtype=torch.float64))
    to_mni[:3, 3] = torch.tensor([20.0, 38.0, 14.0])
    return Example("ball", "someone", "target", image.half(), labels, to_mni, WhiteMatter(0.0, 0.3))


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The shipped graph around a tiny network: the exporter alone would take as long as all the rest."""
    torch.manual_seed(1)
    shipped = newest()
    network = AttentionVNet(NetworkConfig(widths=(4, 4, 4, 4, 8), norm=shipped.card.architecture.norm)).eval()
    model = onnx.load(shipped.weights)
    arrays = {}
    for use in match_layers(shipped.weights, model.graph, empty_network(shipped.card.architecture)):
        value = network.state_dict()[use.weight].numpy()
        arrays[use.array] = value.reshape(-1, 1, 1, 1) if use.node.op_type == "PRelu" else value
    del model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in arrays.items())
    weights = model.SerializeToString(deterministic=True)
    folder = tmp_path_factory.mktemp("base") / "tiny-0.3.0"
    folder.mkdir()
    (folder / "weights.onnx").write_bytes(weights)
    card = Card(
        name="tiny", version="0.3.0", summary="Untrained.", input=InputPreparation(spacing_mm=4.0, shapes=((64, 64, 64),)),
        architecture=architecture(network), weights="weights.onnx", sha256=hashlib.sha256(weights).hexdigest(),
        lesion=START_DEFINITION, engine=START_LIMITS, intended_use=INTENDED_USE, limits=(*LIMITS, "off by 3 ml."), figures={"old": 1},
        training={"irradiated_patients": 0, "patients": ["public/1"], "kept_aside": ["public/2"]},
    )  # fmt: skip
    (folder / "card.json").write_text(card.model_dump_json())
    return load(folder)

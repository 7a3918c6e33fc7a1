"""A release back into a network that can be trained on, and trained weights into its file: the ONNX file is the only copy there is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.release import Architecture, Release
from model.training.export import check_parity
from model.training.network import AttentionVNet, NetworkConfig

PREFIX = "network."
COPIES = ("Cast", "Identity")
OPERATORS: dict[type[nn.Module], str] = {
    nn.Conv3d: "Conv",
    nn.ConvTranspose3d: "ConvTranspose",
    nn.InstanceNorm3d: "InstanceNormalization",
    nn.PReLU: "PRelu",
}


class NotRestored(Exception):
    """The file holds other weights than the network of its card."""


def restore_network(release: Release) -> AttentionVNet:
    """The released network in torch, weight for weight, checked against the file in ONNX Runtime and OpenVINO.

    Deep supervision ends with training and its heads are not in the file: the network comes with the serving head alone.

    Raises
    ------
    NotRestored
        A weight is missing or has another shape.
    NotEqual
        The network computes something else than the file.
    """
    network = empty_network(release.card.architecture)
    network.load_state_dict(read_weights(release.weights, network))
    check_parity(network.eval(), release.weights)
    return network


def empty_network(architecture: Architecture) -> AttentionVNet:
    """The network of a card with its serving head alone.

    Raises
    ------
    NotRestored
        The release averages several networks: none of them alone is the release.
    """
    told = architecture.model_dump()
    if told.get("members", 1) != 1:
        raise NotRestored(f"the release averages {told['members']} networks; only one that is a single network can be trained on")
    network = AttentionVNet(NetworkConfig.model_validate({name: told[name] for name in NetworkConfig.model_fields}))
    network.heads = nn.ModuleList([network.heads[0]])
    return network


def read_weights(path: Path, network: AttentionVNet) -> dict[str, Tensor]:
    """Every weight of `network` from an ONNX file.

    Layers are matched in the order in which a volume meets them: names are lost at export where arrays are equal or have no module.

    Raises
    ------
    NotRestored
        A layer or a weight is missing, or has another shape.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    arrays = {array.name: array for array in graph.initializer}
    found = {use.weight: numpy_helper.to_array(arrays[use.array]) for use in match_layers(path, graph, network)}
    return {name: _fitting(path, name, value, found) for name, value in network.state_dict().items()}


def write_weights(release: Release, network: AttentionVNet, path: Path) -> str:
    """Write the release's own ONNX file with the weights of `network` in it; returns the SHA-256.

    The graph and the precision of storage stay the release's, and nothing is traced: what serves is what served before. Equal weights give
    an equal file.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(release.weights)
    arrays = {array.name: array for array in model.graph.initializer}
    state = network.state_dict()
    written: set[str] = set()
    for use in match_layers(release.weights, model.graph, network):
        value = state[use.weight].detach().cpu().numpy()
        old = arrays[use.array]
        if use.array in written:  # the exporter stores equal arrays once; after training they are equal no more
            use.node.input[use.place] = PREFIX + use.weight
            model.graph.initializer.append(numpy_helper.from_array(value.reshape(tuple(old.dims)), PREFIX + use.weight))
            continue
        written.add(use.array)
        fresh = numpy_helper.from_array(value.reshape(tuple(old.dims)).astype(numpy_helper.to_array(old).dtype), use.array)
        if old.HasField("doc_string"):
            fresh.doc_string = old.doc_string
        old.CopyFrom(fresh)
    data = model.SerializeToString(deterministic=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Use:
    """Where a weight of the network is used: input `place` of a node, from a stored array."""

    weight: str
    node: Any
    place: int
    array: str


def match_layers(path: Path, graph: Any, network: AttentionVNet) -> list[Use]:
    """Every weight of the network with its place in an ONNX graph, also where a node only widens the stored array to float32.

    Raises
    ------
    NotRestored
        The graph has other layers.
    """
    stored = {array.name: array.name for array in graph.initializer}
    for node in graph.node:
        if node.op_type in COPIES and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    nodes = [node for node in graph.node if node.op_type in OPERATORS.values()]
    layers = _layers_in_order(network)
    if [node.op_type for node in nodes] != [OPERATORS[type(layer)] for _, layer in layers]:
        raise NotRestored(f"{path}: {len(nodes)} layers that are not those of the card's network, which has {len(layers)}")
    found = []
    for (name, layer), node in zip(layers, nodes, strict=True):
        for place, part in enumerate(("weight", "bias"), 1):
            if getattr(layer, part, None) is None:
                continue
            if place >= len(node.input) or node.input[place] not in stored:
                raise NotRestored(f"{path}: no {part} for {name}")
            found.append(Use(f"{name}.{part}", node, place, stored[node.input[place]]))
    return found


def _layers_in_order(network: AttentionVNet) -> list[tuple[str, nn.Module]]:
    """Layers with weights in the order in which a volume meets them."""
    order: list[tuple[str, nn.Module]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, _, name=name: order.append((name, layer)))
        for name, layer in network.named_modules()
        if type(layer) in OPERATORS
    ]
    training = network.training
    with torch.no_grad():
        network.eval()(torch.randn(1, 1, 32, 32, 32))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return order


def _fitting(path: Path, name: str, like: Tensor, found: dict[str, Any]) -> Tensor:
    if name not in found:
        raise NotRestored(f"{path}: no weights for {name}")
    value = torch.from_numpy(np.array(found[name], np.float32))
    if like.ndim == 1 and value.ndim > 1:
        value = value.reshape(-1)  # a PReLU slope is stored with a size for every axis
    if value.shape != like.shape:
        raise NotRestored(f"{path}: {name} has shape {tuple(value.shape)}, the network of the card {tuple(like.shape)}")
    return value

"""A release back into a network that can be trained on, and trained weights into its file: the ONNX file is the only copy there is."""

from __future__ import annotations

import hashlib
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
    """The network of a card with its serving head alone."""
    network = AttentionVNet(NetworkConfig.model_validate(architecture.model_dump(exclude={"name"})))
    network.heads = nn.ModuleList([network.heads[0]])
    return network


def read_weights(path: Path, network: AttentionVNet) -> dict[str, Tensor]:
    """Every weight of `network` from an ONNX file.

    All but the PReLU slopes keep their names when they are exported; slopes are constants without a name there and are matched by the
    order in which they are used.

    Raises
    ------
    NotRestored
        A weight is missing or has another shape.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    arrays = {stored.name: stored for stored in graph.initializer}
    found = {name: numpy_helper.to_array(arrays[kept]) for name, kept in _stored_names(path, graph, network).items()}
    return {name: _fitting(path, name, value, found) for name, value in network.state_dict().items()}


def write_weights(release: Release, network: AttentionVNet, path: Path) -> str:
    """Write the release's own ONNX file with the weights of `network` in it; returns the SHA-256.

    Graph, names and the precision of storage stay the release's, and nothing is traced: what serves is what served before.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(release.weights)
    stored_names = _stored_names(release.weights, model.graph, network)
    arrays = {stored.name: stored for stored in model.graph.initializer}
    for name, value in network.state_dict().items():
        stored = arrays[stored_names[name]]
        old = numpy_helper.to_array(stored)
        new = value.detach().cpu().numpy().reshape(old.shape).astype(old.dtype)
        fresh = numpy_helper.from_array(new, stored.name)
        fresh.doc_string = stored.doc_string  # present though empty: equal weights give an equal file
        stored.CopyFrom(fresh)
    data = model.SerializeToString(deterministic=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _stored_names(path: Path, graph: Any, network: AttentionVNet) -> dict[str, str]:
    """Weight of the network -> stored array; also where nodes only widen an array to float32, or rename it."""
    stored = {array.name: array.name for array in graph.initializer}
    for node in graph.node:
        if node.op_type in COPIES and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    slopes = _slopes_in_order(network)
    used = [stored.get(node.input[1], "") for node in graph.node if node.op_type == "PRelu"]
    if len(used) != len(slopes):
        raise NotRestored(f"{path}: {len(used)} PReLU layers, the network of the card has {len(slopes)}")
    names = {name.removeprefix(PREFIX): kept for name, kept in stored.items() if name.startswith(PREFIX)}
    names |= dict(zip(slopes, used, strict=True))
    missing = [name for name in network.state_dict() if not names.get(name)]
    if missing:
        raise NotRestored(f"{path}: no weights for {missing[0]} ({len(missing)} missing in all)")
    return names


def _slopes_in_order(network: AttentionVNet) -> list[str]:
    """Names of the PReLU weights in the order in which a volume meets them."""
    order: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: order.append(f"{name}.weight"))
        for name, module in network.named_modules()
        if isinstance(module, nn.PReLU)
    ]
    training = network.training
    with torch.no_grad():
        network.eval()(torch.randn(1, 1, 32, 32, 32))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return order


def _fitting(path: Path, name: str, like: Tensor, found: dict[str, Any]) -> Tensor:
    value = torch.from_numpy(np.array(found[name], np.float32))
    if name.endswith(".weight") and like.ndim == 1 and value.ndim > 1:
        value = value.reshape(-1)  # a PReLU slope is stored as (channels, 1, 1, 1), at times with a leading 1
    if value.shape != like.shape:
        raise NotRestored(f"{path}: {name} has shape {tuple(value.shape)}, the network of the card {tuple(like.shape)}")
    return value

"""From a checkpoint to a release folder: ONNX with free sizes, checked against the network in every engine, and the card."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from model.engine import check_input
from model.release import Architecture, Card, InputPreparation
from model.training.network import AttentionVNet

STEP = 16
TRACED_SHAPE = (32, 48, 64)
PARITY_LIMIT = 2e-3
SMALLEST_HALVED = 256  # values; norms, biases and slopes are a thousandth of the file and stay exact
LARGEST_BYTES = 25e6


class NotEqual(Exception):
    """An engine computes something else than the network that was trained."""


class TooLarge(Exception):
    """A release is shipped inside the package and has to stay small: narrower widths, float16, fewer members."""


class _Serving(nn.Module):
    """The network as it serves: one tensor out, no deep supervision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out = self.network(x)
        if not isinstance(out, Tensor):
            raise TypeError("the network is still in training mode")
        return out


class Members(nn.Module):
    """Several networks of one build as one: the mean of their logits."""

    def __init__(self, networks: Sequence[AttentionVNet]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.config = networks[0].config

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits, shape (n, heads, i, j, k)."""
        return torch.stack([network(x) for network in self.networks]).mean(dim=0)


Network = AttentionVNet | Members


def average_weights(networks: Sequence[AttentionVNet]) -> AttentionVNet:
    """One network with the mean of the weights: networks fine-tuned from one start lie in one valley.

    References
    ----------
    Wortsman et al. (2022) Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time
    """
    states = [network.state_dict() for network in networks]
    mean = copy.deepcopy(networks[0])
    mean.load_state_dict({name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]})
    return mean


def round_weights(network: Network) -> Network:
    """The network with the values that its kernels have when kept in float16."""
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for weight in rounded.parameters():
            if weight.numel() >= SMALLEST_HALVED:
                weight.copy_(weight.half().float())
    return rounded


def export_onnx(network: Network, path: Path) -> str:
    """Write ONNX that computes in float32, its sizes free in steps of 16. Returns the SHA-256 of the file.

    Weights that float16 can hold exactly (`round_weights`) are kept in it, at half the size.
    """
    network = network.eval().to("cpu").to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    sizes = [STEP * torch.export.Dim(f"{name}_blocks", min=1, max=64) for name in ("i", "j", "k")]
    example = torch.randn(1, 1, *TRACED_SHAPE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations while it traces itself
        program = torch.onnx.export(
            _Serving(network),
            (example,),
            dynamo=True,
            dynamic_shapes=({2: sizes[0], 3: sizes[1], 4: sizes[2]},),
            input_names=["flair"],
            output_names=["logits"],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto  # made anew each time it is asked for
    halve(model)
    weights = _without_traces(model)
    path.write_bytes(weights)
    return hashlib.sha256(weights).hexdigest()


def halve(model: Any) -> None:
    """Keep weights in float16 where that loses nothing, each cast back to float32 before it is used."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if values.size < SMALLEST_HALVED or not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _without_traces(model: Any) -> bytes:
    """Serialise without the stack traces that the exporter notes beside every node: they hold the paths of the machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return bytes(model.SerializeToString(deterministic=True))


def run_onnxruntime(path: Path, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits from ONNX Runtime's CPU provider."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0], np.float32)


def run_openvino(path: Path, x: npt.NDArray[np.float32], precision: str) -> npt.NDArray[np.float32]:
    """Logits from OpenVINO on the CPU, "f32" or "bf16"."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return np.asarray(compiled(x)[compiled.output(0)], np.float32)


def check_parity(network: Network, path: Path, x: npt.NDArray[np.float32] | None = None) -> dict[str, dict[str, float]]:
    """Largest and mean difference in probability from the network in torch, per engine.

    Raises
    ------
    NotEqual
        A float32 engine differs by more than PARITY_LIMIT. (bfloat16 is measured, and bounded by the card.)
    """
    if x is None:
        x = check_input(InputPreparation())  # in noise a trained network finds nothing, and nothing is equal in every engine
    with torch.no_grad():
        reference = _sigmoid(network.eval()(torch.from_numpy(x)).numpy())
    found = {"onnxruntime-cpu f32": run_onnxruntime(path, x), "openvino-cpu f32": run_openvino(path, x, "f32")}
    differences = {name: _difference(reference, logits) for name, logits in found.items()}
    worst = max(entry["largest"] for entry in differences.values())
    if worst > PARITY_LIMIT:
        raise NotEqual(f"probabilities differ by up to {worst:.4f} from torch: {json.dumps(differences)}")
    differences["openvino-cpu bf16"] = _difference(reference, run_openvino(path, x, "bf16"))
    return differences


def _sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60))), np.float32)


def _difference(reference: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> dict[str, float]:
    apart = np.abs(reference - _sigmoid(logits))
    return {"largest": round(float(apart.max()), 6), "mean": round(float(apart.mean()), 8)}


def architecture(network: Network) -> Architecture:
    """The card's words for what the network was built with."""
    config = network.config
    members = len(network.networks) if isinstance(network, Members) else 1
    return Architecture(
        widths=config.widths, kernel_size=config.kernel_size, gates=config.gates, norm=config.norm, heads=config.heads, members=members
    )


def versions() -> dict[str, str]:
    """Library versions that go into the card."""
    import onnx
    import onnxruntime
    import openvino

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "openvino": str(openvino.__version__),
        "numpy": np.__version__,
    }


def write_release(network: Network, folder: Path, card: dict[str, Any]) -> Card:
    """Export into `folder` and write the card; `card` lacks only what the weights decide."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.onnx"
    digest = export_onnx(network, weights)
    demand_small(weights)
    whole = Card.model_validate({**card, "architecture": architecture(network).model_dump(), "weights": weights.name, "sha256": digest})
    (folder / "card.json").write_text(whole.model_dump_json(indent=2) + "\n")
    return whole


def demand_small(weights: Path) -> None:
    """Raise `TooLarge` for weights that cannot be shipped."""
    size = weights.stat().st_size
    if size > LARGEST_BYTES:
        raise TooLarge(f"{weights}: {size / 1e6:.1f} MB, at most {LARGEST_BYTES / 1e6:.0f} MB may be shipped")


def rewrite_card(folder: Path, **changes: Any) -> None:
    """Put measured figures and limits into the card of a release whose weights stay."""
    path = folder / "card.json"
    card = Card.model_validate_json(path.read_text())
    changed = Card.model_validate(
        {**card.model_dump(), **{k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in changes.items()}}
    )
    path.write_text(changed.model_dump_json(indent=2) + "\n")

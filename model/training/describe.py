"""`leukoscope train describe`: shapes, parameters, operations and memory of a network, from tensors without content, so at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.training.configuration import Schedule, read_config
from model.training.network import AttentionVNet, NetworkConfig, count_parameters

BYTES_A_WEIGHT = 20  # float32: weight, gradient, two moments of AdamW, average
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """One stage: the shape it gives, its parameters, and its operations (a multiplication and an addition are two)."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class Description:
    """A network at one input size; convolutions alone are counted."""

    parts: tuple[Part, ...]
    parameters: int
    flops: int


def describe_network(config: NetworkConfig, size: Size) -> Description:
    """What serving one volume takes.

    Raises
    ------
    ValueError
        The size cannot be halved as often as the network has stages, or no such network can be built.
    """
    step = 2 ** (len(config.widths) - 1)
    if any(n <= 0 or n % step for n in size):
        raise ValueError(f"{_times(size)} does not go through {len(config.widths)} stages: every side must be a multiple of {step}")
    network = _hollow(config).eval()
    stages = _stages(network)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in stages.items():
        module.register_forward_hook(_noting(shapes, name))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 1, *size, device="meta"))
    counts = counter.get_flop_counts()
    flops = {name: sum(counts.get(f"AttentionVNet.{name}", {}).values()) for name in stages}
    parts = [Part(name, shapes[name], count_parameters(module), flops[name]) for name, module in stages.items() if name in shapes]
    return Description(tuple(parts), count_parameters(network), counter.get_total_flops())


def kept_bytes(config: NetworkConfig, size: Size, batch: int) -> int:
    """Activations a training step keeps for the way back, in bfloat16; loss, work space and the volumes come on top."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # noqa: SLF001  (tensors without content have no address)
        return tensor

    network = _hollow(config).train().to(torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.empty(batch, 1, *size, device="meta", dtype=torch.bfloat16))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _hollow(config: NetworkConfig) -> AttentionVNet:
    with torch.device("meta"):
        return AttentionVNet(config)


def _stages(network: AttentionVNet) -> dict[str, nn.Module]:
    """In the order the volume passes them."""
    found: dict[str, nn.Module] = {"first": network.first}
    for index, (reduce, stage) in enumerate(zip(network.reduce, network.down, strict=True)):
        found |= {f"reduce.{index}": reduce, f"down.{index}": stage}
    found |= {f"up.{index}": network.up[index] for index in reversed(range(len(network.up)))}
    return found | {f"heads.{index}": head for index, head in enumerate(network.heads)}


def _noting(shapes: dict[str, tuple[int, ...]], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def note(_module: nn.Module, _inputs: Any, out: Tensor | tuple[Tensor, Tensor | None]) -> None:
        shapes[name] = tuple((out if isinstance(out, Tensor) else out[0]).shape[1:])

    return note


def _times(size: tuple[int, ...]) -> str:
    return " × ".join(str(n) for n in size)


def describe(
    config_path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="CONFIG", help="YAML configuration")],
    size: Annotated[tuple[int, int, int], typer.Option(help="voxels of the volume that is served")] = (160, 192, 160),
) -> None:
    """Print the network's stages with shapes, parameters and operations, and what training it keeps in memory."""
    config = read_config(config_path)
    try:
        described = describe_network(config.network, size)
        memory = {name: _memory(config.network, schedule) for name, schedule in _schedules(config.pretrain, config.finetune)}
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    table = Table("stage", "gives", "parameters", "GFLOP", title=f"serving {_times(size)}")
    for column in table.columns[2:]:
        column.justify = "right"
    for part in described.parts:
        table.add_row(part.name, _times(part.shape), f"{part.parameters:,}", f"{part.flops / 1e9:.1f}")
    Console().print(table)
    total = f"{described.parameters:,} parameters, {described.flops / 1e9:.1f} GFLOP ({described.flops / 2e9:.1f} G multiply-adds)"
    typer.echo(f"{total}, heads: {', '.join(config.network.heads)}")
    for name, needed in memory.items():
        typer.echo(f"{name}: about {needed / 1e9:.2f} GB (activations in bfloat16, weights, AdamW, average) beside volumes and work space")


def _schedules(pretrain: Schedule, finetune: Schedule) -> list[tuple[str, Schedule]]:
    return [("pretrain", pretrain), ("finetune", finetune)]


def _memory(network: NetworkConfig, schedule: Schedule) -> int:
    size = schedule.crop if schedule.large_crop is None else schedule.large_crop
    return kept_bytes(network, size, schedule.batch) + BYTES_A_WEIGHT * count_parameters(_hollow(network))

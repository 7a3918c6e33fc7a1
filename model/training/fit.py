"""The training loop: plain, seeded, and able to go on after a kill from its last whole checkpoint."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from model.training.augment import Crop, Painting, draw_crop
from model.training.configuration import Schedule
from model.training.examples import Example
from model.training.loss import masked_loss, supervised_loss
from model.training.network import AttentionVNet, NetworkConfig
from model.training.paint import Bank

Say = Callable[[str], None]


class Average:
    """Exponential moving average of the weights; short memory while young."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def update(self, network: nn.Module) -> None:
        """Take one step of the network in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in network.state_dict().items():
            self.weights[name].lerp_(value.detach(), 1.0 - decay)


def learning_rate(schedule: Schedule, step: int) -> float:
    """Warm-up, then cosine to a hundredth; a share of the schedule's rate."""
    if step < schedule.warm_up:
        return (step + 1) / schedule.warm_up
    progress = (step - schedule.warm_up) / max(1, schedule.steps - schedule.warm_up)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def draw(examples: Sequence[Example], schedule: Schedule, bank: Bank, step: int) -> Crop:
    """The crop of one step. The random numbers of a step depend on seed and step only."""
    kinds = [kind for kind in schedule.mixture if any(example.kind == kind for example in examples)]
    shares = torch.tensor([schedule.mixture[kind] for kind in kinds])
    kind = kinds[int(torch.multinomial(shares, 1))]
    patients = sorted({example.patient for example in examples if example.kind == kind})
    patient = patients[int(torch.randint(len(patients), ()))]
    choices = [example for example in examples if example.kind == kind and example.patient == patient]
    example = choices[int(torch.randint(len(choices), ()))]
    return draw_crop(example, crop_size(schedule, step), schedule.centred, schedule.painting.get(kind, Painting()), bank)


def crop_size(schedule: Schedule, step: int) -> tuple[int, int, int]:
    """Small crops, with large ones now and then and at the end."""
    now_and_then = schedule.large_every > 0 and step % schedule.large_every == schedule.large_every - 1
    if schedule.large_crop is not None and (now_and_then or step >= schedule.steps - schedule.large_steps):
        return schedule.large_crop
    return schedule.crop


def fit(
    network: AttentionVNet,
    examples: Sequence[Example],
    bank: Bank,
    schedule: Schedule,
    folder: Path,
    seed: int,
    say: Say,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Train, or go on training, and return the averaged weights.

    A checkpoint `last.pt` is replaced whole; a run that finds one goes on from it and says so. `final.pt` ends the run.
    """
    device = device or torch.device("cpu")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "final.pt").exists():
        say(f"{folder.name}: finished before, nothing to do")
        return read_weights(folder / "final.pt")[1]
    network = network.to(device).to(memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        [
            {"params": network.encoder_parameters(), "lr": schedule.learning_rate * schedule.encoder_rate},
            {"params": network.decoder_parameters(), "lr": schedule.learning_rate},
        ],
        weight_decay=schedule.weight_decay,
    )
    rates = [group["lr"] for group in optimiser.param_groups]
    average = Average(network, schedule.ema)
    start = _resume(folder / "last.pt", network, optimiser, average, say)
    weights = torch.tensor(schedule.head_weights, device=device)
    with (folder / "log.jsonl").open("a", buffering=1) as log:
        for step in _progress(range(start, schedule.steps), folder.name):
            began = time.monotonic()
            torch.manual_seed(seed * 1_000_003 + step)
            crop = draw(examples, schedule, bank, step)
            drawn = time.monotonic()
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * learning_rate(schedule, step)
            figures = _step(network, optimiser, crop, weights, schedule, device)
            average.update(network)
            spent = {"draw_s": round(drawn - began, 3), "step_s": round(time.monotonic() - began, 3)}
            log.write(json.dumps({"step": step, **figures, **spent}) + "\n")
            if (step + 1) % schedule.checkpoint_every == 0 and step + 1 < schedule.steps:
                _checkpoint(folder / "last.pt", network, optimiser, average, step + 1)
    write_weights(folder / "final.pt", network.config, average.weights, schedule.steps)
    return average.weights


def _step(
    network: AttentionVNet, optimiser: torch.optim.Optimizer, crop: Crop, weights: Tensor, schedule: Schedule, device: torch.device
) -> dict[str, Any]:
    image = crop.image.to(device).contiguous(memory_format=torch.channels_last_3d)
    labels = crop.labels.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        stages = network(image)
    loss = supervised_loss(stages, labels, weights, schedule.alpha)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), schedule.clip)
    if torch.isfinite(norm):
        optimiser.step()
    with torch.no_grad():
        heads = masked_loss(stages[0].float(), labels, schedule.alpha)
    named = {name: round(float(value), 4) for name, value in zip(network.config.heads, heads, strict=True)}
    return {"loss": round(float(loss.detach()), 4), **named, "norm": round(float(norm), 3)}


def _progress(steps: range, name: str) -> Iterator[int]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=False) as progress:
        task = progress.add_task(name, total=steps.stop, completed=steps.start)
        for step in steps:
            yield step
            progress.advance(task)


def _resume(path: Path, network: AttentionVNet, optimiser: torch.optim.Optimizer, average: Average, say: Say) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    network.load_state_dict(saved["network"])
    optimiser.load_state_dict(saved["optimiser"])
    average.weights, average.steps = saved["average"], saved["average_steps"]
    say(f"{path.parent.name}: an earlier run was interrupted; going on from step {saved['step']}")
    return int(saved["step"])


def _checkpoint(path: Path, network: AttentionVNet, optimiser: torch.optim.Optimizer, average: Average, step: int) -> None:
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average.weights,
        "average_steps": average.steps,
        "step": step,
    }
    _write_whole(path, state)


def _write_whole(path: Path, state: dict[str, Any]) -> None:
    """A kill leaves the old file or the new one, never half of one."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def write_weights(path: Path, config: NetworkConfig, weights: dict[str, Tensor], steps: int) -> None:
    """Weights with the configuration that reads them."""
    _write_whole(path, {"config": config.model_dump_json(), "weights": weights, "steps": steps})


def read_weights(path: Path) -> tuple[NetworkConfig, dict[str, Tensor]]:
    """What `write_weights` wrote."""
    saved = torch.load(path, weights_only=True)
    return NetworkConfig.model_validate_json(saved["config"]), saved["weights"]


def load_network(path: Path) -> AttentionVNet:
    """A network ready to predict."""
    config, weights = read_weights(path)
    network = AttentionVNet(config)
    network.load_state_dict(weights)
    return network.eval()

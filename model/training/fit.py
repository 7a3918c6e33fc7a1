"""The training loop: plain, seeded, and able to go on after a kill from its last whole checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from model.training.augment import Crop
from model.training.configuration import Schedule
from model.training.draw import Pool, crop_size
from model.training.examples import Example
from model.training.journal import Journal, Watch
from model.training.loss import supervised_loss
from model.training.network import HEADS, AttentionVNet, NetworkConfig, fold_norm
from model.training.optimise import Average, make_optimiser, release_layers, set_rates
from model.training.paint import Bank
from model.training.whole import whole_file

Say = Callable[[str], None]
SKIPS_IN_A_ROW = 20


class CannotTrain(Exception):
    """Training cannot start or go on; the message says why and what to change."""


def choose_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    network: AttentionVNet,
    examples: Sequence[Example],
    bank: Bank,
    schedule: Schedule,
    folder: Path,
    seed: int,
    say: Say,
    device: torch.device | None = None,
    tensorboard: bool = False,
    watch: Watch | None = None,
) -> dict[str, Tensor]:
    """Train, or go on training, and return the averaged weights.

    A checkpoint `last.pt` is replaced whole; a run that finds one goes on from it and says so. `final.pt` ends the run. `watch` is told
    every step and its loss, in the place of a bar of the run's own.

    Raises
    ------
    CannotTrain
        Nothing to train on, a checkpoint of something else, no finite loss many times in a row, or no memory left.
    """
    device = device or choose_device()
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "final.pt").exists():
        say(f"{folder.name}: finished before, nothing to do")
        return read_weights(folder / "final.pt")[1]
    torch.backends.cudnn.deterministic = True
    pool = _pool(examples, bank, schedule, device, say)
    network = network.to(device).to(memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    if schedule.statistics_steps == 0 and network.lacks_statistics:
        raise CannotTrain(
            "norm: batch has no statistics yet: the first schedule of a network needs `statistics_steps` (half its steps do well)"
        )
    optimiser = make_optimiser(network, schedule)
    average = Average(network, schedule.ema)
    start = _resume(folder / "last.pt", network, optimiser, average, say)
    skipped, in_a_row = 0, 0
    with Journal(folder, range(start, schedule.steps), tensorboard, watch) as journal:
        for step in journal.steps():
            began = time.monotonic()
            torch.manual_seed(seed * 1_000_003 + step)
            release_layers(network, schedule, step)
            network.learn_statistics(step < schedule.statistics_steps)
            set_rates(optimiser, schedule, step)
            with _memory_explained(schedule, step, network.config):
                crop = pool.draw(step)
                drawn = time.monotonic()
                finite, figures = _step(network, optimiser, crop, schedule)
            average.update(network)
            skipped, in_a_row = (skipped, 0) if finite else (skipped + 1, in_a_row + 1)
            spent = {"draw_s": round(drawn - began, 3), "step_s": round(time.monotonic() - began, 3)}
            journal.write(step, {**figures, "rate": optimiser.param_groups[-1]["lr"], "skipped": skipped, **spent})
            if in_a_row >= SKIPS_IN_A_ROW:
                raise CannotTrain(_diverged(folder, step))
            if (step + 1) % schedule.checkpoint_every == 0 and step + 1 < schedule.steps and finite:
                _checkpoint(folder / "last.pt", network, optimiser, average, step + 1)
    write_weights(folder / "final.pt", network.config, average.weights, schedule.steps)
    return average.weights


def _pool(examples: Sequence[Example], bank: Bank, schedule: Schedule, device: torch.device, say: Say) -> Pool:
    try:
        pool = Pool(examples, bank, schedule, device)
    except ValueError as error:
        raise CannotTrain(str(error)) from None
    except torch.OutOfMemoryError as error:
        raise CannotTrain(f"the {len(examples)} volumes do not fit into the memory of {device}: take fewer (`use` of a source)") from error
    if pool.absent:
        say(f"`mixture` names kinds without a volume, which are left out: {', '.join(pool.absent)}")
    return pool


def _step(network: AttentionVNet, optimiser: torch.optim.Optimizer, crop: Crop, schedule: Schedule) -> tuple[bool, dict[str, float]]:
    """One move of the weights, unless a gradient is not finite; and the figures of it. The host waits for the device once."""
    image = crop.image.contiguous(memory_format=torch.channels_last_3d)
    chosen = [HEADS.index(name) for name in network.config.heads]
    weights = torch.tensor([schedule.head_weights[head] for head in chosen], device=image.device)
    alpha = [schedule.alpha[head] for head in chosen]
    with torch.autocast(image.device.type, torch.bfloat16, enabled=has_bfloat16(image.device)):
        stages = network(image)
    loss, heads = supervised_loss(stages, crop.labels[:, chosen], weights, alpha, schedule.empty_weight)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), schedule.clip)
    values = torch.stack((loss.detach(), norm, *heads)).tolist()
    finite = bool(torch.isfinite(torch.tensor(values[:2])).all())
    if finite:
        optimiser.step()
    names = ("loss", "norm", *network.config.heads)
    return finite, {name: round(value, 4) for name, value in zip(names, values, strict=True)}


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; where it would only be imitated, float32 is faster."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001  (torch has no public question)


def _diverged(folder: Path, step: int) -> str:
    return (
        f"{folder.name}: no finite gradient in {SKIPS_IN_A_ROW} steps in a row, the last one step {step} (log.jsonl). The weights stayed "
        "as they were. Lower `learning_rate` or `clip`, lengthen `warm_up`, or look at what is drawn: leukoscope train contact-sheet"
    )


@contextmanager
def _memory_explained(schedule: Schedule, step: int, config: NetworkConfig) -> Iterator[None]:
    """Turn the allocator's refusal (of a GPU, or of the machine) into the settings that decide how much is asked for."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        asked = isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
        if not asked:
            raise
        size = crop_size(schedule, step)
        knob = "large_crop" if size == schedule.large_crop else "crop"
        raise CannotTrain(
            f"out of memory at step {step}. Smaller, in this order: `batch` (now {schedule.batch}), `{knob}` (now {list(size)}), "
            f"`widths` (now {list(config.widths)}). {str(error).splitlines()[0]}"
        ) from error


def _resume(path: Path, network: AttentionVNet, optimiser: torch.optim.Optimizer, average: Average, say: Say) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    try:
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
    except (RuntimeError, ValueError):
        raise CannotTrain(f"{path} is of another network than the configuration's: choose another folder, or delete it") from None
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
    with whole_file(path) as stream:
        torch.save(state, stream)


def write_weights(path: Path, config: NetworkConfig, weights: dict[str, Tensor], steps: int) -> None:
    """Weights with the configuration that reads them."""
    with whole_file(path) as stream:
        torch.save({"config": config.model_dump_json(), "weights": weights, "steps": steps}, stream)


def read_weights(path: Path) -> tuple[NetworkConfig, dict[str, Tensor]]:
    """What `write_weights` wrote."""
    saved = torch.load(path, weights_only=True)
    return NetworkConfig.model_validate_json(saved["config"]), saved["weights"]


def load_network(path: Path) -> AttentionVNet:
    """A network ready to predict, batch norm folded into its convolutions."""
    config, weights = read_weights(path)
    network = AttentionVNet(config)
    network.load_state_dict(weights)
    return fold_norm(network.eval())


def start_network(path: Path, config: NetworkConfig, fresh_heads: Sequence[str] = ()) -> AttentionVNet:
    """A network to go on training: weights of a checkpoint, heads by name; those named fresh, and those it never had, start anew.

    Raises
    ------
    CannotTrain
        The checkpoint is of another network than `config` but for the heads, or a fresh head is none of the configuration's.
    """
    saved, weights = read_weights(path)
    if (same := saved.model_copy(update={"heads": config.heads})) != config:
        different = [name for name in type(config).model_fields if getattr(same, name) != getattr(config, name)]
        told = "; ".join(f"{name} {getattr(saved, name)} there, {getattr(config, name)} here" for name in different)
        raise CannotTrain(f"{path} holds another network than the configuration's: {told}")
    if unknown := sorted(set(fresh_heads) - set(config.heads)):
        raise CannotTrain(f"`fresh_heads` names {', '.join(unknown)}, but the network's heads are {', '.join(config.heads)}")
    network = AttentionVNet(config)
    kept = [name for name in config.heads if name in saved.heads and name not in fresh_heads]
    here, there = [config.heads.index(name) for name in kept], [saved.heads.index(name) for name in kept]
    state = network.state_dict()
    for name, value in weights.items():
        if name.startswith("heads."):
            state[name][here] = value[there]
        else:
            state[name] = value
    network.load_state_dict(state)
    return network

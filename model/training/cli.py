"""`leukoscope train`: pre-train, fine-tune, evaluate, release, describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from model.training.assemble import load_examples, read_bank
from model.training.configuration import Config, Schedule, read_config
from model.training.fit import fit, load_network
from model.training.network import AttentionVNet

app = typer.Typer(no_args_is_help=True, help="Train, evaluate and release segmentation networks (needs the extra `train`).")

ConfigPath = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML configuration")]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="where checkpoints and logs go")]


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _start(config_path: Path, seed_offset: int = 0) -> Config:
    config = read_config(config_path)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed + seed_offset)
    return config


def _run(config: Config, schedule: Schedule, network: AttentionVNet, out: Path, leave_out: tuple[str, ...], seed: int) -> None:
    bank = read_bank(config)
    examples = load_examples(config, bank, _say, tuple(schedule.mixture))
    kept = [example for example in examples if example.patient not in leave_out]
    _say(f"{out.name}: {len(kept)} volumes of {len({example.patient for example in kept})} patients; left out: {leave_out or 'nobody'}")
    fit(network, kept, bank, schedule, out, seed, _say)


@app.command()
def pretrain(config_path: ConfigPath, out: OutFolder) -> None:
    """Train from scratch on source scans, painted lesions and phantoms: no scan of any target patient."""
    config = _start(config_path)
    _run(config, config.pretrain, AttentionVNet(config.network), out, (), config.seed)


@app.command()
def finetune(
    config_path: ConfigPath,
    out: OutFolder,
    start: Annotated[Path, typer.Option("--from", exists=True, help="`final.pt` of a pre-training")],
    leave_out: Annotated[list[str] | None, typer.Option(help="a patient to keep away, e.g. open_ms/07; may be repeated")] = None,
) -> None:
    """Go on from a pre-training with the target scans."""
    config = _start(config_path, 1)
    network = load_network(start)
    _run(config, config.finetune, network, out, tuple(leave_out or ()), config.seed + 1)

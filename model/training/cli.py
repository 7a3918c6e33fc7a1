"""`leukoscope train`: pre-train, fine-tune, evaluate, release, describe."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from model.training.adapt_command import accept, adapt
from model.training.assemble import load_examples, read_bank
from model.training.candidates import Ensemble
from model.training.card import START_DEFINITION, describe_training
from model.training.configuration import Config, Schedule, read_config
from model.training.contact_sheet import contact_sheet
from model.training.describe import describe
from model.training.evaluate import score_lesions, serve
from model.training.evidence import draw_served, open_reference, summary_line, target_truths
from model.training.examples import Example
from model.training.fit import CannotTrain, fit, start_network
from model.training.network import AttentionVNet
from model.training.release import make_release, provisional
from model.training.release_tables import print_tables

app = typer.Typer(no_args_is_help=True, help="Train, evaluate and release segmentation networks (needs the extra `train`).")
app.command()(adapt)
app.command()(accept)
app.command()(contact_sheet)
app.command()(describe)

ConfigPath = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML configuration")]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="where checkpoints and logs go")]
Board = Annotated[bool, typer.Option("--tensorboard", help="write TensorBoard's files too, beside log.jsonl")]
Pictures = Annotated[Path | None, typer.Option(help="folder for overlay pictures")]


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _start(config_path: Path) -> Config:
    config = read_config(config_path)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    return config


def _run(config: Config, schedule: Schedule, start: Path | None, out: Path, leave_out: Sequence[str], seed: int, board: bool) -> None:
    network = AttentionVNet(config.network) if start is None else start_network(start, config.network, schedule.fresh_heads)
    bank = read_bank(config)
    examples = load_examples(config, bank, _say, tuple(schedule.mixture))
    kept = [example for example in examples if example.patient not in leave_out]
    missing = set(leave_out) - {example.patient for example in examples}
    if missing:
        raise typer.BadParameter(f"no scan of {', '.join(sorted(missing))} in the configuration's data", param_hint="--leave-out")
    _say(f"{out.name}: {len(kept)} volumes of {len({e.patient for e in kept})} patients; left out: {', '.join(leave_out) or 'nobody'}")
    fit(network, kept, bank, schedule, out, seed, _say, tensorboard=board)
    described = describe_training(config, _count(kept), _count(_one_each(kept)))
    if start is not None and (start.parent / "described.json").exists():
        described["started_from"] = json.loads((start.parent / "described.json").read_text())
    (out / "described.json").write_text(json.dumps(described, indent=1))


@contextmanager
def _explained() -> Iterator[None]:
    """What a person has to change ends the command in one sentence."""
    try:
        yield
    except (CannotTrain, ModuleNotFoundError) as error:
        _say(f"error: {error}")
        raise typer.Exit(1) from None


def _one_each(examples: Sequence[Example]) -> list[Example]:
    return list({example.patient: example for example in examples}.values())


def _count(examples: Sequence[Example]) -> dict[str, int]:
    return dict(Counter(example.kind for example in examples))


@app.command()
def pretrain(
    config_path: ConfigPath,
    out: OutFolder,
    start: Annotated[Path | None, typer.Option("--from", exists=True, help="`final.pt` of an earlier pre-training to go on from")] = None,
    tensorboard: Board = False,
) -> None:
    """Train on source scans, painted lesions and phantoms, from scratch or further: no scan of any target patient."""
    config = _start(config_path)
    with _explained():
        _run(config, config.pretrain, start, out, (), config.seed, tensorboard)


@app.command()
def finetune(
    config_path: ConfigPath,
    out: OutFolder,
    start: Annotated[Path, typer.Option("--from", exists=True, help="`final.pt` of a pre-training")],
    leave_out: Annotated[list[str] | None, typer.Option(help="a patient to keep away, e.g. open_ms/07; may be repeated")] = None,
    tensorboard: Board = False,
) -> None:
    """Go on from a pre-training with the target scans."""
    config = _start(config_path)
    with _explained():
        _run(config, config.finetune, start, out, tuple(leave_out or ()), config.seed + 1, tensorboard)


@app.command()
def evaluate(
    config_path: ConfigPath,
    run: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="folder of a finished run")],
    patient: Annotated[list[str] | None, typer.Option(help="target patient; all if left out")] = None,
    pictures: Pictures = None,
) -> None:
    """Score a run on target patients through the served path, with the lesion definition training starts from."""
    config = _start(config_path)
    release, engine = open_reference(provisional(config, run))
    table = Table("scan", "Dice", "lesion F1", "sensitivity", "precision", "HD95 mm", "true ml", "found ml")
    for name in patient or config.folds:
        for truth in target_truths(config, name):
            served = serve(truth, engine, release.card)
            s = score_lesions(served, START_DEFINITION)
            figures = (s.dice, s.lesion_f1, s.sensitivity, s.precision, s.hausdorff95_mm, s.truth_ml, s.found_ml)
            table.add_row(truth.name, *(f"{value:.3f}" for value in figures))
            if pictures is not None:
                draw_served(served, START_DEFINITION, pictures)
    Console().print(table)


@app.command()
def release(
    config_path: ConfigPath,
    out: OutFolder,
    final: Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder of the run on all target patients")],
    fold: Annotated[list[str], typer.Option(help="PATIENT=FOLDER of the run that left this patient out; repeated")],
    version: Annotated[str, typer.Option(help="version of the release")],
    pictures: Pictures = None,
    ensemble: Annotated[
        Ensemble, typer.Option(help="also try final and folds as one: averaged weights (soup) or outputs (mean)")
    ] = Ensemble.ONE,
) -> None:
    """Choose the lesion definition, measure every figure, export, and write the card and the evidence."""
    config = _start(config_path)
    folds = {patient: Path(folder) for patient, _, folder in (entry.partition("=") for entry in fold)}
    if set(folds) != set(config.folds):
        raise typer.BadParameter(f"one fold each is needed for {', '.join(config.folds)}", param_hint="--fold")
    command = f"leukoscope train release {config_path.name}"
    figures = make_release(config, final, folds, out, version, command, pictures, _say, ensemble)
    for table in print_tables(figures):
        Console().print(table)
    typer.echo(summary_line(figures["leave_one_patient_out"]))


@app.command()
def experiment(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, or the name of one that is shipped: smoke.yaml")],
    out: Annotated[Path, typer.Option("--out", "-o", help="where everything goes; the same folder again resumes")],
    data: Annotated[Path | None, typer.Option(help="folder of the scans, in the place of the configuration's `data.root`")] = None,
    cache: Annotated[Path | None, typer.Option(help="folder of prepared volumes; by default inside the experiment's")] = None,
) -> None:
    """Run every arm over folds and seeds, and write the tables and figures. A killed experiment goes on where it was."""
    from model.training.arms import UnusableExperiment, find_config, read_experiment
    from model.training.experiment import run_experiment
    from model.training.layouts import UnusableCase
    from model.training.overview import Overview

    command = f"leukoscope train experiment {config_path.name}"
    try:
        with _explained(), Overview() as overview:
            written = run_experiment(read_experiment(find_config(config_path), data, cache), out, command, overview)
    except (UnusableExperiment, UnusableCase) as error:
        _say(f"error: {error}")
        raise typer.Exit(1) from None
    for path in written:
        typer.echo(path)


@app.command()
def data(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(exists=True, help="a folder of annotated scans, or a CSV manifest")],
    layout: Annotated[str | None, typer.Option(help="its layout, where it is not to be told from the files")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="where data.json and the pictures go")] = Path("data-check"),
) -> None:
    """Say which layout a folder has, check every scan and mask, and draw what looks wrong. Exit status 1 when a scan is unusable."""
    from model.training.data import check_folder
    from model.training.layouts import UnusableCase

    try:
        checked = check_folder(folder, layout, out, context.obj)
    except UnusableCase as error:
        _say(f"error: {error}")
        raise typer.Exit(1) from None
    raise typer.Exit(int(any(one.has("unusable") for one in checked)))

"""The experiment: every arm over folds and seeds, each training once, every test scan through the service's own path, and the files of it.

References
----------
The arms are those of Coudert et al. (EPIBRAINRAD): classical training against pre-training on BraTS and fine-tuning on few scans.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from model.training.arms import TARGET, ExperimentConfig, UnusableExperiment
from model.training.assemble import load_examples, read_bank
from model.training.card import provisional_card
from model.training.examples import Example, Truth, read_truth
from model.training.fit import choose_device, fit, load_network, start_network
from model.training.folds import Cases, Fold, check_experiment, collect_cases, make_folds, patients_of
from model.training.network import AttentionVNet
from model.training.outcome import Found, tabulate, write_cases, write_json, write_tables
from model.training.overview import Overview
from model.training.paint import Bank
from model.training.plan import Run, Trial, distinct_runs, plan_trials
from model.training.record import describe_machine, measure_parity, wall_seconds
from model.training.served import TorchEngine, aim_heads, read_kept, serve_and_keep
from model.training.site_bank import site_bank
from model.training.stand_ins import with_phantoms
from model.training.summary import write_summary

RUNS, PREPARED = "runs", "prepared"
PLACES: Any = {"data": {"root": True, "cache": True, "sources": {"__all__": {"folder"}}}}


class Experiment:
    """One experiment and its folder. What is finished there is not done again."""

    def __init__(self, config: ExperimentConfig, folder: Path, overview: Overview) -> None:
        cache = config.data.cache or folder / PREPARED
        config = config.model_copy(update={"data": config.data.model_copy(update={"cache": cache})})
        self.config = with_phantoms(config, cache / "phantoms", overview.say)
        self.folder = folder
        self.overview = overview
        self.device = _device(config)
        self.cases: Cases = collect_cases(self.config)
        self.folds: list[Fold] = make_folds(self.config, self.cases)
        check_experiment(self.config, self.cases, self.folds)
        self.trials: list[Trial] = plan_trials(self.config, self.cases, self.folds)
        self.runs: list[Run] = distinct_runs(self.trials)
        self._banks: dict[frozenset[Path], Bank] = {}
        self._truths: dict[str, Truth] = {}
        self._examples: list[Example] = []

    def train(self) -> None:
        """Every run that is not finished, and every test scan that was not served."""
        self.overview.begin(self.config, self.trials, self._finished())
        if any(not self._final(run).exists() for run in self.runs):
            self._examples = self._prepare()
        for trial in self.trials:
            for run in trial.run.chain:
                if not self._final(run).exists():
                    self._train_run(run, trial)
            self._serve_trial(trial)
        self._examples.clear()

    def write(self, command: str) -> None:
        """results.csv, reliability.csv, predictions, cases.json and experiment.json."""
        results: list[dict[str, Any]] = []
        bins: list[dict[str, Any]] = []
        targets = self.cases[TARGET]
        n_scans = {fold.name: sum(case.patient in fold.train for case in targets) for fold in self.folds}
        for seed in self.config.seeds:
            for arm in self.config.arms:
                trials = [trial for trial in self.trials if (trial.arm, trial.seed) == (arm, seed)]
                found: Found = {trial.fold.name: [self._read(trial, case.id) for case in self._tested(trial)] for trial in trials}
                rows, more = tabulate(trials, found, n_scans, self.folder)
                results += rows
                bins += more
        tested = {patient for fold in self.folds for patient in fold.test}
        write_cases(self.folder, (case for case in targets if case.patient in tested))
        write_tables(self.folder, results, bins)
        write_json(self.folder / "experiment.json", self._describe(command))

    def _finished(self) -> set[str]:
        return {run.key for run in self.runs if self._final(run).exists()}

    def _final(self, run: Run) -> Path:
        return self.folder / RUNS / run.folder / "final.pt"

    def _prepare(self) -> list[Example]:
        kinds = {kind for name in self.config.arms for kind in self.config.kinds(name)}
        everybody = frozenset(patients_of(self.cases[TARGET]))
        return load_examples(self.config, self._bank(everybody), self.overview.say, tuple(sorted(kinds)))

    def _bank(self, left_out: frozenset[str]) -> Bank:
        without = frozenset(
            case.lesion.resolve() for case in self.cases[TARGET] if case.patient in left_out and case.lesion is not None
        )  # fmt: skip
        if without not in self._banks:
            self._banks[without] = read_bank(self.config, without)
        return self._banks[without]

    def _train_run(self, run: Run, trial: Trial) -> None:
        examples = [e for e in self._examples if e.kind in run.schedule.mixture and e.patient not in run.left_out]
        bank = self._bank(run.left_out)
        if self.config.data.shapes is None:
            bank = site_bank(bank, [example for example in examples if example.kind == TARGET])
        torch.manual_seed(run.seed * 1_000_003 + len(list(run.chain)))
        if run.start is None:
            network = AttentionVNet(run.network)
        else:
            network = start_network(self._final(run.start), run.network, run.schedule.fresh_heads)
        folder = self.folder / RUNS / run.folder
        with self.overview.run(run, trial) as watch:
            seed = run.seed * 100 + len(list(run.chain))
            fit(network, examples, bank, run.schedule, folder, seed, self.overview.say, self.device, watch=watch)

    def _tested(self, trial: Trial) -> list[Any]:
        return [case for case in self.cases[TARGET] if case.patient in trial.fold.test]

    def _kept(self, trial: Trial, scan: str) -> Path:
        head = self.config.arms[trial.arm].segmentation
        return self.folder / RUNS / trial.run.folder / f"served-{head}-alone" / f"{scan}.npz"

    def _serve_trial(self, trial: Trial) -> None:
        missing = [case for case in self._tested(trial) if not self._kept(trial, case.id).exists()]
        if missing:
            network = load_network(self._final(trial.run))
            card = provisional_card(network, self.config.input)
            engine = TorchEngine(aim_heads(network, self.config.arms[trial.arm].segmentation), self.device)
        for case in self._tested(trial):
            with self.overview.serve(trial, case.id):
                if case in missing:
                    serve_and_keep(self._truth(case.id), engine, card, self._kept(trial, case.id))

    def _read(self, trial: Trial, scan: str) -> tuple[Any, float]:
        return read_kept(self._truth(scan), self._kept(trial, scan))

    def _truth(self, scan: str) -> Truth:
        if scan not in self._truths:
            self._truths[scan] = read_truth(next(case for case in self.cases[TARGET] if case.id == scan))
        return self._truths[scan]

    def _describe(self, command: str) -> dict[str, Any]:
        first = self.trials[0].run
        return {
            "name": self.config.name,
            "command": command,
            "machine": describe_machine(self.device, self.config.threads),
            "engine": f"torch-{self.device.type} f32 in the served path (prepare, engine, masks)",
            "parity": {"run": first.folder, **measure_parity(load_network(self._final(first)), self._final(first).parent)},
            "patients": {kind: len(patients_of(group)) for kind, group in self.cases.items()},
            "scans": {kind: len(group) for kind, group in self.cases.items()},
            "folds": [{"name": fold.name, "train": fold.train, "test": fold.test} for fold in self.folds],
            "runs": [self._describe_run(run) for run in self.runs],
            "scored_head": {name: arm.segmentation for name, arm in self.config.arms.items()},
            "configuration": self.config.model_dump(mode="json", exclude=PLACES),
        }

    def _describe_run(self, run: Run) -> dict[str, Any]:
        seconds = wall_seconds(self._final(run).with_name("log.jsonl"))
        used_by = sorted({trial.arm for trial in self.trials if run in trial.run.chain})
        return {"run": run.folder, "arms": used_by, "left_out": sorted(run.left_out), "steps": run.schedule.steps, "seconds": seconds}


def run_experiment(config: ExperimentConfig, folder: Path, command: str, overview: Overview) -> list[Path]:
    """Run what is left of an experiment and write its files; returns the summary's.

    Raises
    ------
    UnusableExperiment, UnusableCase
        Before anything trains.
    CannotTrain
        On the way; what is finished stays finished.
    """
    torch.set_num_threads(config.threads)
    folder.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(config, folder, overview)
    experiment.train()
    experiment.write(command)
    return write_summary(folder, config)


def _device(config: ExperimentConfig) -> torch.device:
    if config.device == "auto":
        return choose_device()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UnusableExperiment("device: cuda, but this torch finds no CUDA device; `device: auto` takes the CPU then")
    return torch.device(config.device)

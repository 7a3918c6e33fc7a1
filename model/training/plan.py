"""What has to be run: every arm, fold and seed as a chain of trainings, the shared ones once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from model.training.arms import TARGET, ExperimentConfig
from model.training.configuration import Schedule
from model.training.draw import crop_size
from model.training.folds import Cases, Fold, patients_of
from model.training.network import NetworkConfig

SERVING = 0.4  # a voxel served costs so much of a voxel trained on


@dataclass(frozen=True, eq=False)
class Run:
    """One training.

    Attributes
    ----------
    key : of everything that decides its weights; runs of the same key are the same run
    stage : the name of its schedule
    start : the run it goes on from
    left_out : target patients it must not see, neither their scans nor their masks in the painting
    """

    key: str
    stage: str
    network: NetworkConfig
    schedule: Schedule
    seed: int
    start: Run | None
    left_out: frozenset[str]

    @property
    def folder(self) -> str:
        """Of its checkpoints, inside the experiment's."""
        return f"{self.stage}-seed-{self.seed}-{self.key}"

    @property
    def chain(self) -> Iterator[Run]:
        """The runs before it, and itself last."""
        if self.start is not None:
            yield from self.start.chain
        yield self

    @property
    def cost(self) -> float:
        """Voxels it passes, wide kernels weighing more."""
        sizes = (prod(crop_size(self.schedule, step)) for step in range(self.schedule.steps))
        return float(sum(sizes)) * self.schedule.batch * (self.network.kernel_size / 3) ** 3


@dataclass(frozen=True, eq=False)
class Trial:
    """An arm trained with one seed for one fold; `run` is the last of its chain."""

    arm: str
    seed: int
    fold: Fold
    run: Run

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arm}, {self.fold.name}, seed {self.seed}"


def plan_trials(config: ExperimentConfig, cases: Cases, folds: Sequence[Fold]) -> list[Trial]:
    """Every trial, in the order they are run. A stage that mixes no target scan sees no target patient in any way, so folds share it."""
    targets = frozenset(patients_of(cases[TARGET]))
    known: dict[str, Run] = {}
    trials = []
    for seed in config.seeds:
        for arm in config.arms:
            for fold in folds:
                run: Run | None = None
                for stage in config.arms[arm].stages:
                    mixes_target = TARGET in config.schedules[stage].mixture
                    left_out = targets - set(fold.train) if mixes_target else targets
                    run = _make_run(config, cases, arm, stage, seed, run, left_out)
                    run = known.setdefault(run.key, run)
                if run is not None:
                    trials.append(Trial(arm, seed, fold, run))
    return trials


def _make_run(config: ExperimentConfig, cases: Cases, arm: str, stage: str, seed: int, start: Run | None, left_out: frozenset[str]) -> Run:
    schedule, network = config.schedules[stage], config.arm_network(arm)
    mixed = {kind: sorted(case.id for case in cases.get(kind, []) if case.patient not in left_out) for kind in sorted(schedule.mixture)}
    decides = {
        "network": network.model_dump(mode="json"),
        "schedule": schedule.model_dump(mode="json", exclude={"checkpoint_every"}),
        "input": config.input.model_dump(mode="json"),
        "shapes": [config.data.shapes, *config.data.shapes_left_out],
        "heads": [source.heads for source in config.data.sources],
        "phantoms": config.data.phantom_seeds,
        "scans": mixed,
        "left_out": sorted(left_out),
        "seed": [config.seed, seed],
        "start": start.key if start else None,
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:10]
    return Run(key, stage, network, schedule, seed, start, left_out)


def distinct_runs(trials: Sequence[Trial]) -> list[Run]:
    """Every run once, in the order of the trials."""
    return list({run.key: run for trial in trials for run in trial.run.chain}.values())


def serving_cost(config: ExperimentConfig) -> float:
    """What one scan costs to be served, in the unit of `Run.cost`."""
    return SERVING * prod(config.input.shapes[0])

"""What an experiment tells while it runs: what will be done, one bar over all of it with the time left, and a line for every run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from model.training.arms import ExperimentConfig
from model.training.draw import crop_size
from model.training.journal import Watch
from model.training.plan import Run, Trial, distinct_runs, serving_cost


class Overview:
    """The terminal of one experiment; everything goes to standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[now]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=600.0,  # runs differ, and a minute of one says little of the next
        )
        self._task = self._progress.add_task("experiment", total=None, now="")
        self._serving = 0.0
        self._count = self._number = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def say(self, message: str) -> None:
        """A line above the bar."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def begin(self, config: ExperimentConfig, trials: Sequence[Trial], finished: set[str]) -> None:
        """Show what will be done, and how much of it is done already."""
        runs = distinct_runs(trials)
        self.console.print(_table(config, trials))
        self._serving = serving_cost(config)
        self._count, self._number = len(runs), len(finished)
        if finished:
            self.say(f"{len(finished)} of {len(runs)} runs were finished before and are not repeated")
        scans = sum(len(trial.fold.test) for trial in trials)
        total = sum(run.cost for run in runs) + scans * self._serving
        done = sum(run.cost for run in runs if run.key in finished)
        self._progress.reset(self._task, total=total, completed=int(done), now="")

    @contextmanager
    def run(self, run: Run, trial: Trial) -> Iterator[Watch]:
        """One training: the bar follows its steps."""
        self._number += 1
        what = f"run {self._number} of {self._count}: {run.stage} ({trial.name})"
        voxels = run.cost / sum(prod(crop_size(run.schedule, step)) for step in range(run.schedule.steps))
        passed = 0.0

        def watch(step: int, loss: float) -> None:
            nonlocal passed
            before = 0.0 if passed else sum(prod(crop_size(run.schedule, earlier)) for earlier in range(step)) * voxels
            advance = before + prod(crop_size(run.schedule, step)) * voxels
            passed += advance
            self._progress.update(
                self._task, advance=advance, description=what, now=f"step {step + 1}/{run.schedule.steps} loss {loss:.3f}"
            )

        began = time.monotonic()
        yield watch
        self.say(f"{what}: trained in {time.monotonic() - began:.0f} s")

    @contextmanager
    def serve(self, trial: Trial, scan: str) -> Iterator[None]:
        """One test scan through one network."""
        self._progress.update(self._task, description=f"serve {scan} ({trial.name})", now="")
        yield
        self._progress.advance(self._task, self._serving)


def _table(config: ExperimentConfig, trials: Sequence[Trial]) -> Table:
    table = Table("arm", "stages", "steps", "folds", "train / test patients", "seeds", title=config.name)
    for name, arm in config.arms.items():
        folds = [trial.fold for trial in trials if trial.arm == name and trial.seed == config.seeds[0]]
        steps = " + ".join(str(config.schedules[stage].steps) for stage in arm.stages)
        sizes = sorted({f"{len(fold.train)} / {len(fold.test)}" for fold in folds})
        table.add_row(name, " → ".join(arm.stages), steps, str(len(folds)), ", ".join(sizes), str(len(config.seeds)))
    return table

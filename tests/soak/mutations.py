"""The long run: 10,000 changed files through intake and conversion, and 10,000 changed associations. `python -m tests.soak.mutations`."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.service.house import House, listening
from tests.soak import files, pdus

BATCH = 250
BATCH_LIMIT_S = 300.0
GOOD = {"refused", "new", "repeat", "conflict", "discarded", "converted", "rejected", "answered", "closed", "stored"}


@contextmanager
def house() -> Iterator[House]:
    """A fresh intake on a disk of its own."""
    with tempfile.TemporaryDirectory() as folder:
        made = House(Path(folder), maximum_associations=200, minimum_free_mb=0)
        yield made
        made.book.close()


def take_files(progress: Progress, count: int, seed: int) -> Counter[str]:
    """Files through the intake; what goes wrong is counted under its own name."""
    bar = progress.add_task("files into the intake", total=count)
    outcomes: Counter[str] = Counter()
    sequence = enumerate(files.mutated(count, seed))
    for _ in range(0, count, BATCH):  # a fresh store for each batch: what is counted before and after each file stays short
        with house() as taken:
            for _, (number, (base, way, content)) in zip(range(BATCH), sequence, strict=False):
                try:
                    outcomes[files.take(taken, content)] += 1
                except Exception as error:
                    outcomes[f"WRONG {number} ({way}, base {base}): {type(error).__name__}: {error}"] += 1
                progress.advance(bar)
    return outcomes


def convert_files(progress: Progress, count: int, seed: int) -> Counter[str]:
    """Files through conversion, in a process that may be lost."""
    bar = progress.add_task("files through conversion", total=count)
    outcomes: Counter[str] = Counter()
    for first in range(0, count, BATCH):
        last = min(first + BATCH, count)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
            try:
                outcomes += child.submit(files.convert_many, count, seed, first, last).result(BATCH_LIMIT_S)
            except BrokenProcessPool:
                outcomes[f"LOST PROCESS in {first} to {last}"] += 1
            except TimeoutError:
                outcomes[f"HANG in {first} to {last}"] += 1
                child.kill_workers() if hasattr(child, "kill_workers") else None
        progress.advance(bar, last - first)
    return outcomes


def send_associations(progress: Progress, count: int, seed: int) -> Counter[str]:
    """Changed associations to a real listener, which has to be well afterwards."""
    bar = progress.add_task("associations", total=count)
    with house() as taken, listening(taken) as listener:
        outcomes = pdus.run(taken, listener, count, seed, lambda: progress.advance(bar))
        pdus.assert_well(listener)
    return outcomes


def main() -> int:
    """Run all three and print what came of them; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=files.SEED)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    console = Console()
    wrong = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for name, work in (("intake", take_files), ("conversion", convert_files), ("associations", send_associations)):
            began = time.monotonic()
            outcomes = work(progress, given.count, given.seed)
            bad = {outcome: times for outcome, times in outcomes.items() if outcome not in GOOD}
            wrong += sum(bad.values())
            good = ", ".join(f"{times} {outcome}" for outcome, times in outcomes.most_common() if outcome in GOOD)
            console.print(f"{name}: {good}; {sum(bad.values())} wrong; {time.monotonic() - began:.0f} s", highlight=False)
            for outcome in list(bad)[:40]:
                console.print(f"  {outcome[:300]}", markup=False, highlight=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

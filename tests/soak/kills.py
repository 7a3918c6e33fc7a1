"""The long storm: hundreds of SIGKILLs while four senders push, then the books have to balance. `python -m tests.soak.kills --help`."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.phantom import make_phantom
from tests.faults.books import assert_balance, book_of
from tests.faults.modality import Modality
from tests.faults.storm import kill_everything, kill_something
from tests.installed import SETS, installed
from tests.running import Service
from tests.tiny import write_release
from worker.phantom import write_series

SENDERS = 4
VICTIMS = {"everything": kill_everything, "something": kill_something}
SHORT = {"quiet_time_s": 4, "sweep_s": 0.5, "lease_s": 3, "time_limit_s": 60, "engine": "onnxruntime-cpu", "threads": 1}


def storm(service: Service, series: list[list[Path]], kills: int, victim: str, seed: int, progress: Progress) -> Counter[str]:
    """Kill while the senders work, one small set of series after the other, so that something is always on its way."""
    rng = random.Random(seed)
    modality = Modality(service, limit_s=3600)
    killed: Counter[str] = Counter()
    bar = progress.add_task(f"kills ({victim})", total=kills)
    with service.kept_alive():
        senders = modality.push_all(series, senders=SENDERS)
        for _ in range(kills):
            time.sleep(rng.uniform(1, 6))
            killed[VICTIMS[victim](service, rng)] += 1
            progress.advance(bar)
        modality.finish(senders)
        progress.update(bar, description="the books")
        assert_balance(service, series, modality.acknowledged)
    killed["associations broken"] = modality.broken
    killed["instances acknowledged"] = len(modality.acknowledged)
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=SETS, default="embedded")
    parser.add_argument("--victim", choices=sorted(VICTIMS), default="everything")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--series", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    console = Console()
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as name, Progress(*columns, console=console) as progress:
        folder = Path(name)
        release = write_release(folder / "tiny").folder
        head = make_phantom(3, shape=(80, 100, 20), spacing_mm=(2.4, 2.4, 8.0), plane="axial").flair
        series = [
            write_series(head, folder / f"series-{n}", uid_seed=f"{chosen.seed}-{n}", patient_id=f"S-{n}") for n in range(chosen.series)
        ]
        with installed(chosen.set, folder, release=release, **SHORT) as installation:
            service = installation.service
            counted = storm(service, series, chosen.kills, chosen.victim, chosen.seed, progress)
            with closing(book_of(service)) as book:
                cases = book.find_cases(limit=500).items
                counted["series done"] = sum(case.state == "done" for case in cases)
                counted["of them in one revision"] = sum(case.revision == 1 for case in cases)
                counted["leases lapsed"] = sum(case.lapses for case in cases)
                counted["attempts charged"] = sum(case.attempts for case in cases)
    for what, number in counted.items():
        console.print(f"{number:6d}  {what}", highlight=False)
    console.print(f"the books balance after {chosen.kills} kills in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

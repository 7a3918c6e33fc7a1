"""A hundred series through two inference workers: do the books balance, how fast, and is memory flat. `python -m tests.soak.hundred`."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.phantom import make_phantom
from tests.faults.books import assert_balance
from tests.faults.modality import Modality
from tests.installed import SETS, installed
from tests.running import Service
from worker.phantom import write_series

SENDERS = 4
SAMPLE_S = 2.0


class Memory:
    """The summed PSS of what the service is made of, sampled: kind of part → megabytes over time."""

    def __init__(self, service: Service) -> None:
        self.samples: dict[str, list[float]] = defaultdict(list)
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            sums: dict[str, float] = defaultdict(float)
            for process in self._service.family():
                with suppress(psutil.Error):
                    words = process.cmdline()
                    kind = words[words.index("--queue") + 1] if "--queue" in words else words[3]
                    sums[kind] += process.memory_full_info().pss / 1e6
            for kind, megabytes in sums.items():
                self.samples[kind].append(megabytes)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def thirds(self) -> dict[str, tuple[float, float, float]]:
        """Medians of the second and the last third of the run, and the peak."""
        found = {}
        for kind, values in sorted(self.samples.items()):
            third = max(1, len(values) // 3)
            found[kind] = (statistics.median(values[third : 2 * third] or values), statistics.median(values[-third:]), max(values))
        return found


def run(service: Service, series: list[list[Path]], progress: Progress) -> tuple[float, Memory]:
    """Push everything, wait until everything is done; gives the seconds from the first push to the last result."""
    memory = Memory(service)
    bar = progress.add_task("series done", total=len(series))
    modality = Modality(service, limit_s=3600)
    began = time.monotonic()
    senders = modality.push_all(series, senders=SENDERS)
    while (done := len(service.cases(state="done", limit=500))) < len(series):
        progress.update(bar, completed=done)
        time.sleep(1.0)
    seconds = time.monotonic() - began
    progress.update(bar, completed=len(series))
    modality.finish(senders)
    memory.stop()
    assert_balance(service, series, modality.acknowledged)
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=SETS, default="embedded")
    parser.add_argument("--series", type=int, default=100)
    chosen = parser.parse_args()
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as name, Progress(*columns, console=console) as progress:
        folder = Path(name)
        head = make_phantom(3, shape=(160, 200, 40), spacing_mm=(1.2, 1.2, 4.0), plane="axial").flair
        series = [write_series(head, folder / f"series-{n}", uid_seed=f"hundred-{n}", patient_id=f"H-{n}") for n in range(chosen.series)]
        with installed(chosen.set, folder, threads=1) as installation:
            service = installation.service
            second = None
            if chosen.set == "embedded":  # `serve` starts one inference worker; a second one shares its broker and its book
                second = subprocess.Popen([sys.executable, "-m", "service", "worker"], env=service.environ, stderr=subprocess.DEVNULL)
            try:
                seconds, memory = run(service, series, progress)
            finally:
                if second is not None:
                    second.terminate()
                    second.wait(60)
    rate = 60 * len(series) / seconds
    console.print(f"{chosen.set}: {len(series)} series in {seconds:.0f} s, {rate:.1f} series a minute; the books balance", highlight=False)
    for kind, (middle, last, peak) in memory.thirds().items():
        console.print(f"{kind:10s} {middle:6.0f} MB PSS in the second third, {last:6.0f} in the last, {peak:6.0f} at most", highlight=False)


if __name__ == "__main__":
    main()

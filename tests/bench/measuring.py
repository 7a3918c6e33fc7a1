"""Clocks and scales."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def median_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Run once to warm up, then give the median of `repeats`."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def fsyncs_per_second(folder: Path, size: int = 128 * 1024, seconds: float = 3.0) -> dict[str, float]:
    """How many files of `size` this disk makes durable: the file alone, and file and folder, one writer."""
    block = os.urandom(size)
    rates = {}
    for name, with_folder in (("file", False), ("file and folder", True)):
        count = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            path = folder / f"fsync-{count}"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(descriptor, block)
            os.fsync(descriptor)
            os.close(descriptor)
            if with_folder:
                descriptor = os.open(folder, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
            count += 1
        rates[name] = count / (time.perf_counter() - began)
        for path in folder.glob("fsync-*"):
            path.unlink()
    return rates


@contextmanager
def peak_memory(groups: dict[str, list[psutil.Process]], every_s: float = 0.1) -> Iterator[dict[str, float]]:
    """Sample the summed PSS (megabytes) of groups of processes; the dictionary holds the peaks when the block ends."""
    peaks = dict.fromkeys(groups, 0.0)
    over = threading.Event()

    def sample() -> None:
        while not over.wait(every_s):
            for name, group in groups.items():
                peaks[name] = max(peaks[name], sum(one.memory_full_info().pss for one in group) / 1e6)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


@contextmanager
def memory_over_time(process: psutil.Process, every_s: float = 0.5) -> Iterator[list[tuple[float, float]]]:
    """Sample the PSS of a process; the list holds (seconds since the start, megabytes) and grows while the block runs."""
    began = time.monotonic()
    samples = [(0.0, process.memory_full_info().pss / 1e6)]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(every_s):
            samples.append((time.monotonic() - began, process.memory_full_info().pss / 1e6))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()

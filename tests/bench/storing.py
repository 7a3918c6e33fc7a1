"""Acknowledged instances per second over four associations: this service, Orthanc and storescp, all with DCMTK's storescu."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from model.volume import Volume
from tests.bench.measuring import fsyncs_per_second
from tests.running import Running
from worker.phantom import write_series

ASSOCIATIONS = 4
SLICES = 176


class Listening(Running):
    """The DICOM listener alone."""

    @property
    def command(self) -> list[str]:
        return [*super().command[:-1], "listen"]


def measure(folder: Path) -> dict[str, object]:
    noise = np.random.default_rng(0).integers(0, 4000, (256, 256, SLICES)).astype(np.int16)
    sources = [folder / f"source-{n}" for n in range(ASSOCIATIONS)]
    for n, source in enumerate(sources):
        write_series(Volume(noise, np.diag([1.0, 1.0, 1.0, 1.0])), source, uid_seed=f"store-{n}", patient_id=f"STORE-{n}")
    rates: dict[str, object] = {"fsyncs/s of this disk": fsyncs_per_second(folder)}
    for name, receiver in (("leukoscope", _leukoscope), ("Orthanc", _orthanc), ("storescp (no fsync)", storescp_at)):
        runs = []
        for attempt in range(3):
            with receiver(folder / f"{name.split()[0]}-{attempt}") as port:
                runs.append(_send(sources, port))
        rates[f"{name}: instances/s"] = sorted(runs)[1]
    return rates


def _send(sources: list[Path], port: int) -> float:
    """Four senders at once; instances acknowledged per second until the last of them has ended."""
    command = ["storescu", "-aec", "LEUKOSCOPE", "+sd", "127.0.0.1", str(port)]
    began = time.perf_counter()
    senders = [subprocess.Popen([*command, str(source)], env={"TCP_NODELAY": "1", "PATH": "/usr/bin"}) for source in sources]
    assert [sender.wait(300) for sender in senders] == [0] * len(senders)
    return len(sources) * SLICES / (time.perf_counter() - began)


@contextmanager
def _leukoscope(folder: Path) -> Iterator[int]:
    service = Listening(folder / "data", quiet_time_s=3600).start()
    try:
        yield service.ports["dicom_port"]
    finally:
        service.stop()


@contextmanager
def _orthanc(folder: Path) -> Iterator[int]:
    port = _free_port()
    folder.mkdir()
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomCheckCalledAet": False,
        "SyncStorageArea": True,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with _process([shutil.which("Orthanc") or "Orthanc", str(folder / "orthanc.json")], port):
        yield port


@contextmanager
def storescp_at(folder: Path) -> Iterator[int]:
    port = _free_port()
    folder.mkdir()
    with _process(["storescp", "--fork", "-od", str(folder), str(port)], port):
        yield port


@contextmanager
def _process(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        yield
    finally:
        process.terminate()
        process.wait(20)


def _wait(attempt: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            attempt()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

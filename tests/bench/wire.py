"""Fifty associations that push fifty series at once: rate, failures, and the memory of listener and API over time; storescp beside it."""

from __future__ import annotations

import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from sqlalchemy import func, select

from model.volume import Volume
from service.records.database import make_engine
from service.records.schema import cases, instances
from tests.bench.measuring import memory_over_time
from tests.bench.storing import storescp_at
from tests.running import Running
from worker.phantom import write_series

SETTLE_S = 5.0  # after the last release: what is only held for the moment is given back
LIMIT_S = 1800.0


@dataclass(frozen=True)
class Size:
    """As many series as associations, each of `slices` of `side` × `side`."""

    associations: int
    slices: int
    side: int


SIZES = {"small": Size(50, 6, 96), "full": Size(50, 176, 256)}


def measure(folder: Path, size: str) -> dict[str, object]:
    chosen = SIZES[size]
    sources = _write(folder, chosen)
    whole = chosen.associations * chosen.slices
    service = Running(folder / "data", maximum_associations=chosen.associations + 10).start()
    try:
        with memory_over_time(psutil.Process(service.family()[0].pid)) as samples:
            failed, seconds = _send_all(sources, service.ports["dicom_port"])
            sent_s = samples[-1][0]
            time.sleep(SETTLE_S)
        stored, states = _count(service)
    finally:
        service.stop()
    with storescp_at(folder / "storescp") as port:
        other_failed, other_seconds = _send_all(sources, port)
    while_sending = [megabytes for at, megabytes in samples if at <= sent_s]
    return {
        "sent": f"{chosen.associations} series of {chosen.slices} × {chosen.side} × {chosen.side} over {chosen.associations} associations",
        "leukoscope: instances/s": whole / seconds,
        "storescp (no fsync): instances/s": whole / other_seconds,
        "leukoscope: failed associations": failed,
        "storescp: failed associations": other_failed,
        "leukoscope: instances in the index": f"{stored} of {whole}",
        "leukoscope: series": states,
        "listener and API, PSS in MB": {
            "before": samples[0][1],
            "after a third": while_sending[len(while_sending) // 3],
            "after two thirds": while_sending[2 * len(while_sending) // 3],
            "when all is sent": while_sending[-1],
            "at most": max(megabytes for _, megabytes in samples),
            f"{SETTLE_S:.0f} s later": samples[-1][1],
        },
    }


def _write(folder: Path, size: Size) -> list[Path]:
    """Localizers, which nobody works on: the wire alone is measured."""
    noise = np.random.default_rng(0).integers(0, 4000, (size.side, size.side, size.slices)).astype(np.int16)
    sources = [folder / f"source-{number}" for number in range(size.associations)]
    for number, source in enumerate(sources):
        named = {"uid_seed": f"wire-{number}", "patient_id": f"WIRE-{number}", "description": "localizer"}
        write_series(Volume(noise, np.eye(4)), source, **named)
    return sources


def _send_all(sources: list[Path], port: int) -> tuple[int, float]:
    """All at once, by DCMTK's sender; how many of them failed, and the seconds until the last has ended."""
    command = ["storescu", "-aec", "LEUKOSCOPE", "+sd", "127.0.0.1", str(port)]
    environ = {"TCP_NODELAY": "1", "PATH": "/usr/bin"}
    began = time.perf_counter()
    senders = [
        subprocess.Popen([*command, str(source)], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for source in sources
    ]
    codes = [sender.wait(LIMIT_S) for sender in senders]
    return sum(code != 0 for code in codes), time.perf_counter() - began


def _count(service: Running) -> tuple[int, dict[str, object]]:
    engine = make_engine(service.database)
    with closing(engine.connect()) as connection:
        stored = connection.execute(select(func.count()).select_from(instances)).scalar_one()
        states = connection.execute(select(cases.c.state, func.count()).group_by(cases.c.state)).all()
    engine.dispose()
    return int(stored), dict(map(tuple, states))

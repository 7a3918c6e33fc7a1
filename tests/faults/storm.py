"""What is killed."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress

import psutil

from tests.running import Service


def kill_everything(service: Service, rng: random.Random) -> str:
    """SIGKILL every process of the service at the same moment."""
    for process in service.family():
        _kill(process)
    return "everything"


def kill_something(service: Service, rng: random.Random) -> str:
    """SIGKILL one process: listener, api, worker, or a worker's child."""
    family = service.family()
    if not family:
        return "nothing"
    chosen = rng.choice(family)
    with suppress(psutil.NoSuchProcess):
        name = " ".join(chosen.cmdline()[3:]).partition(" --owner")[0]
        _kill(chosen)
        return name
    return "nothing"


def _kill(process: psutil.Process) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)

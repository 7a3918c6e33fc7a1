"""Faults as data, in the order in which they are to strike."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PLANTED = Path(__file__).resolve().parent / "planted"


@dataclass(frozen=True)
class Fault:
    """One thing that happens once, when `at` ("module:Class.function") is called in a process whose command line holds `role`."""

    at: str
    do: str
    when: str = "before"
    call: int = 1
    role: str = ""
    match: str = ""
    always: bool = False

    @property
    def name(self) -> str:
        return f"{self.do} {self.when} {self.at.partition(':')[2]}"


class Plan:
    """Faults to be armed one by one; each strikes once after that."""

    def __init__(self, folder: Path, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def environ(self) -> dict[str, str]:
        """What the service's environment needs."""
        plan = [
            {**vars(fault), "flag": str(self._folder / f"struck-{number}"), "armed_by": str(self._folder / f"armed-{number}")}
            for number, fault in enumerate(self.faults)
        ]
        return {"PYTHONPATH": str(PLANTED), "PLANTED_FAULTS": json.dumps(plan)}

    def arm(self, number: int) -> None:
        """From now on it strikes when it can."""
        (self._folder / f"armed-{number}").touch()

    def has_struck(self, number: int) -> bool:
        return (self._folder / f"struck-{number}").exists()

    def wait(self, number: int, limit_s: float = 60.0) -> None:
        """Wait until it has struck; one that never does tests nothing."""
        deadline = time.monotonic() + limit_s
        while not self.has_struck(number):
            assert time.monotonic() < deadline, f"never struck: {self.faults[number].name}"
            time.sleep(0.02)

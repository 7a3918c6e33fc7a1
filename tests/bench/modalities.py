"""What a PACS routes in a day: wanted and unwanted series, thick and thin, sent again, broken off, too late, with a gap."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.uid import CTImageStorage

from model.phantom import make_phantom
from service.errors import Unavailable
from tests.faults.modality import Modality
from tests.running import Service
from worker.phantom import write_series
from worker.send import Answer, read_outgoing, send

THICK, THIN = "thick", "thin"
LATE_SLICES: Final = 3
_T1: Final = {"EchoTime": "3", "RepetitionTime": "2000", "InversionTime": "900"}


@dataclass(frozen=True)
class Visit:
    """One series, how it is brought, and the state it must end in."""

    kind: str
    files: list[Path]
    state: str


# kind → share of a day, description, headers put over, final state
MIX: Final[dict[str, tuple[float, str, dict[str, Any], str]]] = {
    "FLAIR": (0.30, "FLAIR 3D phantom", {}, "done"),
    "FLAIR, sent twice": (0.08, "FLAIR 3D phantom", {}, "done"),
    "FLAIR, association aborted": (0.08, "FLAIR 3D phantom", {}, "done"),
    "FLAIR, late slices": (0.07, "FLAIR 3D phantom", {}, "done"),
    "FLAIR with a gap": (0.05, "FLAIR 3D phantom", {}, "held"),
    "T1": (0.20, "MPRAGE", _T1, "rejected"),
    "localizer": (0.12, "localizer", {}, "rejected"),
    "CT": (0.10, "CT head", {}, "rejected"),
}


def write_day(folder: Path, count: int, rng: random.Random, seed: int) -> list[Visit]:
    """Every kind at least once, then by its share; the order is the seed's."""
    heads = {
        THICK: make_phantom(3, shape=(80, 100, 20), spacing_mm=(2.4, 2.4, 8.0), plane="axial").flair,
        THIN: make_phantom(4, shape=(80, 100, 40), spacing_mm=(2.4, 2.4, 4.0), plane="axial").flair,
    }
    kinds = list(MIX)
    chosen = (kinds + rng.choices(kinds, [MIX[kind][0] for kind in kinds], k=count))[:count]
    rng.shuffle(chosen)
    visits = []
    for number, kind in enumerate(chosen):
        _, description, headers, state = MIX[kind]
        head = heads[rng.choice((THICK, THIN))]
        order = list(range(head.shape[2]))
        if kind == "FLAIR with a gap":
            order.pop(rng.randrange(3, len(order) - 3))
        named = {"uid_seed": f"day-{seed}-{number}", "patient_id": f"D-{number}", "description": description, "headers": headers}
        files = write_series(head, folder / f"day-{number}", order=order, **named)
        if kind == "CT":
            _make_ct(files)
        visits.append(Visit(kind, files, state))
    return visits


def _make_ct(files: Sequence[Path]) -> None:
    for path in files:
        dataset = dcmread(path)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.Modality = "CT"
        dataset.save_as(path)


class _BrokenOff(Exception):
    """The sender gives up in the middle."""


def bring(service: Service, modality: Modality, visit: Visit, rng: random.Random) -> None:
    """Send one series as its kind does it, until everything was acknowledged."""
    ways: dict[str, Callable[[], None]] = {
        "FLAIR, sent twice": lambda: _twice(modality, visit.files, rng),
        "FLAIR, association aborted": lambda: _broken_off(service, modality, visit.files, rng),
        "FLAIR, late slices": lambda: _late(modality, visit.files, rng),
    }
    ways.get(visit.kind, lambda: modality.push(visit.files))()


def _twice(modality: Modality, files: list[Path], rng: random.Random) -> None:
    modality.push(files)
    time.sleep(rng.uniform(0, 4))
    modality.push(files)


def _late(modality: Modality, files: list[Path], rng: random.Random) -> None:
    modality.push(files[:-LATE_SLICES])
    time.sleep(rng.uniform(0, 8))
    modality.push(files[-LATE_SLICES:])


def _broken_off(service: Service, modality: Modality, files: list[Path], rng: random.Random) -> None:
    left = rng.randrange(2, len(files) - 2)

    def count(_answer: Answer) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise _BrokenOff

    with suppress(_BrokenOff, Unavailable, OSError, RuntimeError):
        send(service.node, read_outgoing(files), count)
    modality.push(files)

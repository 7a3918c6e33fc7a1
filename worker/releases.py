"""Releases looked at by an administrator: does one still find what its card says, and what would change with another one?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from model.engine import Engine
from model.phantom import make_phantom
from model.release import Release
from model.training.layouts import Case
from model.training.metrics import dice
from model.volume import UnusableVolume
from service.errors import Rejected
from worker.frames import Limits
from worker.pipeline import Clock, segment
from worker.scans import Choose, read_case
from worker.scores import Figures, serve, share

DEMO_SEED = 3
VOLUME_SHARE, VOLUME_ML = 0.02, 0.05  # what engines may differ by in a phantom's lesion volume


@dataclass(frozen=True)
class Compared:
    """One case under two releases; `agreement` is the Dice of the two lesion masks, `problem` why there is nothing to compare."""

    case: str
    first: Figures | None = None
    second: Figures | None = None
    agreement: float | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compare(
    cases: Iterable[Case],
    releases: tuple[Release, Release],
    engines: tuple[Engine, Engine],
    choose: Choose,
    limits: Limits = Limits(),
) -> Iterator[Compared]:
    """Serve every case with both releases, one case after the other; a case that cannot be served says why and stops nothing.

    Parameters
    ----------
    choose, limits : see `worker.scans.read_case`
    """
    for case in cases:
        try:
            scan = read_case(case, choose, limits)
            (first, one), (second, other) = (serve(scan, release, engine) for release, engine in zip(releases, engines, strict=True))
            yield Compared(case.id, first, second, share(dice(one, other)))
        except (Rejected, UnusableVolume) as error:
            yield Compared(case.id, problem=str(error))


def check_phantom(release: Release, engine: Engine) -> tuple[float, float | None]:
    """Lesion volume in the demo's phantom now, and the one in the card (None where the card has none).

    Raises
    ------
    Rejected
        They differ by more than engines do: this is not the release that was measured, or not the code that measured it.
    """
    scan = make_phantom(seed=DEMO_SEED).flair
    found = round(segment(scan, release, engine, Clock()).findings.lesion_volume_ml, 3)
    recorded = [row for name, row in release.card.figures.get("phantoms", {}).items() if name.startswith(f"phantom-{DEMO_SEED} ")]
    said = float(recorded[0]["lesion_ml"]) if recorded else None
    if said is not None and abs(found - said) > max(VOLUME_ML, VOLUME_SHARE * said):
        raise Rejected(f"{release.card.name} {release.card.version}: {found:.3f} ml of lesion in the phantom, the card says {said:.3f} ml")
    return found, said


def tabulate(rows: Sequence[Compared], names: tuple[str, str]) -> Table:
    """A line for every case and the means at the end, for the terminal."""
    table = Table("case", *(f"{what} {name}" for what in ("Dice", "ml", "s") for name in names), "difference ml", "Dice of the two")
    for row in rows:
        if row.first is None or row.second is None:
            table.add_row(row.case, row.problem, *[""] * 7)
            continue
        pair = (row.first, row.second)
        values = (*(one.dice for one in pair), *(one.lesion_ml for one in pair), *(one.seconds for one in pair))
        table.add_row(row.case, *map(_said, (*values, row.second.lesion_ml - row.first.lesion_ml, row.agreement)))
    pairs = [(row.first, row.second) for row in rows if row.first is not None and row.second is not None]
    scored = [[one.dice for one in pair] for pair in pairs if pair[0].dice is not None and pair[1].dice is not None]
    if scored:
        table.add_section()
        table.add_row(
            f"mean, n = {len(scored)} with a mask", *(_said(float(np.mean(column))) for column in zip(*scored, strict=True)), *[""] * 6
        )
    return table


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

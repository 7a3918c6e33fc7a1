"""What a release makes of scans, through the served path, and how well that fits what is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from model.engine import Engine
from model.postprocess import LESION, TUMOUR_LIKE
from model.release import Release
from model.training.layouts import Case, Mask
from model.training.metrics import dice, lesion_wise
from model.volume import UnusableVolume, Volume
from service.errors import Rejected
from worker.frames import Limits
from worker.pipeline import Clock, join_flags, segment
from worker.scans import Choose, Scan, read_case

COLUMNS = {
    "dice": "Dice",
    "lesion_f1": "lesion F1",
    "tumour_dice": "tumour Dice",
    "tumour_called_lesion_percent": "% of tumour called lesion",
    "true_ml": "true ml",
    "lesion_ml": "found ml",
    "tumour_like_ml": "tumour-like ml",
    "brain_ml": "brain ml",
    "seconds": "s",
}
FILE_COLUMNS = 200  # of a table that goes into a file or a pipe, where nothing else says how wide it may be
MEANS = ("dice", "lesion_f1", "tumour_dice", "tumour_called_lesion_percent")
PLACES = {"true_ml": 2, "lesion_ml": 2, "tumour_like_ml": 2, "brain_ml": 0, "seconds": 1, "tumour_called_lesion_percent": 1}


@dataclass(frozen=True)
class Figures:
    """What one release makes of one scan. None: nobody knows, or (Dice, F1) rightly nothing was found.

    Attributes
    ----------
    seconds : from the volume to the findings; nothing is read or written in that time
    """

    lesion_ml: float
    tumour_like_ml: float
    brain_ml: float
    seconds: float
    flags: tuple[str, ...]
    true_ml: float | None = None
    dice: float | None = None
    lesion_f1: float | None = None
    true_tumour_ml: float | None = None
    tumour_dice: float | None = None
    tumour_called_lesion_percent: float | None = None


@dataclass(frozen=True)
class Measured:
    """One scan and its figures, or in `problem` why there are none."""

    scan: str
    patient: str
    figures: Figures | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_release(
    cases: Iterable[Case], release: Release, engine: Engine, choose: Choose, limits: Limits = Limits()
) -> Iterator[Measured]:
    """Serve every scan, one after the other; one that is refused says why and stops nothing.

    Parameters
    ----------
    choose, limits : see `worker.scans.read_case`
    """
    for case in cases:
        try:
            figures, _ = serve(read_case(case, choose, limits), release, engine)
            yield Measured(case.id, case.patient, figures)
        except (Rejected, UnusableVolume) as error:
            yield Measured(case.id, case.patient, problem=str(error))


def serve(scan: Scan, release: Release, engine: Engine) -> tuple[Figures, Mask]:
    """Serve one scan; gives its figures and its lesion mask, on the scan's grid.

    Raises
    ------
    Rejected, UnusableVolume
        The volume cannot be segmented. Never retried.
    """
    clock = Clock()
    found = segment(scan.volume, release, engine, clock)
    labels, findings = found.masks.labels, found.findings
    lesion = np.asarray(labels == LESION)
    figures = Figures(
        lesion_ml=round(findings.lesion_volume_ml, 3),
        tumour_like_ml=round(findings.tumour_like_volume_ml, 3),
        brain_ml=round(findings.brain_volume_ml, 1),
        seconds=round(sum(seconds for _, seconds in clock.stages.values()), 2),
        flags=join_flags(scan.flags, found.quality),
        **_judge_lesion(scan, lesion),
        **_judge_tumour(scan, lesion, np.asarray(labels == TUMOUR_LIKE)),
    )
    return figures, lesion


def _judge_lesion(scan: Scan, found: Mask) -> dict[str, float | None]:
    if scan.lesion is None:
        return {}
    known = np.ones(found.shape, bool) if scan.ignore is None else ~scan.ignore
    truth, found = scan.lesion & known, found & known
    return {"true_ml": volume_ml(truth, scan.volume), "dice": share(dice(truth, found)), "lesion_f1": share(lesion_wise(truth, found)[0])}


def _judge_tumour(scan: Scan, lesion: Mask, found: Mask) -> dict[str, float | None]:
    if scan.tumour is None:
        return {}
    whole = np.count_nonzero(scan.tumour)
    taken = round(100.0 * np.count_nonzero(scan.tumour & lesion) / whole, 2) if whole else None
    tumour_ml = volume_ml(scan.tumour, scan.volume)
    return {"true_tumour_ml": tumour_ml, "tumour_dice": share(dice(scan.tumour, found)), "tumour_called_lesion_percent": taken}


def volume_ml(mask: Mask, volume: Volume) -> float:
    """Millilitres of a mask, to a microlitre."""
    return round(float(np.count_nonzero(mask)) * volume.voxel_ml, 3)


def share(value: float) -> float | None:
    """A score to four places, None where it is not a number (both masks empty)."""
    return None if isnan(value) else round(value, 4)


def tabulate(rows: Sequence[Measured]) -> Table:
    """A line for every scan and the means at the end, for the terminal."""
    table = Table()
    table.add_column("scan", overflow="fold")
    for name in COLUMNS.values():
        table.add_column(name, justify="right")
    table.add_column("flags, or why it was refused", overflow="fold", min_width=24)
    for name, *cells, last in _lines(rows):
        table.add_row(*map(escape, (name, *cells, last)), style=None if any(cells) else "yellow")
    return table


def as_markdown(rows: Sequence[Measured], title: str) -> str:
    """Write the same table in GitHub's Markdown under a title."""
    head = ("scan", *COLUMNS.values(), "flags, or why it was refused")
    rule = ("---", *["---:"] * len(COLUMNS), "---")
    lines = [head, rule, *([cell.replace("|", "\\|") for cell in line] for line in _lines(rows))]
    return f"# {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _lines(rows: Sequence[Measured]) -> Iterator[list[str]]:
    for row in rows:
        if row.figures is None:
            yield [row.scan, *[""] * len(COLUMNS), f"refused: {'; '.join((row.problem or '').splitlines())}"]
            continue
        values = [_said(getattr(row.figures, name), PLACES.get(name, 3)) for name in COLUMNS]
        yield [row.scan, *values, ", ".join(dict.fromkeys(flag.partition(":")[0] for flag in row.figures.flags))]
    means = {name: _mean([(row.patient, getattr(row.figures, name)) for row in rows if row.figures]) for name in MEANS}
    if any(means.values()):
        said = [f"{mean[0]:.{PLACES.get(name, 3)}f} (n = {mean[1]})" if (mean := means.get(name)) else "" for name in COLUMNS]
        yield ["mean over n patients", *said, ""]


def _mean(values: Iterable[tuple[str, float | None]]) -> tuple[float, int] | None:
    """Mean over patients of the means of their scans, and how many patients; None where nothing is known."""
    patients: dict[str, list[float]] = {}
    for patient, value in values:
        if value is not None:
            patients.setdefault(patient, []).append(value)
    return (float(np.mean([np.mean(own) for own in patients.values()])), len(patients)) if patients else None


def _said(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"

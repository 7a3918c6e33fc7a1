"""Whether a new release is not worse than the old one: figures of both on the same scans, judged by a margin stated beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

GROUPS = {"site": "left-out patients of the site", "phantom": "unseen phantoms", "guard": "guard scans"}
# of a site's scans the reader judged the lesions; brain and tumour are there, and the brain of guard scans, at times a release's own
MEASURES = {"site": ("dice",), "phantom": ("dice", "brain_dice"), "guard": ("dice", "tumour_dice")}
FIGURES = ("dice", "lesion_f1", "sensitivity", "precision", "truth_ml", "found_ml", "found_lesions")


class Margins(BaseModel):
    """What counts as not worse."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    median: float = Field(default=0.02, ge=0, description="so much the median patient may lose, Dice")
    worst: float = Field(default=0.10, ge=0, description="so much any one patient may lose, Dice")
    false_ml: float = Field(default=1.0, ge=0, description="so much more may be reported in a patient without a lesion, ml")


@dataclass(frozen=True)
class Row:
    """One scan's figures under the old and the new release. `group` is one of GROUPS."""

    group: str
    patient: str
    scan: str
    old: dict[str, float | None]
    new: dict[str, float | None]


@dataclass(frozen=True)
class Verdict:
    """Passed or not, and every comparison in a sentence with its numbers."""

    passed: bool
    sentences: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"passed": self.passed, "comparisons": list(self.sentences)}


def judge_rows(rows: Sequence[Row], margins: Margins) -> Verdict:
    """Compare group by group: median and worst patient's Dice, and what is reported where there is nothing."""
    compared = [*_overlaps(rows, margins), *_false_alarms(rows, margins)]
    return Verdict(bool(compared) and all(passed for passed, _ in compared), tuple(sentence for _, sentence in compared))


def _overlaps(rows: Sequence[Row], margins: Margins) -> Iterator[tuple[bool, str]]:
    for group, called in GROUPS.items():
        for key in MEASURES[group]:
            changes = differences([row for row in rows if row.group == group], key)
            if changes:
                yield _compare(f"{called}: {key.replace('_', ' ')}", changes, margins)


def _compare(called: str, changes: dict[str, float], margins: Margins) -> tuple[bool, str]:
    worst = min(changes, key=lambda name: changes[name])
    median = float(np.median(list(changes.values())))
    passed = median >= -margins.median and changes[worst] >= -margins.worst
    told = (
        f"{called} {median:+.3f} for the median patient (allowed {-margins.median:+.3f}), {changes[worst]:+.3f} for the worst, {worst} "
        f"(allowed {-margins.worst:+.3f}); n = {len(changes)}: {_word(passed)}"
    )
    return passed, told


def _word(passed: bool) -> str:
    return "not worse" if passed else "WORSE"


def differences(rows: Sequence[Row], key: str) -> dict[str, float]:
    """New minus old by patient, mean over their scans. Scans without a lesion have no Dice and are judged by what is reported there."""
    found: dict[str, list[float]] = {}
    for row in rows:
        old, new = row.old.get(key), row.new.get(key)
        if old is None or new is None or (key == "dice" and row.old.get("truth_ml") == 0):
            continue
        found.setdefault(row.patient, []).append(new - old)
    return {patient: float(np.mean(values)) for patient, values in found.items()}


def _false_alarms(rows: Sequence[Row], margins: Margins) -> Iterator[tuple[bool, str]]:
    more = [((row.new["found_ml"] or 0.0) - (row.old["found_ml"] or 0.0), row) for row in rows if row.old.get("truth_ml") == 0]
    if not more:
        return
    worst, row = max(more, key=lambda pair: pair[0])
    passed = worst <= margins.false_ml
    told = (
        f"scans without a lesion: at most {worst:+.2f} ml more reported than before, {row.scan} (allowed {margins.false_ml:+.2f}); "
        f"n = {len(more)}: {_word(passed)}"
    )
    yield passed, told


def plain(figures: dict[str, Any]) -> dict[str, float | None]:
    """Numbers only, those that are none as null, for JSON and the card."""
    return {
        name: None if value is None or math.isnan(value) else round(float(value), 4)
        for name, value in figures.items()
        if value is None or isinstance(value, int | float)
    }

"""What an experiment leaves in its folder, read back for the tables and figures; nothing is computed again."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from math import isnan, nan
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from model.training.layouts import Case, read_mask, read_role, read_scan
from model.training.metrics import Scores, dice

RESULTS, RELIABILITY, CASES = "results.csv", "reliability.csv", "cases.json"
FIGURES = tuple(field.name for field in fields(Scores))


class UnusableResults(Exception):
    """A file of the experiment's folder is missing or does not hold what it should."""


@dataclass(frozen=True)
class Row:
    """One test scan through one network.

    Attributes
    ----------
    figures : the fields of `Scores` and `volume_difference_ml` (found minus true); NaN where there is nothing to score
    """

    arm: str
    seed: int
    fold: str
    patient: str
    scan: str
    n_train_patients: int
    n_train_scans: int
    figures: dict[str, float]

    @property
    def correct_negative(self) -> bool:
        """Nothing there, nothing found."""
        return self.figures["truth_ml"] == 0 and self.figures["found_ml"] == 0


@dataclass(frozen=True)
class Bin:
    """Voxels inside the brain of one scan whose lesion probability lies in [low, high)."""

    arm: str
    patient: str
    low: float
    high: float
    voxels: int
    mean_probability: float
    positives: int


@dataclass(frozen=True)
class Plan:
    """What the configuration promises, so that what is missing can be shown as missing.

    Attributes
    ----------
    arms : all arms, in the order they are shown
    ablations : those of them that switch one thing off; they get a table and a figure of their own
    name : what the experiment is called
    comparisons : (arm, reference arm), declared before the results were seen
    without_target : arms that learn from no scan of the target cohort, whatever the fold holds
    classical, transfer : the arms of the two figures of the founding abstract
    """

    name: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    comparisons: tuple[tuple[str, str], ...]
    classical: tuple[str, ...]
    transfer: str
    ablations: tuple[str, ...] = ()
    without_target: tuple[str, ...] = ()

    @property
    def main(self) -> tuple[str, ...]:
        """The arms that are no ablation."""
        return tuple(arm for arm in self.arms if arm not in self.ablations)


def read_results(folder: Path) -> list[Row]:
    """Every row of results.csv.

    Raises
    ------
    UnusableResults
        No such file, a column missing, a value that is no number, or one scan twice for the same arm, seed and fold.
    """
    path, rows = folder / RESULTS, []
    seen: set[tuple[str, int, str, str]] = set()
    for number, line in _lines(path):
        try:
            figures = {name: _number(line[name]) for name in FIGURES}
            figures["volume_difference_ml"] = figures["found_ml"] - figures["truth_ml"]
            counts = int(line["seed"]), int(line["n_train_patients"]), int(line["n_train_scans"])
        except ValueError as error:
            raise UnusableResults(f"{path}, line {number}: {error}") from error
        row = Row(line["arm"], counts[0], line["fold"], line["patient"], line["scan"], counts[1], counts[2], figures)
        key = (row.arm, row.seed, row.fold, row.scan)
        if key in seen:
            raise UnusableResults(
                f"{path}, line {number}: {row.scan} stands there twice for arm {row.arm}, seed {row.seed}, fold {row.fold}"
            )
        seen.add(key)
        rows.append(row)
    return rows


def read_reliability(folder: Path) -> list[Bin]:
    """Every row of reliability.csv; raises UnusableResults as `read_results` does."""
    path, bins = folder / RELIABILITY, []
    for number, line in _lines(path):
        try:
            edges = float(line["bin_low"]), float(line["bin_high"])
            counts = int(float(line["voxels"])), int(float(line["positives"]))
            mean = _number(line["mean_probability"])
        except ValueError as error:
            raise UnusableResults(f"{path}, line {number}: {error}") from error
        bins.append(Bin(line["arm"], line["patient"], edges[0], edges[1], counts[0], mean, counts[1]))
    return bins


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    if not path.is_file():
        raise UnusableResults(f"{path}: not there; run the experiment first")
    wanted: Sequence[str] = (
        ("arm", "seed", "fold", "patient", "scan", "n_train_patients", "n_train_scans", *FIGURES)
        if path.name == RESULTS
        else ("arm", "patient", "bin_low", "bin_high", "voxels", "mean_probability", "positives")
    )
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise UnusableResults(f"{path}: no column {', '.join(missing)}")
        for line in reader:
            if any(line[name] is None for name in wanted):
                raise UnusableResults(f"{path}, line {reader.line_num}: cut short; delete that line and resume the experiment")
            yield reader.line_num, line


def _number(text: str) -> float:
    return float(text) if text.strip().lower() not in {"", "none", "null"} else nan


def prediction_path(folder: Path, arm: str, seed: int, scan: str) -> Path:
    """Where an arm's label image of a scan lies (1 lesion, 2 tumour-like)."""
    return folder / "predictions" / arm / f"seed-{seed}" / f"{scan}.nii.gz"


def read_prediction(path: Path, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """A label image, uint8, (i, j, k), on the scan's grid; raises UnusableResults on another shape."""
    labels = np.asarray(nibabel.load(path).dataobj, np.uint8)  # type: ignore[attr-defined]
    if labels.shape != shape:
        raise UnusableResults(f"{path}: shape {labels.shape}, the scan has {shape}")
    return labels


def read_cases(folder: Path) -> dict[str, Case]:
    """Every test scan's files by scan name, from cases.json; raises UnusableResults where it is missing or no such list."""
    path = folder / CASES
    if not path.is_file():
        raise UnusableResults(f"{path}: not there; run the experiment first")
    try:
        return TypeAdapter(dict[str, Case]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise UnusableResults(f"{path}: {error.error_count()} values are not as expected, the first: {error.errors()[0]['msg']}") from error


def rater_agreement(cases: Iterable[Case]) -> dict[str, float]:
    """Dice between raters by patient, where somebody marked a scan a second time: the ceiling of what can be asked of a network."""
    found: dict[str, list[float]] = {}
    for case in cases:
        scan = read_scan(case) if case.second or len(case.raters) > 1 else None
        if scan is not None:
            masks = (
                [read_role(case, "lesion", scan), read_role(case, "second", scan)]
                if case.second
                else [read_mask(r, scan) for r in case.raters]
            )
            pairs = [dice(one, other) for one, other in combinations([mask for mask in masks if mask is not None], 2)]
            found.setdefault(case.patient, []).extend(value for value in pairs if not isnan(value))
    return {patient: float(np.mean(values)) for patient, values in sorted(found.items()) if values}

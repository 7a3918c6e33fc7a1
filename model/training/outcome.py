"""From what every network found on its test scans to the experiment's files; the lesion definition of a fold never saw its test scans."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from io import StringIO
from math import isnan
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from model.postprocess import LESION
from model.release import LesionDefinition
from model.training.calibrate import reliability
from model.training.card import START_DEFINITION
from model.training.definition import choose_definition
from model.training.evaluate import Served
from model.training.layouts import Case
from model.training.metrics import Scores, score
from model.training.plan import Trial
from model.training.results import CASES, RELIABILITY, RESULTS, prediction_path
from model.training.stand_ins import save_nifti
from model.training.whole import whole_file

WHO = ("arm", "seed", "fold", "patient", "scan")
RESULT_COLUMNS = (
    *WHO, "n_train_patients", "n_train_scans", *(field.name for field in fields(Scores)),
    "threshold", "smallest_mm3", "temperature", "bias", "chosen_on", "seconds",
)  # fmt: skip
RELIABILITY_COLUMNS = (*WHO, "bin_low", "bin_high", "voxels", "mean_probability", "positives")
Row = dict[str, Any]
Found = dict[str, list[tuple[Served, float]]]


def choose_definitions(trials: Sequence[Trial], found: Found) -> dict[str, tuple[LesionDefinition, tuple[str, ...]]]:
    """For every fold the lesion definition that does best on its training patients, as other folds' networks found them untrained.

    Where no other fold tested one of a fold's training patients (a single draw of patients), the definition training starts from is
    kept. The second value names the patients it was chosen on.

    Parameters
    ----------
    trials : of one arm and seed
    found : fold -> what was found on its test scans, and in how many seconds
    """
    chosen = {}
    for trial in trials:
        others = [served for fold, group in found.items() if fold != trial.fold.name for served, _ in group]
        known = [served for served in others if served.truth.patient in trial.fold.train]
        patients = tuple(sorted({served.truth.patient for served in known}))
        marked = [served for served in known if served.truth.lesion is not None and served.truth.lesion.any()]
        definition = choose_definition(marked, START_DEFINITION) if marked else START_DEFINITION
        chosen[trial.fold.name] = (definition, patients if marked else ())
    return chosen


def tabulate(trials: Sequence[Trial], found: Found, n_scans: dict[str, int], folder: Path) -> tuple[list[Row], list[Row]]:
    """Rows of results.csv and reliability.csv of one arm and seed; the label images are written on the way."""
    chosen = choose_definitions(trials, found)
    results: list[Row] = []
    bins: list[Row] = []
    written: set[str] = set()
    for trial in trials:
        definition, patients = chosen[trial.fold.name]
        for served, seconds in found[trial.fold.name]:
            truth = served.truth
            who = {"arm": trial.arm, "seed": trial.seed, "fold": trial.fold.name, "patient": truth.patient, "scan": truth.name}
            labels = served.labels(definition)
            results.append({
                **who, "n_train_patients": len(trial.fold.train), "n_train_scans": n_scans[trial.fold.name],
                **asdict(score(served.true_lesion, (labels == LESION) & served.known, truth.scan.spacing_mm)),
                "threshold": definition.threshold, "smallest_mm3": definition.smallest_mm3, "temperature": definition.temperature,
                "bias": definition.bias, "chosen_on": " ".join(patients), "seconds": round(seconds, 2),
            })  # fmt: skip
            bins += [{**who, **row} for row in reliability(served, definition)]
            again = truth.name in written
            target = folder / "draws" / trial.fold.name if again else folder  # one scan drawn for test twice: the first is the one shown
            save_nifti(prediction_path(target, trial.arm, trial.seed, truth.name), labels, truth.scan.affine_ras)
            written.add(truth.name)
    return results, bins


def write_tables(folder: Path, results: Sequence[Row], bins: Sequence[Row]) -> None:
    """results.csv and reliability.csv, each whole or not at all."""
    _write_csv(folder / RESULTS, RESULT_COLUMNS, results)
    _write_csv(folder / RELIABILITY, RELIABILITY_COLUMNS, bins)


def write_cases(folder: Path, cases: Iterable[Case]) -> None:
    """cases.json: the files of every test scan, by its name."""
    told = TypeAdapter(dict[str, Case]).dump_python({case.id: case for case in cases}, mode="json")
    write_json(folder / CASES, told)


def write_json(path: Path, told: Any) -> None:
    """A JSON file, whole or not at all."""
    with whole_file(path) as stream:
        stream.write((json.dumps(told, indent=1) + "\n").encode())


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)
    with whole_file(path) as stream:
        stream.write(text.getvalue().encode())


def _text(value: Any) -> Any:
    if isinstance(value, float):
        return "" if isnan(value) else f"{value:.6g}"
    return value

"""The experiment's figures in words and tables: table.md, and the lines of the one-page summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan

import numpy as np

from model.training.charts import DICE, LESION_F1, METRICS, Metric, signed
from model.training.results import Bin, Plan, Row
from model.training.statistics import (
    FEWEST_TO_TEST,
    Comparison,
    Summary,
    bland_altman,
    bootstrap_mean,
    by_patient,
    compare,
    holm,
    reliability,
    summarise,
)

VOLUME = Metric("volume_difference_ml", "Volume, found − true", "ml", bounded=False)
NO_TEST = f"n < {FEWEST_TO_TEST}: no test"
NOTES = (
    "The unit is the patient: a patient's value is the mean over that patient's scans and seeds. IQR: interquartile range.",
    "Intervals: 95 %, percentile bootstrap of the mean by patient; below about ten patients they are narrower than they should be.",
    (
        f"Tests: two-sided Wilcoxon signed-rank on Dice, paired by patient, for the comparisons declared in the configuration; none below "
        f"{FEWEST_TO_TEST} patients; Holm's correction over those tested. Other figures are described, not tested."
    ),
    "An arm trained on 0 target patients still has its threshold and smallest lesion chosen on the fold's training patients.",
    "An arm is scored by the head that segments, alone. (In service the tumour head takes what it finds out of the lesions.)",
    "Correct negative: no lesion in the reference and none found. It has no Dice and is in no mean, so it is counted.",
    "Where only one of the two is empty, Dice is 0 and the distance is the image's diagonal.",
    "Lesion-wise: 26-connected components, one common voxel is a hit (Kuijf 2019). Hausdorff distance: surface to surface.",
)


@dataclass(frozen=True)
class State:
    """How far an arm has come: distinct (seed, scan) in results.csv, of those the configuration asks for."""

    done: int
    wanted: int

    def __str__(self) -> str:
        if self.done == 0:
            return "not run"
        return "complete" if self.done >= self.wanted else f"unfinished: {self.done} of {self.wanted} scan runs"


def state_of(plan: Plan, rows: Sequence[Row], scans: int, arm: str) -> State:
    """How far an arm has come, of `scans` test scans per seed."""
    return State(len({(row.seed, row.scan) for row in rows if row.arm == arm}), len(plan.seeds) * scans)


def of_arm(rows: Sequence[Row], arm: str) -> list[Row]:
    """An arm's rows."""
    return [row for row in rows if row.arm == arm]


def median_text(summary: Summary | None) -> str:
    """Median [first to third quartile]."""
    if summary is None:
        return "–"
    return (
        number(summary.median)
        if summary.n < 2
        else f"{number(summary.median)} [{number(summary.quartiles[0])} to {number(summary.quartiles[1])}]"
    )


def mean_text(summary: Summary | None) -> str:
    """Mean (95 % interval)."""
    if summary is None:
        return "–"
    return f"{number(summary.mean)} ({interval_text(summary.interval)})"


def interval_text(interval: tuple[float, float], show: Callable[[float], str] | None = None) -> str:
    """An interval, or why there is none."""
    show = show or number
    return "n = 1: no interval" if isnan(interval[0]) else f"{show(interval[0])} to {show(interval[1])}"


def number(value: float) -> str:
    """Two decimals, one from ten on, with a true minus."""
    return "–" if isnan(value) else f"{value:.{1 if abs(value) >= 10 else 2}f}".replace("-", "−")


def trained_on(plan: Plan, rows: Sequence[Row], arm: str) -> str:
    """Patients (scans) of the target cohort that an arm learned from; a range where the folds differ."""
    rows = of_arm(rows, arm)
    if not rows:
        return "–"
    if arm in plan.without_target:
        return "0 (0)"
    return f"{_range({row.n_train_patients for row in rows})} ({_range({row.n_train_scans for row in rows})})"


def _range(values: set[int]) -> str:
    return str(min(values)) if len(values) == 1 else f"{min(values)}–{max(values)}"


def tested_on(rows: Sequence[Row]) -> str:
    """Patients (scans) × seeds."""
    if not rows:
        return "0 (0)"
    return f"{len({row.patient for row in rows})} ({len({row.scan for row in rows})}) × {len({row.seed for row in rows})}"


def negatives_text(rows: Sequence[Row]) -> str:
    """How often nothing was found where nothing was."""
    return f"{sum(row.correct_negative for row in rows)} of {sum(row.figures['truth_ml'] == 0 for row in rows)}"


def comparisons(plan: Plan, rows: Sequence[Row]) -> list[Comparison]:
    """The declared comparisons of Dice, corrected together."""
    made = [compare(rows, arm, reference, DICE.key) for arm, reference in plan.comparisons]
    return [replace(one, p_holm=p) for one, p in zip(made, holm([one.p for one in made]), strict=True)]


def p_text(value: float) -> str:
    """A p value, or that there was no test."""
    if isnan(value):
        return NO_TEST
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def statement(comparison: Comparison) -> str:
    """One comparison as a sentence that says what was seen and no more."""
    names = f"{comparison.arm} against {comparison.reference}"
    if not comparison.n:
        return f"{names}: no patient has a value in both arms."
    text = (
        f"{names}: Dice higher in {comparison.higher} of {comparison.n} patients, "
        f"mean difference {signed(comparison.mean)} ({interval_text(comparison.interval, signed)})"
    )
    tested = NO_TEST if isnan(comparison.p) else f"p {_equals(comparison.p)}, after Holm {_equals(comparison.p_holm)}"
    left = f" Not paired, as only one arm has a value: {', '.join(comparison.left_out)}." if comparison.left_out else ""
    return f"{text}; {tested}.{left}"


def _equals(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def write_tables(plan: Plan, rows: Sequence[Row], bins: Sequence[Bin], scans: int, ceiling: Mapping[str, float]) -> str:
    """The whole of table.md."""
    sections = [
        f"# {plan.name}\n",
        *(f"- {note}" for note in NOTES),
        "\n## Arms\n",
        *_arms(plan, rows, scans),
        "\n## Declared comparisons (Dice, arm minus reference)\n",
        *_comparisons(plan, rows, scans),
        *_points(plan, rows, ceiling),
        "\n## Agreement of volume (Bland-Altman)\n",
        *_volumes(plan, rows),
        "\n## Calibration\n",
        *_calibration(plan, bins),
        "\n## Second rater\n",
        _raters(ceiling),
        "\n## Ablations\n",
        *_ablations(plan, rows, scans),
    ]
    return "\n".join(sections) + "\n"


def lines_of(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]


def _arms(plan: Plan, rows: Sequence[Row], scans: int) -> list[str]:
    described = [metric for metric in (*METRICS, VOLUME) if metric not in {DICE, LESION_F1}]
    first = [
        "arm",
        "target patients (scans) trained on",
        "tested: patients (scans) × seeds",
        "correct negatives of runs on scans without lesion",
        "state",
    ]
    shares = [f"{metric.name} {what}" for metric in (DICE, LESION_F1) for what in ("n", "median [IQR]", "mean (95 % interval)")]
    body, more = [], []
    for arm in plan.arms:
        own = of_arm(rows, arm)
        cells = [arm, trained_on(plan, rows, arm), tested_on(own), negatives_text(own), str(state_of(plan, rows, scans, arm))]
        for metric in (DICE, LESION_F1):
            summary = summarise(own, metric.key)
            cells += [str(summary.n if summary else 0), median_text(summary), mean_text(summary)]
        body.append(cells)
        summaries = [summarise(own, metric.key) for metric in described]
        more.append([arm, *(f"{median_text(one)}; n = {one.n if one else 0}" for one in summaries)])
    return [*lines_of([*first, *shares], body), "", *lines_of(["arm: median [IQR]", *(metric.label for metric in described)], more)]


def _comparisons(plan: Plan, rows: Sequence[Row], scans: int) -> list[str]:
    if not plan.comparisons:
        return ["None declared, so nothing was tested."]
    body = []
    for one in comparisons(plan, rows):
        states = {name: state_of(plan, rows, scans, name) for name in (one.arm, one.reference)}
        open_arms = [f"{name} {state}" for name, state in states.items() if state.done < state.wanted]
        left = [f"in one arm only: {', '.join(one.left_out)}"] if one.left_out else []
        values = [number(one.median) if isnan(one.median) else signed(one.median), "–", "–", "–"]
        if one.n:
            values = [signed(one.median), f"{signed(one.mean)} ({interval_text(one.interval, signed)})", p_text(one.p), p_text(one.p_holm)]
        cells = [f"{one.arm} − {one.reference}", str(one.n), f"{one.higher} of {one.n}", *values, "; ".join([*open_arms, *left]) or "–"]
        body.append(cells)
    return lines_of(
        ["comparison", "n patients", "higher in", "median difference", "mean difference (95 % interval)", "p", "p after Holm", "note"], body
    )


def _points(plan: Plan, rows: Sequence[Row], ceiling: Mapping[str, float]) -> list[str]:
    """Every patient's value of every figure, an arm per column."""
    out = []
    patients = sorted({row.patient for row in rows})
    for metric in (*METRICS, VOLUME):
        values = {arm: by_patient(of_arm(rows, arm), metric.key) for arm in plan.arms}
        raters = [("two raters", ceiling)] if metric is DICE and ceiling else []
        columns = [*values.items(), *raters]
        body = [[patient, *(number(own[patient]) if patient in own else "–" for _, own in columns)] for patient in patients]
        out += [f"\n## Every patient: {metric.label}\n", *lines_of(["patient", *(name for name, _ in columns)], body)]
    true = by_patient(rows, "truth_ml")
    found = [by_patient(of_arm(rows, arm), "found_ml") for arm in plan.arms]
    body = [[patient, number(true[patient]), *(number(own[patient]) if patient in own else "–" for own in found)] for patient in patients]
    return [*out, "\n## Every patient: lesion volume (ml)\n", *lines_of(["patient", "reference", *plan.arms], body)]


def _volumes(plan: Plan, rows: Sequence[Row]) -> list[str]:
    body = []
    for arm in plan.arms:
        agreement = bland_altman(of_arm(rows, arm))
        if agreement is None:
            body.append([arm, "0", "0", "–", "–"])
            continue
        limits = "n = 1: none" if isnan(agreement.limits[0]) else interval_text(agreement.limits, signed)
        body.append([arm, str(len(agreement.patients)), str(len(agreement.measurements)), signed(agreement.bias), limits])
    return lines_of(["arm", "n patients", "measurements (scans × seeds)", "bias (ml)", "95 % limits of agreement (ml)"], body)


def _calibration(plan: Plan, bins: Sequence[Bin]) -> list[str]:
    body = []
    for arm in plan.arms:
        curve = reliability([one for one in bins if one.arm == arm])
        errors = (curve.error, curve.error_above) if curve else ({}, {})
        body.append([arm, *(cell for error in errors for cell in _error_cells(error))])
    head = [
        "arm",
        "n",
        "expected calibration error, brain: mean (95 % interval)",
        "n",
        "the same above the lowest bin: mean (95 % interval)",
    ]
    return lines_of(head, body)


def _error_cells(errors: Mapping[str, float]) -> list[str]:
    if not errors:
        return ["0", "–"]
    values = np.asarray(list(errors.values()))
    return [str(len(values)), f"{values.mean():.3f} ({interval_text(bootstrap_mean(values), '{:.3f}'.format)})"]


def _raters(ceiling: Mapping[str, float]) -> str:
    if not ceiling:
        return "No scan was marked by a second rater: the ceiling is not known."
    values = np.asarray(list(ceiling.values()))
    spread = f"{number(float(values.min()))} to {number(float(values.max()))}"
    return f"Dice between raters: median {number(float(np.median(values)))}, {spread}; n = {len(values)} patients."


def _ablations(plan: Plan, rows: Sequence[Row], scans: int) -> list[str]:
    if not plan.ablations:
        return ["None in this configuration."]
    patients = sorted({row.patient for row in rows})
    body = []
    for arm in (plan.transfer, *plan.ablations):
        own = of_arm(rows, arm)
        points, summary, against = by_patient(own, DICE.key), summarise(own, DICE.key), compare(rows, arm, plan.transfer, DICE.key)
        change = "reference" if arm == plan.transfer else "–"
        if against.n and arm != plan.transfer:
            change = f"{signed(against.mean)} ({interval_text(against.interval, signed)}); n = {against.n}"
        each = [number(points[patient]) if patient in points else "–" for patient in patients]
        f1 = median_text(summarise(own, LESION_F1.key))
        cells = [arm, str(summary.n if summary else 0), median_text(summary), change, f1, *each, str(state_of(plan, rows, scans, arm))]
        body.append(cells)
    head = ["arm", "n", "Dice median [IQR]", f"Dice, mean difference to {plan.transfer}", "Lesion-wise F1 median [IQR]"]
    return lines_of([*head, *(f"Dice {patient}" for patient in patients), "state"], body)

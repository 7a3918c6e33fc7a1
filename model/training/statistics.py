"""From rows to statements: the patient is the unit, n stands beside every figure, and nothing is tested that cannot be.

A patient's value is the mean over that patient's scans and seeds, so repeated scans never count as more patients; drawing patients
with replacement is then the cluster bootstrap. Scans with nothing to find where nothing was found are no number: they are counted.

References
----------
Efron and Tibshirani 1993, An Introduction to the Bootstrap: the percentile interval.
Wilcoxon 1945, doi:10.2307/3001968, with Pratt's 1959 treatment of differences of zero; Holm 1979, https://www.jstor.org/stable/4615733.
Bland and Altman 2007, doi:10.1080/10543400701329422: limits of agreement with several measurements per individual.
Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602: expected calibration error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
import numpy.typing as npt
from scipy import stats

from model.training.results import Bin, Row

FEWEST_TO_TEST = 6  # with five pairs the smallest two-sided p of the signed-rank test is 0.0625
RESAMPLES = 9999
BOOTSTRAP_SEED = 1979
LIMIT = 1.96
SAME = 1e-9  # a difference below rounding is none, and must tie with others of its size


@dataclass(frozen=True)
class Summary:
    """One figure of one arm.

    Attributes
    ----------
    points : value by patient, the mean over that patient's scans and seeds
    n_scans : scans with a value for at least one seed
    median, quartiles, mean, interval : over patients; the interval (95 %, bootstrap by patient) is of the mean, NaN below two patients
    """

    points: dict[str, float]
    n_scans: int
    median: float
    quartiles: tuple[float, float]
    mean: float
    interval: tuple[float, float]

    @property
    def n(self) -> int:
        """Patients with a value."""
        return len(self.points)


@dataclass(frozen=True)
class Comparison:
    """Paired differences, arm minus reference.

    Attributes
    ----------
    differences : by patient; only patients with a value in both arms
    left_out : patients with a value in one of the two arms only
    p, p_holm : two-sided; NaN where there are too few pairs to test
    """

    arm: str
    reference: str
    metric: str
    differences: dict[str, float]
    left_out: tuple[str, ...]
    median: float
    mean: float
    interval: tuple[float, float]
    p: float
    p_holm: float = nan

    @property
    def n(self) -> int:
        """Pairs."""
        return len(self.differences)

    @property
    def higher(self) -> int:
        """Patients in whom the arm's value is above the reference's."""
        return sum(value > SAME for value in self.differences.values())


@dataclass(frozen=True)
class Agreement:
    """Bland-Altman of volume in millilitres, found minus true.

    Attributes
    ----------
    measurements : (patient, mean of both, difference) of every scan and seed
    patients : (mean of both, difference) by patient
    bias, limits : limits NaN below two patients
    """

    measurements: tuple[tuple[str, float, float], ...]
    patients: dict[str, tuple[float, float]]
    bias: float
    limits: tuple[float, float]


@dataclass(frozen=True)
class Reliability:
    """How often what was called likely was there; every patient weighs alike.

    Attributes
    ----------
    probability, frequency : mean predicted probability and share of lesion voxels, per bin that holds voxels
    share : share of brain voxels per bin
    patients : (probability, frequency) curves by patient
    error : expected calibration error by patient, over all brain voxels
    error_above : the same over voxels above the lowest bin, where the many voxels of healthy brain do not hide it; may lack patients
    """

    probability: npt.NDArray[np.float64]
    frequency: npt.NDArray[np.float64]
    share: npt.NDArray[np.float64]
    patients: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
    error: dict[str, float]
    error_above: dict[str, float]


def by_patient(rows: Iterable[Row], metric: str) -> dict[str, float]:
    """Mean over seeds and folds of each scan, then over the scans of each patient; patients without any value are left out."""
    scans: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if not isnan(row.figures[metric]):
            scans.setdefault(row.patient, {}).setdefault(row.scan, []).append(row.figures[metric])
    return {patient: float(np.mean([np.mean(values) for values in own.values()])) for patient, own in sorted(scans.items())}


def summarise(rows: Sequence[Row], metric: str) -> Summary | None:
    """One figure of one arm's rows over patients; None where no patient has a value."""
    points = by_patient(rows, metric)
    if not points:
        return None
    values = np.asarray(list(points.values()))
    scans = {row.scan for row in rows if not isnan(row.figures[metric])}
    low, median, high = np.percentile(values, (25, 50, 75))
    return Summary(points, len(scans), float(median), (float(low), float(high)), float(values.mean()), bootstrap_mean(values))


def bootstrap_mean(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of the mean; NaN below two values. The same values give the same interval."""
    if len(values) < 2:
        return nan, nan
    drawn = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(BOOTSTRAP_SEED))
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def compare(rows: Sequence[Row], arm: str, reference: str, metric: str) -> Comparison:
    """Paired over patients: signed-rank test from six pairs on, none below."""
    one, other = (by_patient([row for row in rows if row.arm == name], metric) for name in (arm, reference))
    differences = {patient: one[patient] - other[patient] for patient in one if patient in other}
    left_out = tuple(sorted(one.keys() ^ other.keys()))
    values = np.asarray(list(differences.values()))
    if not differences:
        return Comparison(arm, reference, metric, {}, left_out, nan, nan, (nan, nan), nan)
    return Comparison(
        arm,
        reference,
        metric,
        differences,
        left_out,
        float(np.median(values)),
        float(values.mean()),
        bootstrap_mean(values),
        _signed_rank(values),
    )


def _signed_rank(differences: npt.NDArray[np.float64]) -> float:
    if len(differences) < FEWEST_TO_TEST:
        return nan
    rounded = np.round(differences / SAME) * SAME
    return float(stats.wilcoxon(rounded, zero_method="pratt").pvalue) if rounded.any() else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p values; NaN (no test) stays NaN and does not count."""
    out = [nan] * len(values)
    tested = sorted((value, index) for index, value in enumerate(values) if not isnan(value))
    highest = 0.0
    for rank, (value, index) in enumerate(tested):
        highest = max(highest, min(1.0, value * (len(tested) - rank)))
        out[index] = highest
    return out


def bland_altman(rows: Sequence[Row]) -> Agreement | None:
    """Agreement of volume over the scans of patients.

    The bias is the mean over patients. The limits' variance is that between patients plus that within (scans and seeds), by one-way
    analysis of variance of the differences; with one measurement per patient these are the classical limits.
    """
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        true, found = row.figures["truth_ml"], row.figures["found_ml"]
        groups.setdefault(row.patient, []).append(((true + found) / 2, found - true))
    if not groups:
        return None
    patients = {name: (float(np.mean([m for m, _ in own])), float(np.mean([d for _, d in own]))) for name, own in sorted(groups.items())}
    bias = float(np.mean([difference for _, difference in patients.values()]))
    spread = LIMIT * _spread([np.asarray([d for _, d in own]) for own in groups.values()])
    measurements = tuple((name, mean, difference) for name, own in sorted(groups.items()) for mean, difference in own)
    return Agreement(measurements, patients, bias, (bias - spread, bias + spread))


def _spread(groups: Sequence[npt.NDArray[np.float64]]) -> float:
    """Standard deviation of one measurement of one patient; NaN below two patients."""
    if len(groups) < 2:
        return nan
    sizes = np.asarray([len(group) for group in groups], float)
    total, means = sizes.sum(), np.asarray([group.mean() for group in groups])
    grand = float((sizes * means).sum() / total)
    between = float((sizes * (means - grand) ** 2).sum()) / (len(groups) - 1)
    freedom = total - len(groups)
    within = float(sum(((group - group.mean()) ** 2).sum() for group in groups)) / freedom if freedom else 0.0
    size = (total - (sizes**2).sum() / total) / (len(groups) - 1)
    return float(np.sqrt(max(0.0, (between - within) / size) + within))


def reliability(bins: Sequence[Bin]) -> Reliability | None:
    """Curve and calibration error of one arm's bins; a patient's scans and seeds are pooled, patients weigh alike."""
    edges = sorted({(b.low, b.high) for b in bins})
    place = {edge: index for index, edge in enumerate(edges)}
    pooled: dict[str, npt.NDArray[np.float64]] = {}
    for b in bins:
        if b.voxels:
            table = pooled.setdefault(b.patient, np.zeros((3, len(edges))))
            table[:, place[b.low, b.high]] += (b.voxels, b.voxels * b.mean_probability, b.positives)
    if not pooled:
        return None
    weighed = np.mean([table / table[0].sum() for table in pooled.values()], axis=0)
    filled = weighed[0] > 0
    curves = {name: _curve(table) for name, table in sorted(pooled.items())}
    above = {name: table[:, 1:] for name, table in sorted(pooled.items()) if table[0, 1:].any()}
    return Reliability(
        *_curve(weighed),
        share=weighed[0][filled],
        patients=curves,
        error={name: _calibration_error(table) for name, table in sorted(pooled.items())},
        error_above={name: _calibration_error(table) for name, table in above.items()},
    )


def _curve(table: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    voxels, probability, positives = table[:, table[0] > 0]
    return probability / voxels, positives / voxels


def _calibration_error(table: npt.NDArray[np.float64]) -> float:
    return float(np.abs(table[1] - table[2]).sum() / table[0].sum())

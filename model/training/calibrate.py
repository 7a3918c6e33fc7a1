"""From what the lesion head says to a probability whose sum is a volume: Platt scaling on patients the network never saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from model.postprocess import LESION, TUMOUR_LIKE
from model.release import Calibration, LesionDefinition
from model.training.evaluate import Served
from model.training.layouts import Mask
from model.training.temperature import logit, warm

Floats = npt.NDArray[np.float64]

BINS = np.linspace(0.0, 1.0, 11)
POSSIBLE = 0.05
UNLIKELY, THINNED = 1e-3, 8  # of voxels less likely than this every eighth is taken, for eight
SLOPES = (0.1, 4.0)  # few perfectly told scans must not make a step of it
VOLUME_SHARE, VOLUME_ML = 0.25, 2.0  # what `model.release.Calibration` calls acceptable


def fit_platt(found: Sequence[Served]) -> tuple[float, float]:
    """Temperature and bias (logit / temperature + bias) of the lowest cross-entropy over all brain voxels, patients weighing alike.

    The bias makes the summed probability equal the true volume in the mean; a temperature alone has to buy that by being wrong
    about the sure ones.

    References
    ----------
    Platt, J. (1999) Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods
    """
    samples = [_sample(served) for served in found]
    weights = _patient_weights([served.truth.patient for served in found])
    values = np.concatenate([x for x, _, _ in samples])
    truth = np.concatenate([y for _, y, _ in samples])
    weight = np.concatenate([w * share for (_, _, w), share in zip(samples, weights, strict=True)])
    weight /= weight.sum()

    def loss(parameters: Floats) -> tuple[float, Floats]:
        slope, bias = np.exp(parameters[0]), parameters[1]
        score = slope * values + bias
        wrong = weight * (1 / (1 + np.exp(-np.clip(score, -80, 80))) - truth)
        entropy = float(np.sum(weight * (np.logaddexp(0, score) - truth * score)))
        return 1e4 * entropy, 1e4 * np.asarray([np.sum(wrong * values) * slope, np.sum(wrong)])

    limits = (tuple(np.log(SLOPES)), (-20.0, 20.0))
    result = minimize(loss, np.zeros(2), jac=True, bounds=limits, method="L-BFGS-B", options={"maxiter": 300, "ftol": 1e-12})
    return round(float(np.exp(-result.x[0])), 4), round(float(result.x[1]), 4)


def _sample(served: Served) -> tuple[Floats, Floats, Floats]:
    """Logits, truth and weights of the brain's voxels; a scan's weights sum to 1 whatever its size."""
    where = served.brain & served.known & ~served.tumour & (served.probability > 0)
    share, truth = served.probability[where], served.true_lesion[where]
    rare = (share < UNLIKELY) & ~truth
    keep = ~rare
    keep[np.flatnonzero(rare)[::THINNED]] = True
    weight = np.where(rare[keep], float(THINNED), 1.0) / max(1, np.count_nonzero(served.brain))
    return logit(share[keep]).astype(float), truth[keep].astype(float), weight


def _patient_weights(patients: Sequence[str]) -> list[float]:
    return [1.0 / patients.count(patient) for patient in patients]


def reliability(served: Served, definition: LesionDefinition) -> list[dict[str, float]]:
    """Brain voxels by bins of probability: how many, their mean probability, and how many are lesion."""
    where = served.brain & served.known
    return _bin(warm(served.probability[where], definition.temperature, definition.bias), served.true_lesion[where])


def _bin(share: npt.NDArray[np.float32], truth: Mask) -> list[dict[str, float]]:
    place = np.clip(np.digitize(share, BINS[1:-1]), 0, len(BINS) - 2)
    rows = []
    for number in range(len(BINS) - 1):
        inside = place == number
        voxels = int(np.count_nonzero(inside))
        mean = float(share[inside].mean(dtype=np.float64)) if voxels else 0.0
        row = {"bin_low": float(BINS[number]), "bin_high": float(BINS[number + 1]), "voxels": voxels, "mean_probability": mean}
        rows.append({**row, "positives": int(np.count_nonzero(truth[inside]))})
    return rows


def calibration_error(share: npt.NDArray[np.float32], truth: Mask) -> float:
    """Expected calibration error: how far stated and true frequency lie apart, over ten bins, by voxels.

    References
    ----------
    Guo et al. (2017) On calibration of modern neural networks
    """
    gaps = (abs(row["mean_probability"] * row["voxels"] - row["positives"]) for row in _bin(share, truth))
    return float(sum(gaps) / share.size) if share.size else 0.0


def measure_scan(served: Served, definition: LesionDefinition) -> dict[str, float]:
    """Calibration errors of one scan, and its volume by probability, as the report sums it, against truth and threshold."""
    where = served.brain & served.known
    share = warm(served.probability[where], definition.temperature, definition.bias)
    truth = served.true_lesion
    possible = share >= POSSIBLE
    labels = served.labels(definition)
    voxel_ml = served.truth.scan.voxel_ml
    counted = labels[where] != TUMOUR_LIKE
    return {
        "expected_calibration_error": round(calibration_error(share, truth[where]), 6),
        "expected_calibration_error_where_possible": round(calibration_error(share[possible], truth[where][possible]), 4),
        "by_probability_ml": round(float(share[counted].sum(dtype=np.float64)) * voxel_ml, 3),
        "by_threshold_ml": round(float(np.count_nonzero((labels == LESION) & served.known)) * voxel_ml, 3),
        "truth_ml": round(float(np.count_nonzero(truth)) * voxel_ml, 3),
    }


def judge(scans: Mapping[str, Mapping[str, Any]], patients: Mapping[str, str]) -> Calibration:
    """Put the scans' figures together and decide by the rule in `Calibration`.

    Parameters
    ----------
    scans : scan -> `measure_scan` under parameters fitted on other patients
    patients : scan -> patient
    """

    def mean(key: str) -> dict[str, float]:
        return mean_by_patient([(patients[name], row[key]) for name, row in scans.items()])

    summed, truth = mean("by_probability_ml"), mean("truth_ml")
    share = {patient: abs(summed[patient] - truth[patient]) / max(VOLUME_ML, VOLUME_SHARE * truth[patient]) for patient in truth}
    worst = max(share, key=lambda patient: share[patient])
    return Calibration(
        acceptable=share[worst] <= 1.0,
        expected_calibration_error=round(_mean(mean("expected_calibration_error").values()), 6),
        expected_calibration_error_where_possible=round(_mean(mean("expected_calibration_error_where_possible").values()), 4),
        worst_volume_error_ml=round(summed[worst] - truth[worst], 3),
        patients=len(truth),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def mean_by_patient(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Patient -> mean of the values of their scans."""
    grouped: dict[str, list[float]] = {}
    for patient, value in values:
        grouped.setdefault(patient, []).append(value)
    return {patient: float(np.mean(group)) for patient, group in grouped.items()}

"""The lesion definition of a release: what does best on scans the network never saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.release import LesionDefinition
from model.training.calibrate import fit_platt, mean_by_patient
from model.training.evaluate import Served
from model.training.merit import TRIED
from model.training.temperature import warm


def choose_definition(found: Sequence[Served], start: LesionDefinition) -> LesionDefinition:
    """Calibration, thresholds and smallest lesion that do best on out-of-fold predictions: Dice and F1, patients weighing alike."""
    value = {tried: float(np.mean(list(mean_by_patient([(s.truth.patient, s.merits[tried]) for s in found]).values()))) for tried in TRIED}
    best = max(value, key=lambda tried: value[tried])
    temperature, bias = fit_platt(found)
    threshold, peak = (round(float(v), 6) for v in warm(np.asarray([best.threshold, best.peak], np.float32), temperature, bias))
    chosen = {"threshold": threshold, "peak_threshold": peak, "smallest_mm3": best.smallest_mm3}
    return start.model_copy(update={"temperature": temperature, "bias": bias, **chosen})

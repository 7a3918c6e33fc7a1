"""Is the contrast of a scan what the release was trained on? A T1, a field map or another modality passes headers that are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.release import Contrast
from model.volume import Floats

Profile = tuple[float, ...]
Mask = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]

QUANTILES = (2, 10, 25, 75, 90, 98)  # the median is 0 by the preparation
FEATURES = (*(f"z-score, {q} %" for q in QUANTILES), "grey over white")
DARK_PERCENT = 6
NEAR, FAR = (2.5, 5.0), 9.0  # voxels from what is dark: cortex lies beside fluid, deep white matter does not
FEWEST = 500
SHRINKAGE = 0.3
MARGIN = 1.2
STRIDE = 2


def take_profile(data: Floats, core: Mask) -> Profile:
    """Quantiles of the brain's z-scores, and how much brighter tissue beside fluid is than tissue away from it.

    FLAIR has dark fluid and grey matter brighter than white; T1 has white brighter than grey, T2 and field maps other tails.

    Parameters
    ----------
    data : the network's input, shape (i, j, k)
    core : the central part of the brain, as the preparation found it
    """
    box = ndimage.find_objects(core.astype(np.uint8))[0]
    values, inside = data[box][::STRIDE, ::STRIDE, ::STRIDE], core[box][::STRIDE, ::STRIDE, ::STRIDE]
    quantiles = np.percentile(values[inside], (*QUANTILES, DARK_PERCENT))
    return (*(round(float(q), 4) for q in quantiles[:-1]), round(_grey_over_white(values, inside, float(quantiles[-1])), 4))


def _grey_over_white(values: Floats, inside: Mask, dark: float) -> float:
    away = STRIDE * ndimage.distance_transform_edt(~(inside & (values < dark)))
    tissue = inside & (values > -1.2)
    near, far = tissue & (away > NEAR[0]) & (away <= NEAR[1]), tissue & (away > FAR)
    if min(np.count_nonzero(near), np.count_nonzero(far)) < FEWEST:
        return 0.0
    return float(np.median(values[near]) - np.median(values[far]))


def distance(profile: Profile, contrast: Contrast) -> float:
    """Mahalanobis distance from the training volumes, over the root of the number of features: about 1 for one of them."""
    return _distance(np.asarray(profile), np.asarray(contrast.mean), np.asarray(contrast.precision))


def flags(profile: Profile, contrast: Contrast | None) -> tuple[str, ...]:
    """Flag a scan that is farther from the training volumes than these are from one another; nothing without a card's word on it."""
    if contrast is None or (off := distance(profile, contrast)) <= contrast.limit:
        return ()
    return (f"unfamiliar-contrast: {off:.1f} from the training scans, up to {contrast.limit:.1f} is usual; perhaps not a FLAIR",)


def learn(profiles: Mapping[str, Sequence[Profile]]) -> Contrast:
    """What the training volumes look like, and how far a patient of theirs lies from all the others.

    Parameters
    ----------
    profiles : patient -> the profiles of this patient's volumes

    Raises
    ------
    ValueError
        Fewer than four patients: how far they lie apart cannot be told.
    """
    if len(profiles) < 4:
        raise ValueError(f"{len(profiles)} patients: too few to say what contrast is usual")
    apart = []
    for patient, own in profiles.items():
        mean, precision = _spread([p for other, group in profiles.items() if other != patient for p in group])
        apart += [_distance(np.asarray(profile), mean, precision) for profile in own]
    everyone = [profile for group in profiles.values() for profile in group]
    mean, precision = _spread(everyone)
    rows = tuple(tuple(round(float(value), 6) for value in row) for row in precision)
    centre = tuple(round(float(value), 6) for value in mean)
    return Contrast(features=FEATURES, mean=centre, precision=rows, limit=round(MARGIN * max(apart), 3), volumes=len(everyone))


def _spread(profiles: Sequence[Profile]) -> tuple[Matrix, Matrix]:
    values = np.asarray(profiles, float)
    covariance = np.cov(values.T)
    # some spread is left to a feature that all training volumes share, or nothing but they would be familiar
    own = np.diag(np.maximum(np.diag(covariance), 1e-3))
    precision = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * own)
    return np.asarray(values.mean(axis=0), np.float64), np.asarray(precision, np.float64)


def _distance(profile: Matrix, mean: Matrix, precision: Matrix) -> float:
    apart = profile - mean
    return float(np.sqrt(max(0.0, float(apart @ precision @ apart)) / len(apart)))

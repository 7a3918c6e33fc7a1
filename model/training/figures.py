"""Pictures a person looks at: found against known, on the scan's own slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.training.examples import Truth
from model.training.layouts import Mask
from model.volume import canonical

COLUMNS = 4


def draw_overlay(truth: Truth, labels: npt.NDArray[np.uint8], brain: Mask, path: Path) -> None:
    """Axial slices: known lesion green, found lesion red, tumour-like yellow, brain cyan; and one sagittal, one coronal."""
    from matplotlib.figure import Figure

    scan = canonical(truth.scan)
    layers = [
        (brain, "cyan"),
        (truth.tumour, "orange"),
        (truth.lesion, "lime"),
        (labels == 2, "yellow"),
        (labels == 1, "red"),
    ]
    known = [(mask, colour) for mask, colour in layers if mask is not None]
    straight = [(np.asarray(canonical(truth.scan.with_data(mask)).data, bool), colour) for mask, colour in known]
    data = np.asarray(scan.data, np.float32)
    top = float(np.percentile(data[straight[0][0]], 99.7)) if straight[0][0].any() else float(data.max())
    figure = Figure(figsize=(4 * COLUMNS, 8.6))
    axes = figure.subplots(2, COLUMNS)
    for axis, (direction, index) in zip(axes.flat, _slices(straight, data.shape), strict=False):
        aspect = _aspect(scan.spacing_mm, direction)
        axis.imshow(np.take(data, index, direction).T, cmap="gray", origin="lower", vmin=0, vmax=top, aspect=aspect)
        for mask, colour in straight:
            plane = np.take(mask, index, direction).T
            if plane.any():
                axis.contour(plane, [0.5], colors=colour, linewidths=0.7)
        axis.axis("off")
    figure.suptitle(truth.name)
    figure.tight_layout()
    figure.savefig(path, dpi=60)


def _aspect(spacing: npt.NDArray[np.float64], direction: int) -> float:
    across, up = (axis for axis in range(3) if axis != direction)
    return float(spacing[up] / spacing[across])


def _slices(layers: list[tuple[Mask, str]], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Six axial slices over the diseased part (or the brain), the middle sagittal and coronal."""
    disease = np.zeros(shape[2])
    for mask, _ in layers[1:]:
        disease += mask.sum(axis=(0, 1))
    brain = layers[0][0].sum(axis=(0, 1))
    where = np.flatnonzero(disease if disease.any() else brain)
    if where.size == 0:
        where = np.arange(shape[2])
    picked = np.quantile(where, (0.1, 0.26, 0.42, 0.58, 0.74, 0.9)).astype(int)
    return [(2, int(index)) for index in picked] + [(0, int(shape[0] * 0.42)), (1, shape[1] // 2)]

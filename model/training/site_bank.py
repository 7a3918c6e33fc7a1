"""A painting bank for a site that has no collection of masks: where lesions occur by anatomy, shapes from its own scans and phantoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.anatomy import VENTRICLE
from model.training.examples import Example
from model.training.fields import blur, pull
from model.training.paint import Bank

MNI_SHAPE = (182, 218, 182)
MIDDLE = (90.0, 108.0, 90.0)  # of the head frame of `model.anatomy`, in MNI voxels
SCALE = 1.09  # MNI voxels in a millimetre of that frame: its mean brain in the MNI box
WHITE_RADII = (44.0, 60.0, 50.0)  # what lies farther out is cortex, mm
FALL_OFF_MM = 7.0
LOWEST_MM = -26.0
SMALLEST_SHAPE = 30  # MNI voxels


def anatomical_prior() -> Bank:
    """A bank without shapes: lesions are most frequent at the ventricles, rarer in deep white matter, absent elsewhere.

    Stands in for the frequency map of real masks: nine in ten lesion voxels of the 29 Open MS masks lie where it exceeds 0.01.
    """
    axes = [torch.arange(n, dtype=torch.float32) for n in MNI_SHAPE]
    x, y, z = ((axis - middle) / SCALE for axis, middle in zip(axes, MIDDLE, strict=True))
    grids = x.abs()[:, None, None], y[None, :, None], z[None, None, :]
    away = torch.full(MNI_SHAPE, 1e3)
    for start, end in VENTRICLE:
        away = torch.minimum(away, _distance(grids, start, end))
    inside = sum((grid / radius) ** 2 for grid, radius in zip(grids, WHITE_RADII, strict=True))
    white = torch.as_tensor(inside < 1.0) & (grids[2] > LOWEST_MM) & (away > 0.0)
    frequency = torch.exp(-away.clamp_min(0.0) / FALL_OFF_MM) * white
    smooth = blur(frequency, 3.0)
    return Bank((), smooth / smooth.max(), ())


def _distance(grids: tuple[Tensor, Tensor, Tensor], start: Sequence[float], end: Sequence[float]) -> Tensor:
    """Millimetres to the surface of a tapering tube (x, y, z, radius at both ends), mirrored left and right."""
    way = np.asarray(end[:3]) - np.asarray(start[:3])
    relative = [grid - c for grid, c in zip(grids, start[:3], strict=True)]
    along = (relative[0] * way[0] + relative[1] * way[1] + relative[2] * way[2]) / float(way @ way)
    along = along.clamp(0.0, 1.0)
    square = sum((part - along * step) ** 2 for part, step in zip(relative, way, strict=True))
    return torch.as_tensor(torch.as_tensor(square).sqrt() - (start[3] + along * (end[3] - start[3])))


def site_bank(prior: Bank, examples: Sequence[Example]) -> Bank:
    """The prior with the lesion shapes of these examples (one of each patient's scans), brought to MNI by their boxes.

    Whoever is left out of `examples` lends no shape either.
    """
    shapes: dict[str, Tensor] = {}
    for example in examples:
        if example.patient in shapes:
            continue
        shape = pull((example.labels[0] == 1)[None].float(), torch.linalg.inv(example.to_mni), MNI_SHAPE)[0] > 0.5
        if int(shape.sum()) >= SMALLEST_SHAPE:
            shapes[example.patient] = shape.to(torch.uint8)
    return Bank(tuple(shapes.values()), prior.prior, tuple(shapes))

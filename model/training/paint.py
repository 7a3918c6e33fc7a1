"""Painted disease: lesions and tumours drawn into real and synthetic scans, on the device, in the crop.

Everything here works on (i, j, k) tensors of one crop whose intensities are z-scored. Anatomy comes from an affine map of the crop
to MNI voxels (brain boxes matched): good to a centimetre, which is what a prior of where lesions occur needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.training.fields import (
    MARGIN,
    MniBox,
    blur,
    box_around,
    box_of,
    chance,
    dilate,
    jitter_matrix,
    make_box,
    pull,
    shape_of,
    smooth_noise,
    uniform,
)
from model.training.layouts import read_volume

PERIVENTRICULAR_BOX: MniBox = ((58, 124), (68, 158), (58, 112))
LEAST_PRIOR = 0.004


@dataclass(frozen=True)
class Bank:
    """Real lesion shapes on the MNI grid, and how often a lesion was where."""

    shapes: tuple[Tensor, ...]
    prior: Tensor
    names: tuple[str, ...]

    @cached_property
    def extent(self) -> MniBox:
        """The MNI voxels outside which nothing is painted."""
        common = self.prior > LEAST_PRIOR
        lines = [torch.nonzero(common.any(dim=axes[0]).any(dim=axes[1]))[:, 0].tolist() for axes in ((2, 1), (2, 0), (1, 0))]
        return tuple((line[0], line[-1]) for line in lines)


@dataclass(frozen=True)
class WhiteMatter:
    """Intensity of normal-appearing white matter in a scan, z-scored units."""

    mean: float
    sd: float


def load_bank(masks: dict[str, Path]) -> Bank:
    """Read the shapes, in RAS order, and their smoothed, mirrored frequency map (largest value 1)."""
    shapes = []
    for path in masks.values():
        volume = read_volume(path)
        data = np.asarray(volume.data, np.float32) > 0
        if volume.affine_ras[0, 0] < 0:
            data = data[::-1]
        shapes.append(torch.from_numpy(np.ascontiguousarray(data, dtype=np.uint8)))
    total = torch.stack(shapes).float().sum(0)
    prior = blur(total + total.flip(0), 3.0)
    return Bank(tuple(shapes), prior / prior.max(), tuple(masks))


def _real_shape(bank: Bank, to_mni: Tensor, shape: tuple[int, int, int]) -> Tensor:
    mask = bank.shapes[int(torch.randint(len(bank.shapes), ()))]
    moved = jitter_matrix((90.0, 108.0, 90.0), 0.15, 0.15, 6.0) @ to_mni
    if chance(0.5):
        mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
        mirror[0, 3] = mask.shape[0] - 1
        moved = mirror @ moved
    drawn = (pull(mask[None], moved, shape)[0] > 0.4).float()
    if chance(0.6):  # most people have fewer
        drawn *= (smooth_noise(shape, uniform(8, 20), drawn.device) > uniform(-0.7, 1.0)).float()
    return drawn


def _stamp(canvas: Tensor, centre: Sequence[int], radius: float) -> None:
    """Draw one irregular ellipsoid into the canvas, in place, touching only its own box."""
    reach = int(radius * 2) + 2
    box = make_box([c - reach for c in centre], [c + reach for c in centre], canvas.shape)
    axes = [
        (torch.arange(a, b, device=canvas.device) - float(c)) / (radius * uniform(0.6, 1.4))
        for a, b, c in zip(box.low, box.high, centre, strict=True)
    ]
    distance = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    ragged = distance + 0.35 * smooth_noise(box.shape, max(2.0, radius), canvas.device)
    view = box.of(canvas)
    torch.maximum(view, (ragged < 1.0).float(), out=view)


def _places(mask: Tensor, count: int) -> list[list[int]]:
    """So many voxels of a mask, at random; none if it is empty. Asks the device twice."""
    candidates = torch.nonzero(mask)
    if len(candidates) == 0:
        return []
    rows = torch.randint(len(candidates), (count,)).to(mask.device)
    places: list[list[int]] = candidates[rows].tolist()
    return places


def _blobs(weight: Tensor) -> Tensor:
    canvas = torch.zeros_like(weight)
    for centre in _places(weight > torch.rand_like(weight), int(uniform(1, 14))):
        _stamp(canvas, centre, math.exp(uniform(math.log(1.2), math.log(6.5))))
    return canvas


def _caps(image: Tensor, brain: Tensor, prior: Tensor, to_mni: Tensor, white: WhiteMatter) -> Tensor:
    """Bright rims of uneven thickness around the ventricles, as radiation leukoencephalopathy makes them.

    Thin fluid (most sulci) does not count, and caps lie only where lesions are common: deep grey matter has none.
    """
    out = torch.zeros_like(image)
    box = box_of(PERIVENTRICULAR_BOX, to_mni, image.shape)
    if box.empty:
        return out
    inside = torch.ones(box.shape, device=image.device)
    axes = [torch.arange(n, dtype=torch.float32, device=image.device) for n in box.shape]
    rows = box.moved(to_mni).tolist()
    for (low, high), row in zip(PERIVENTRICULAR_BOX, rows[:3], strict=True):
        place = (axes[0] * row[0] + row[3])[:, None, None] + (axes[1] * row[1])[None, :, None] + (axes[2] * row[2])[None, None, :]
        inside *= ((place > low) & (place < high)).float()
    fluid = (blur(box.of(image), 0.8) < white.mean - 3.0 * white.sd).float() * box.of(brain) * inside
    near = blur((blur(fluid, 1.5) > 0.5).float(), uniform(2.0, 7.0))
    thickness = (uniform(0.05, 0.25) + 0.06 * smooth_noise(box.shape, 10, image.device)).clamp_min_(0.03)
    common = box.of(prior) > uniform(0.02, 0.1)
    box.of(out).copy_(((near > thickness) & common).float() * (1.0 - fluid))
    return out


def paint_lesions(image: Tensor, brain: Tensor, forbidden: Tensor, to_mni: Tensor, bank: Bank, white: WhiteMatter) -> tuple[Tensor, Tensor]:
    """Draw white-matter lesions.

    Parameters
    ----------
    forbidden : where nothing is drawn (tumour and its rim, lesions that are there already)
    to_mni : (4, 4), crop voxel -> MNI voxel

    Returns
    -------
    The image with lesions, and what was drawn (float 0 or 1).
    """
    label = torch.zeros_like(image)
    box = box_of(bank.extent, to_mni, image.shape)
    if box.empty:
        return image, label
    drawn, allowed = _draw_lesions(box.of(image), box.of(brain), box.of(forbidden), box.moved(to_mni), bank, white)
    near = box_around(drawn)
    if near.empty:
        return image, label
    image = image.clone()
    view, found = near.of(box.of(image)), near.of(box.of(label))
    painted, chosen = _brighten(view, near.of(drawn), near.of(allowed), white)
    view.copy_(painted)
    found.copy_(chosen)
    return image, label


def _draw_lesions(image: Tensor, brain: Tensor, forbidden: Tensor, to_mni: Tensor, bank: Bank, white: WhiteMatter) -> tuple[Tensor, Tensor]:
    """Where lesions are to be, and where they may be."""
    shape = shape_of(image)
    prior = pull(bank.prior[None], to_mni, shape)[0]
    tissue = (blur(image, 1.0) > white.mean - 2.5 * white.sd).float()
    allowed = (1.0 - dilate(1.0 - brain, 3)) * tissue * (1.0 - forbidden) * (prior > LEAST_PRIOR).float()
    drawn = torch.zeros_like(image)
    if bank.shapes and chance(0.6):
        drawn = torch.maximum(drawn, _real_shape(bank, to_mni, shape))
    if chance(0.6):
        drawn = torch.maximum(drawn, _blobs((prior * 0.02).clamp_max(0.01) * allowed))
    if chance(0.4):
        drawn = torch.maximum(drawn, _caps(image, brain, prior, to_mni, white))
    if chance(0.35):  # confluent: what a network has not seen as lesion it takes for tumour
        drawn = (blur(dilate(drawn, int(torch.randint(1, 4, ()))), 1.5) > 0.35).float()
    return drawn * allowed, allowed


def _brighten(image: Tensor, drawn: Tensor, allowed: Tensor, white: WhiteMatter) -> tuple[Tensor, Tensor]:
    """Intensity, texture and soft edges for what is drawn."""
    shape = shape_of(image)
    softness = uniform(0.5, 1.1)
    label = (blur(drawn, softness) > 0.45).float() * allowed  # specks that would hardly show are not drawn
    soft = blur(label, softness)
    texture = 1.0 + uniform(0.0, 0.3) * smooth_noise(shape, uniform(2, 6), image.device)
    level = white.mean + white.sd * uniform(1.2, 5.0)
    spread = 1.0 + uniform(0.0, 0.35) * smooth_noise(shape, 14, image.device)
    lift = (level - white.mean) * texture * spread
    flatten = uniform(0.0, 0.6) * (white.mean - image)
    return image + soft * (lift.clamp_min(0.8 * white.sd) + flatten), label


def paint_tumour(image: Tensor, brain: Tensor, white: WhiteMatter) -> tuple[Tensor, Tensor]:
    """Draw one tumour: oedema with fingers, a core, at times a cavity. Returns the image and the whole tumour."""
    label = torch.zeros_like(image)
    places = _places(dilate(1.0 - brain, 4) == 0, 1)
    if not places:
        return image, label
    radius = uniform(9, 32)
    reach = 2.0 * radius + MARGIN
    box = make_box([c - reach for c in places[0]], [c + reach for c in places[0]], image.shape)
    centre = [c - start for c, start in zip(places[0], box.low, strict=True)]
    image = image.clone()
    view, found = box.of(image), box.of(label)
    painted, whole = _grow_tumour(view, box.of(brain), centre, radius, white)
    view.copy_(painted)
    found.copy_(whole)
    return image, label


def _grow_tumour(image: Tensor, brain: Tensor, centre: Sequence[int], radius: float, white: WhiteMatter) -> tuple[Tensor, Tensor]:
    whole = torch.zeros_like(image)
    _stamp(whole, centre, radius)
    ragged = smooth_noise(shape_of(image), uniform(5, 10), image.device)
    whole = (blur(whole, 2.0) > 0.45 + 0.15 * ragged).float() * brain
    tissue = (blur(image, 1.0) > white.mean - 3.0 * white.sd).float()
    whole = whole * tissue
    core = torch.zeros_like(image)
    _stamp(core, centre, radius * uniform(0.25, 0.6))
    core = core * whole
    soft = blur(whole, uniform(0.8, 1.8))
    texture = 1.0 + 0.3 * smooth_noise(shape_of(image), uniform(3, 8), image.device)
    out = image + soft * white.sd * uniform(1.5, 5.0) * texture
    middle = uniform(-5.0, -2.0) if chance(0.5) else uniform(0.0, 4.0)
    out = out + blur(core, 0.8) * (white.mean + white.sd * middle * texture - out)
    return out, whole


def erase_lesions(image: Tensor, lesion: Tensor, brain: Tensor, white: WhiteMatter) -> tuple[Tensor, Tensor]:
    """Fill some of the labelled lesions, or all of them, with tissue like their surroundings: a scan of a brain with less disease.

    Parameters
    ----------
    lesion : float 0 or 1, what is labelled

    Returns
    -------
    The image, and what was filled (float 0 or 1).
    """
    chosen = torch.ones_like(lesion) if chance(0.5) else (smooth_noise(shape_of(image), uniform(8, 20), image.device) > 0.0).float()
    filled = lesion * chosen
    diseased = dilate(lesion, 2)
    usable = brain * (1.0 - diseased) * ((image > white.mean - 3.0 * white.sd) & (image < white.mean + 1.5 * white.sd)).float()
    share = blur(usable, 4.0)
    around = torch.where(share > 0.01, blur(image * usable, 4.0) / share.clamp_min(0.01), torch.full_like(image, white.mean))
    grain = blur(torch.randn_like(image), 0.7) * white.sd * uniform(0.5, 1.2)
    edge = (blur(dilate(filled, 1), 0.7) * brain).clamp_max(1.0)
    dark = (image < around).float()  # the rim of a lesion is brighter than its surroundings, fluid beside it is not
    return image + edge * (1.0 - dark) * (around + grain - image), filled

"""Painted disease: lesions and tumours drawn into real and synthetic scans, on the device, in the crop.

Everything here works on (i, j, k) tensors of one crop whose intensities are z-scored. Anatomy comes from an affine map of the crop
to MNI voxels (brain boxes matched): good to a centimetre, which is what a prior of where lesions occur needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model.training.layouts import read_volume

PERIVENTRICULAR_BOX = ((58, 124), (68, 158), (58, 112))


@dataclass(frozen=True)
class Bank:
    """Real lesion shapes on the MNI grid, and how often a lesion was where."""

    shapes: tuple[Tensor, ...]
    prior: Tensor
    names: tuple[str, ...]


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


def pull(volume: Tensor, matrix: Tensor, shape: tuple[int, int, int], mode: str = "bilinear") -> Tensor:
    """Values of a (c, i, j, k) volume at `matrix` @ output voxel; zero outside."""
    size = torch.tensor(volume.shape[1:], dtype=torch.float32, device=volume.device)
    scale = 2.0 / (size - 1.0)
    rows = (matrix[:3, :3].float() * scale[:, None], matrix[:3, 3].float() * scale - 1.0)
    axes = [torch.arange(n, dtype=torch.float32, device=volume.device) for n in shape]
    grid = torch.empty((*shape, 3), device=volume.device)
    for axis in range(3):  # grid_sample wants the last axis first
        i, j, k = (axes[source] * rows[0][axis, source] for source in range(3))
        grid[..., 2 - axis] = i[:, None, None] + j[None, :, None] + k[None, None, :] + rows[1][axis]
    return functional.grid_sample(volume[None].float(), grid[None], mode=mode, align_corners=True)[0]


def blur(field: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian of an (i, j, k) field, edges repeated."""
    radius = max(1, int(2.5 * sigma + 0.5))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).float() / sigma) ** 2)
    weights = (taps / taps.sum()).tolist()
    out = field
    for axis in range(3):  # shifted sums: a one-channel convolution costs four times as much on a CPU
        size = out.shape[axis]
        padding = [0] * 6
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius
        padded = functional.pad(out[None, None], padding, mode="replicate")[0, 0]
        out = padded.narrow(axis, radius, size) * weights[radius]
        for reach in range(1, radius + 1):
            out.add_(padded.narrow(axis, radius - reach, size), alpha=weights[radius - reach])
            out.add_(padded.narrow(axis, radius + reach, size), alpha=weights[radius + reach])
    return out


def dilate(mask: Tensor, voxels: int) -> Tensor:
    """Grow a float mask by a cube of about the given half-width; wide growth works on a copy of half the size."""
    out = mask[None, None]
    coarse = voxels > 1
    if coarse:
        out = functional.max_pool3d(out, 2, ceil_mode=True)
    reach = (voxels + 1) // 2 if coarse else voxels
    for axis in range(3):
        size, padding = [1, 1, 1], [0, 0, 0]
        size[axis], padding[axis] = 2 * reach + 1, reach
        out = functional.max_pool3d(out, size, stride=1, padding=padding)
    if coarse:
        out = functional.interpolate(out, scale_factor=2, mode="nearest")
    i, j, k = mask.shape
    return out[0, 0, :i, :j, :k]


def smooth_noise(shape: tuple[int, int, int], cell: float, device: torch.device) -> Tensor:
    """Gaussian noise that varies over about `cell` voxels."""
    coarse = [max(2, int(n / cell) + 1) for n in shape]
    field = functional.interpolate(torch.randn(1, 1, *coarse, device=device), size=shape, mode="trilinear", align_corners=True)
    return field[0, 0] * 1.5


def uniform(low: float, high: float) -> float:
    """A number from the torch generator, so that one seed fixes everything."""
    return float(torch.rand(()) * (high - low) + low)


def chance(probability: float) -> bool:
    """True with the given probability."""
    return float(torch.rand(())) < probability


def jitter_matrix(centre: tuple[float, float, float], rotate: float, scale: float, shift: float) -> Tensor:
    """A random affine about a centre: radians, share, voxels."""
    a, b, c = (uniform(-rotate, rotate) for _ in range(3))
    rx = torch.tensor([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = torch.tensor([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = torch.tensor([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    stretch = torch.diag(torch.tensor([1.0 + uniform(-scale, scale) for _ in range(3)])).to(torch.float64)
    linear = rx.double() @ ry.double() @ rz.double() @ stretch
    middle = torch.tensor(centre, dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = linear
    matrix[:3, 3] = middle - linear @ middle + torch.tensor([uniform(-shift, shift) for _ in range(3)], dtype=torch.float64)
    return matrix


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


def _stamp(canvas: Tensor, centre: Tensor, radius: float) -> None:
    """Draw one irregular ellipsoid into the canvas, in place, touching only its own box."""
    reach = int(radius * 2) + 2
    low = [max(0, int(c) - reach) for c in centre]
    high = [min(n, int(c) + reach + 1) for c, n in zip(centre, canvas.shape, strict=True)]
    axes = [
        (torch.arange(a, b, device=canvas.device) - float(c)) / (radius * uniform(0.6, 1.4))
        for a, b, c in zip(low, high, centre, strict=True)
    ]
    distance = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    box = (high[0] - low[0], high[1] - low[1], high[2] - low[2])
    ragged = distance + 0.35 * smooth_noise(box, max(2.0, radius), canvas.device)
    view = canvas[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    torch.maximum(view, (ragged < 1.0).float(), out=view)


def _blobs(weight: Tensor) -> Tensor:
    canvas = torch.zeros_like(weight)
    candidates = torch.nonzero(weight > torch.rand_like(weight))
    if len(candidates) == 0:
        return canvas
    for _ in range(int(uniform(1, 14))):
        centre = candidates[int(torch.randint(len(candidates), ()))]
        _stamp(canvas, centre, float(np.exp(uniform(np.log(1.2), np.log(6.5)))))
    return canvas


def _caps(image: Tensor, brain: Tensor, to_mni: Tensor, white: WhiteMatter) -> Tensor:
    """Bright rims of uneven thickness around the ventricles, as radiation leukoencephalopathy makes them."""
    inside = torch.ones_like(image)
    axes = [torch.arange(n, dtype=torch.float64, device=image.device) for n in image.shape]
    for axis, (low, high) in enumerate(PERIVENTRICULAR_BOX):
        row = to_mni[axis]
        place = axes[0][:, None, None] * row[0] + axes[1][None, :, None] * row[1] + axes[2][None, None, :] * row[2] + row[3]
        inside *= ((place > low) & (place < high)).float()
    fluid = ((blur(image, 0.8) < white.mean - 3.0 * white.sd).float() * brain * inside).contiguous()
    near = blur(dilate(fluid, int(uniform(2, 5))), 2.0)
    thickness = uniform(0.2, 0.6) + 0.15 * smooth_noise(_shape(image), 10, image.device)
    return (near > thickness).float() * (1.0 - fluid)


def _shape(image: Tensor) -> tuple[int, int, int]:
    return image.shape[0], image.shape[1], image.shape[2]


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
    shape = _shape(image)
    prior = pull(bank.prior[None], to_mni, shape)[0]
    tissue = (blur(image, 1.0) > white.mean - 2.5 * white.sd).float()
    allowed = (1.0 - dilate(1.0 - brain, 3)) * tissue * (1.0 - forbidden) * (prior > 0.004).float()
    drawn = torch.zeros_like(image)
    if chance(0.6):
        drawn = torch.maximum(drawn, _real_shape(bank, to_mni, shape))
    if chance(0.6):
        drawn = torch.maximum(drawn, _blobs((prior * 0.02).clamp_max(0.01) * allowed))
    if chance(0.25):
        drawn = torch.maximum(drawn, _caps(image, brain, to_mni, white))
    if chance(0.12):
        drawn = (blur(dilate(drawn, 1), 1.5) > 0.35).float()
    softness = uniform(0.5, 1.1)
    label = (blur(drawn * allowed, softness) > 0.45).float() * allowed  # specks that would hardly show are not drawn
    soft = blur(label, softness)
    texture = 1.0 + uniform(0.0, 0.3) * smooth_noise(shape, uniform(2, 6), image.device)
    level = white.mean + white.sd * uniform(1.2, 5.0)
    spread = 1.0 + uniform(0.0, 0.35) * smooth_noise(shape, 14, image.device)
    lift = (level - white.mean) * texture * spread
    flatten = uniform(0.0, 0.6) * (white.mean - image)
    return image + soft * (lift.clamp_min(0.8 * white.sd) + flatten), label


def paint_tumour(image: Tensor, brain: Tensor, white: WhiteMatter) -> tuple[Tensor, Tensor]:
    """Draw one tumour: oedema with fingers, a core, at times a cavity. Returns the image and the whole tumour."""
    places = torch.nonzero((1.0 - dilate(1.0 - brain, 4)) > 0)
    whole = torch.zeros_like(image)
    if len(places) == 0:
        return image, whole
    centre = places[int(torch.randint(len(places), ()))]
    radius = uniform(9, 24)
    _stamp(whole, centre, radius)
    ragged = smooth_noise(_shape(image), uniform(5, 10), image.device)
    whole = (blur(whole, 2.0) > 0.45 + 0.15 * ragged).float() * brain
    tissue = (blur(image, 1.0) > white.mean - 3.0 * white.sd).float()
    whole = whole * tissue
    core = torch.zeros_like(image)
    _stamp(core, centre, radius * uniform(0.25, 0.6))
    core = core * whole
    soft = blur(whole, uniform(0.8, 1.8))
    texture = 1.0 + 0.3 * smooth_noise(_shape(image), uniform(3, 8), image.device)
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
    chosen = torch.ones_like(lesion) if chance(0.5) else (smooth_noise(_shape(image), uniform(8, 20), image.device) > 0.0).float()
    filled = lesion * chosen
    diseased = dilate(lesion, 2)
    usable = brain * (1.0 - diseased) * ((image > white.mean - 3.0 * white.sd) & (image < white.mean + 1.5 * white.sd)).float()
    share = blur(usable, 4.0)
    around = torch.where(share > 0.01, blur(image * usable, 4.0) / share.clamp_min(0.01), torch.full_like(image, white.mean))
    grain = blur(torch.randn_like(image), 0.7) * white.sd * uniform(0.5, 1.2)
    edge = (blur(dilate(filled, 1), 0.7) * brain).clamp_max(1.0)
    dark = (image < around).float()  # the rim of a lesion is brighter than its surroundings, fluid beside it is not
    return image + edge * (1.0 - dark) * (around + grain - image), filled

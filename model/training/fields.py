"""Fields over a crop: values through an affine map, Gaussian blur, growth, smooth noise, and the box that has to be computed at all.

Everything works on the device of its tensors; random numbers that decide something come from the CPU's generator, so that nothing waits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MniBox = tuple[tuple[int, int], ...]
MARGIN = 6


def pull(volume: Tensor, matrix: Tensor, shape: tuple[int, int, int], mode: str = "bilinear") -> Tensor:
    """Values of a (c, i, j, k) volume at `matrix` @ output voxel; zero outside."""
    scale = [2.0 / (n - 1.0) for n in volume.shape[1:]]
    rows = matrix.tolist()
    grid = torch.empty((*shape, 3), device=volume.device)
    for axis in range(3):  # grid_sample wants the last axis first
        i, j, k = (torch.arange(n, dtype=torch.float32, device=volume.device) * (rows[axis][m] * scale[axis]) for m, n in enumerate(shape))
        grid[..., 2 - axis] = (i + (rows[axis][3] * scale[axis] - 1.0))[:, None, None] + j[None, :, None] + k[None, None, :]
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


@dataclass(frozen=True)
class Box:
    """A part of a crop: first voxel, and one past the last, along each axis."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        i, j, k = (b - a for a, b in zip(self.low, self.high, strict=True))
        return i, j, k

    @property
    def empty(self) -> bool:
        """Whether no voxel is in it."""
        return min(self.shape) <= 0

    def of(self, field: Tensor) -> Tensor:
        """The part of an (i, j, k) field; a view."""
        i, j, k = (slice(a, b) for a, b in zip(self.low, self.high, strict=True))
        return field[i, j, k]

    def moved(self, to_mni: Tensor) -> Tensor:
        """Box voxel -> MNI voxel."""
        shift = torch.eye(4, dtype=torch.float64)
        shift[:3, 3] = torch.tensor(self.low, dtype=torch.float64)
        return to_mni @ shift


def make_box(low: Sequence[float], high: Sequence[float], shape: Sequence[int]) -> Box:
    """From the lowest to the highest place, as far as it lies in a field of this shape."""
    a, b, c = (min(n, max(0, math.floor(edge))) for edge, n in zip(low, shape, strict=True))
    x, y, z = (min(n, max(0, math.ceil(edge) + 1)) for edge, n in zip(high, shape, strict=True))
    return Box((a, b, c), (x, y, z))


def box_of(mni: MniBox, to_mni: Tensor, shape: Sequence[int]) -> Box:
    """The part of a crop that a box of MNI voxels covers, and a margin: nothing outside it need be computed."""
    corners = torch.tensor(list(itertools.product(*mni)), dtype=torch.float64)
    back = torch.linalg.inv(to_mni)
    here = corners @ back[:3, :3].T + back[:3, 3]
    return make_box((here.amin(0) - MARGIN).tolist(), (here.amax(0) + MARGIN).tolist(), shape)


def box_around(mask: Tensor) -> Box:
    """The box of what is drawn, and a margin. Asks the device once."""
    found = [mask.amax(dim=tuple({0, 1, 2} - {axis})) > 0 for axis in range(3)]
    where = [[at for at, hit in enumerate(line) if hit] for line in torch.cat(found).split(list(mask.shape))]
    if not all(where):
        return Box((0, 0, 0), (0, 0, 0))
    return make_box([line[0] - MARGIN for line in where], [line[-1] + MARGIN for line in where], mask.shape)


def shape_of(image: Tensor) -> tuple[int, int, int]:
    """Voxels along each axis."""
    return image.shape[0], image.shape[1], image.shape[2]

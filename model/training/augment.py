"""From a prepared volume to one training crop: place, paint, and pass it through a scanner that never was."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from model.training.examples import IGNORE, Example
from model.training.fields import blur, chance, dilate, jitter_matrix, pull, smooth_noise, uniform
from model.training.paint import Bank, erase_lesions, paint_lesions, paint_tumour

CEILING = 4.5
FLOOR = -8.0
CENTRES = 50_000


class Painting(BaseModel):
    """How often real lesions are erased, lesions and tumours painted on scans of one kind, and heads stripped to the brain."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    erase: float = 0.0
    lesions: float = 0.0
    tumours: float = 0.0
    strip: float = 0.0


@dataclass(frozen=True, eq=False)
class Crop:
    """What the loop trains on: image (n, 1, i, j, k) and labels uint8 (n, 3, i, j, k), 255 = ignored."""

    image: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Centres:
    """Where crops of a volume may be centred: voxels on disease and in the brain, int64 (n, 3) each, kept on the CPU."""

    disease: Tensor
    brain: Tensor


def find_centres(example: Example) -> Centres:
    """Evenly many places, at most `CENTRES`, so that a step need not search the volume."""
    labels = example.labels

    def places(mask: Tensor) -> Tensor:
        flat = torch.nonzero(mask.flatten())[:, 0].cpu()
        flat = flat[torch.linspace(0, max(0, len(flat) - 1), min(CENTRES, len(flat))).long()]
        return torch.stack(torch.unravel_index(flat, mask.shape), dim=1)

    return Centres(places((labels[0] == 1) | (labels[1] == 1)), places(labels[2] == 1))


def draw_crop(example: Example, centres: Centres, size: tuple[int, int, int], centred: float, painting: Painting, bank: Bank) -> Crop:
    """One augmented crop. `centred`: the share of crops that are centred on disease."""
    image, labels, placed = _place(example, centres, size, centred)
    to_mni = example.to_mni @ placed
    brain = (labels[2] == 1).float()
    if chance(painting.strip):  # or the network learns that a stripped brain has a tumour
        image = image * dilate(brain, int(torch.randint(3, ())))
    background = (image == 0) & (brain == 0)
    image, labels = _paint(example, image, labels, brain, to_mni, painting, bank)
    image = randomise(image, background)
    if not example.brain_known:
        labels[2] = IGNORE
    for axis in range(3):
        if chance(0.5 if axis == 0 else 0.05):
            image, labels = image.flip(axis), labels.flip(axis + 1)
    return Crop(image[None, None].contiguous(), labels[None].contiguous())


def _centre(centres: Centres, centred: float) -> Tensor:
    places = centres.disease if chance(centred) and len(centres.disease) else centres.brain
    return places[int(torch.randint(len(places), ()))].double()


def _place(example: Example, centres: Centres, size: tuple[int, int, int], centred: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cut out, at times turned and stretched. Returns image, labels and the map crop voxel -> volume voxel."""
    full = torch.tensor(example.image.shape)
    wanted = torch.tensor(size)
    start = _centre(centres, centred) - wanted / 2 + torch.tensor([uniform(-20, 20) for _ in range(3)])
    low, high = torch.minimum(torch.zeros(3), full - wanted), torch.maximum(torch.zeros(3), (full - wanted).double())
    start = torch.maximum(torch.minimum(start.round(), high), low)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = start
    if chance(0.4):
        middle = (float(size[0]) / 2, float(size[1]) / 2, float(size[2]) / 2)
        matrix = matrix @ jitter_matrix(middle, 0.2, 0.15, 4.0)
        image = pull(example.image[None], matrix, size)[0]
        labels = pull(example.labels, matrix, size, "nearest").to(torch.uint8)
        return image, labels, matrix
    begin = [max(0, int(s)) for s in start]
    ends = [min(int(n), int(s) + w) for n, s, w in zip(full, start, size, strict=True)]
    i, j, k = (slice(b, e) for b, e in zip(begin, ends, strict=True))
    image, labels = example.image[i, j, k].float(), example.labels[:, i, j, k]
    padding = [
        int(part) for s, b, e, w in reversed(list(zip(start, begin, ends, size, strict=True))) for part in (b - int(s), int(s) + w - e)
    ]
    return functional.pad(image, padding), functional.pad(labels, padding).clone(), matrix


def _paint(
    example: Example, image: Tensor, labels: Tensor, brain: Tensor, to_mni: Tensor, painting: Painting, bank: Bank
) -> tuple[Tensor, Tensor]:
    labels = labels.clone()
    if chance(painting.erase):
        image, filled = erase_lesions(image, (labels[0] == 1).float(), brain, example.white)
        labels[0][filled > 0] = 0
    if chance(painting.lesions):
        occupied = dilate(((labels[0] == 1) | (labels[1] == 1)).float(), 3)
        image, drawn = paint_lesions(image, brain, occupied, to_mni, bank, example.white)
        labels[0][drawn > 0] = 1
    if chance(painting.tumours):
        image, whole = paint_tumour(image, brain, example.white)
        hidden = (whole > 0) & (labels[0] != 0)
        labels[1][whole > 0] = 1
        labels[0][whole > 0] = 0
        labels[0][hidden] = IGNORE
    return image, labels


def randomise(image: Tensor, background: Tensor) -> Tensor:
    """Scanner randomisation of a z-scored crop; the background stays 0."""
    shape = (image.shape[0], image.shape[1], image.shape[2])
    out = image.clamp(FLOOR, uniform(2.2, CEILING) if chance(0.5) else CEILING)
    if chance(0.5):
        out = _thick_slices(out, uniform(1.5, 6.0), int(torch.randint(3, ())))
    if chance(0.2):
        out = blur(out, uniform(0.4, 0.9))
    if chance(0.6):
        out = _tone(out)
    if chance(0.5):
        out = (out + 6.0) * torch.exp(uniform(0.0, 0.12) * smooth_noise(shape, uniform(40, 80), image.device)) - 6.0
    if chance(0.15):
        out = _ghost(out)
    out = out * uniform(0.8, 1.25) + uniform(-0.35, 0.35)
    if chance(0.6):
        out = out + uniform(0.02, 0.35) * torch.randn_like(out)
        if chance(0.4):
            out = blur(out, uniform(0.35, 0.6))
    return out.masked_fill(background, 0.0)


def _tone(image: Tensor) -> Tensor:
    """Gamma about the usual range of tissue, which changes the contrast of lesion, white and grey matter."""
    share = ((image + 6.0) / 10.0).clamp(0.0, 1.05)
    gamma = uniform(0.6, 1.7)
    middle = math.pow(0.6, gamma)
    slope = gamma * math.pow(0.6, gamma - 1)
    curved = share.pow(gamma)
    return (curved - middle) / slope * 10.0


def _thick_slices(image: Tensor, thickness: float, axis: int) -> Tensor:
    size = list(image.shape)
    size[axis] = max(4, int(size[axis] / thickness))
    coarse = functional.interpolate(image[None, None], size=size, mode="area")
    return functional.interpolate(coarse, size=list(image.shape), mode="trilinear", align_corners=False)[0, 0]


def _ghost(image: Tensor) -> Tensor:
    axis = int(torch.randint(3, ()))
    shift = int(uniform(12, 40))
    echo: Tensor = torch.roll(image, shift, axis) + torch.roll(image, -shift, axis)
    return image + uniform(0.02, 0.08) * echo

"""Cases brought to the network's grid by the code that serves, with what each head may learn from each voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.preprocess import Inputs, prepare, resample_to
from model.release import InputPreparation
from model.training.fields import blur, dilate, pull
from model.training.layouts import Case, Mask, carried, read_brain, read_role, read_scan
from model.training.outline import fill_brain, holds_head, is_extracted, outline_brain
from model.training.paint import Bank, WhiteMatter
from model.training.skull import add_head
from model.volume import Volume, canonical

if TYPE_CHECKING:
    from model.phantom import Phantom

IGNORE = 255
MNI_BRAIN = ((20.0, 160.0), (20.0, 196.0), (4.0, 156.0))


@dataclass(frozen=True, eq=False)
class Truth:
    """A scan with what is known of it, on its own grid. None: nothing known.

    Attributes
    ----------
    changed : lesion wherever the scan is bright there
    ignore : nobody says what is there: the lesion head learns nothing from it
    brain_known : false where the brain mask that came with the scan holds a head: `brain` is the released network's, good to paint in and
        no truth to learn or to compare with
    """

    name: str
    patient: str
    scan: Volume
    lesion: Mask | None
    tumour: Mask | None
    brain: Mask
    healthy_tumour: bool
    changed: Mask | None = None
    ignore: Mask | None = None
    brain_known: bool = True


@dataclass(frozen=True, eq=False)
class Example:
    """A prepared training volume.

    Attributes
    ----------
    image : float16, (i, j, k), z-scored, background 0
    labels : uint8, (3, i, j, k), heads in the network's order; 255 = ignored
    to_mni : float64, (4, 4), voxel -> MNI voxel, roughly
    white : normal-appearing white matter
    kind : "target" (lesions known), "tumour", "phantom" or "raw"
    brain_known : whether the brain head may learn from the third label; where to paint it says in any case
    """

    name: str
    patient: str
    kind: str
    image: Tensor
    labels: Tensor
    to_mni: Tensor
    white: WhiteMatter
    brain_known: bool = True


def read_truth(case: Case) -> Truth:
    """Everything a case knows, on its own grid.

    A whole head without a brain mask, or with one that holds the head, gets the released network's.

    Raises
    ------
    UnusableCase
        A file is missing, unreadable, not finite, on another grid, or holds labels nobody declared.
    """
    scan = read_scan(case)
    brain = read_brain(case, scan)
    known = brain is None or not holds_head(brain, scan)
    if brain is None or not known:
        scan = scan.with_data(np.maximum(np.asarray(scan.data, np.float32), 0.0))
        brain = fill_brain(scan) if case.extracted or is_extracted(scan) else outline_brain(scan)
    lesion, tumour, ignore = (read_role(case, role, scan) for role in ("lesion", "tumour", "ignore"))
    changed = None if case.changed is None else carried(case, case.changed)
    return Truth(case.id, case.patient, scan, lesion, tumour, brain, case.healthy_tumour, changed, ignore, known)


def phantom_truth(phantom: Phantom, name: str) -> Truth:
    """A phantom is its own truth."""
    flair = phantom.flair.with_data(np.asarray(phantom.flair.data, np.float32))
    return Truth(name, name, flair, np.asarray(phantom.lesions.data, bool), None, np.asarray(phantom.brain.data, bool), True)


def with_head(truth: Truth, seed: int) -> Truth:
    """The same brain-extracted scan inside a synthetic head."""
    scan, brain = add_head(truth.scan, truth.brain, seed)
    start = [round(v) for v in np.linalg.inv(scan.affine_ras) @ np.append(canonical(truth.scan).affine_ras[:3, 3], 1)][:3]

    def moved(mask: Mask | None) -> Mask | None:
        if mask is None:
            return None
        out = np.zeros(scan.shape, bool)
        straight = np.asarray(canonical(truth.scan.with_data(mask)).data, bool)
        i, j, k = (slice(s, s + n) for s, n in zip(start, straight.shape, strict=True))
        out[i, j, k] = straight
        return out

    name = f"{truth.name}+head{seed}"
    lesion, tumour, ignore = (moved(mask) for mask in (truth.lesion, truth.tumour, truth.ignore))
    return Truth(name, truth.patient, scan, lesion, tumour, brain, truth.healthy_tumour, None, ignore, truth.brain_known)


def make_example(truth: Truth, kind: str, preparation: InputPreparation, bank: Bank) -> Example:
    """Prepare a scan as the service does, and set down what each head may learn where."""
    inputs = prepare(truth.scan, preparation)
    brain = _carry(inputs, truth, truth.brain)
    image = torch.from_numpy(np.ascontiguousarray(inputs.data[0, 0]))
    to_mni = _mni_map(brain)
    prior = pull(bank.prior[None], to_mni, _shape(image))[0]
    white = _white_matter(image, torch.from_numpy(brain).float(), prior)
    labels = np.zeros((3, *brain.shape), np.uint8)
    labels[2] = brain
    if truth.lesion is not None:
        labels[0] = _carry(inputs, truth, truth.lesion)
    tumour = torch.zeros_like(image)
    if truth.tumour is not None:
        labels[1] = _carry(inputs, truth, truth.tumour)
        tumour = torch.from_numpy(labels[1]).float()
    elif not truth.healthy_tumour:
        labels[1] = IGNORE
    if truth.lesion is None:
        unknown = _unlabelled(image, torch.from_numpy(brain).float(), tumour, prior, white)
        labels[0][unknown.numpy()] = IGNORE
        if truth.tumour is not None:
            near = (dilate(tumour, 5) > 0).numpy()  # farther off, whoever drew the tumour has said that this is none
            labels[1][unknown.numpy() & near & (labels[1] == 0)] = IGNORE
    if truth.changed is not None:
        changed = _carry(inputs, truth, truth.changed) > 0
        bright = ((blur(image, 0.6) > white.mean + 1.8 * white.sd) & (prior > 0.01)).numpy() & (brain > 0)
        labels[0][changed] = np.where(bright[changed], 1, IGNORE)
    if truth.ignore is not None:
        labels[0][_carry(inputs, truth, truth.ignore) > 0] = IGNORE
    return Example(truth.name, truth.patient, kind, image.half(), torch.from_numpy(labels), to_mni, white, truth.brain_known)


def _shape(image: Tensor) -> tuple[int, int, int]:
    return image.shape[0], image.shape[1], image.shape[2]


def _carry(inputs: Inputs, truth: Truth, mask: Mask) -> npt.NDArray[np.uint8]:
    field = resample_to(inputs, truth.scan.with_data(mask.astype(np.float32)), linear=True)
    return np.asarray(field > 0.5, np.uint8)


def _mni_map(brain: npt.NDArray[np.uint8]) -> Tensor:
    """Brain box -> MNI brain box; height is taken from the vertex down, since necks and stems differ."""
    matrix = torch.eye(4, dtype=torch.float64)
    where = [np.flatnonzero(brain.sum(axis=tuple({0, 1, 2} - {axis})) > 30) for axis in range(3)]
    for axis in (0, 1):
        low, high = MNI_BRAIN[axis]
        scale = (high - low) / (where[axis][-1] - where[axis][0])
        matrix[axis, axis], matrix[axis, 3] = scale, low - scale * where[axis][0]
    scale = float((matrix[0, 0] + matrix[1, 1]) / 2)
    matrix[2, 2], matrix[2, 3] = scale, MNI_BRAIN[2][1] - scale * where[2][-1]
    return matrix


def _white_matter(image: Tensor, brain: Tensor, prior: Tensor) -> WhiteMatter:
    """Median and spread of the deep tissue where lesions would occur, lesions and fluid trimmed off."""
    values = image[(brain > 0) & (prior > 0.05)]
    if len(values) < 500:
        values = image[brain > 0]
    low, high = torch.quantile(values[:: max(1, len(values) // 200_000)], torch.tensor([0.15, 0.85]))
    inner = values[(values > low) & (values < high)]
    middle = inner.median()
    return WhiteMatter(float(middle), max(0.12, float((inner - middle).abs().median()) * 1.4826 * 1.3))


def _unlabelled(image: Tensor, brain: Tensor, tumour: Tensor, prior: Tensor, white: WhiteMatter) -> Tensor:
    """Bright white matter nobody labelled, and the rim of a tumour: taught to no head. Where lesions are rare only the very bright counts,
    or no scan would teach that cortex is none.
    """
    smooth = (blur(image, 0.8) - white.mean) / white.sd
    bright = ((smooth > 2.0) & (prior > 0.05) | (smooth > 3.2) & (prior > 0.01)).float() * brain
    rim = dilate(tumour, 3) * (1.0 - tumour) * (smooth > 1.0).float()
    return (dilate(bright, 1) * (1.0 - tumour) + rim) > 0

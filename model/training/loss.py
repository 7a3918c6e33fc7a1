"""The loss: half cross-entropy, half Tversky, over the voxels where a head has a label.

References
----------
Salehi et al. 2017, arXiv:1706.05721 (Tversky: alpha weighs false positives, beta false negatives).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from model.training.examples import IGNORE

ALPHA = (0.3, 0.5, 0.5)  # lesions must not be missed; a false tumour hides lesions
SMOOTH = 20.0
SMOOTH_EMPTY = 200.0
STAGE_WEIGHTS = (1.0, 0.4, 0.2)


def masked_loss(logits: Tensor, labels: Tensor, alpha: Sequence[float] = ALPHA, empty_weight: float = 0.0) -> Tensor:
    """Loss per head, shape (heads,).

    Where a crop has nothing of a head, its Tversky term counts false alarms only, by squared probability, so that a faint haze costs
    nothing. While a network is young it must not count at all: measured, a lesion head then learns to find nothing anywhere.

    Parameters
    ----------
    logits : float32, (n, heads, i, j, k)
    labels : uint8, same shape; 0, 1, or 255 where a head learns nothing
    alpha : per head, the weight of false positives; false negatives weigh 1 - alpha
    empty_weight : of the Tversky term where there is nothing to find
    """
    known = (labels != IGNORE).float()
    truth = (labels == 1).float()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * known
    axes = (0, 2, 3, 4)
    counted = known.sum(axes)
    cross = entropy.sum(axes) / counted.clamp_min(1.0)
    probability = torch.sigmoid(logits) * known
    hit = (probability * truth).sum(axes)
    false_alarm = probability.sum(axes) - hit
    missed = (truth * known).sum(axes) - hit
    weight = torch.tensor(tuple(alpha), device=logits.device)
    tversky = 1.0 - (hit + SMOOTH) / (hit + weight * false_alarm + (1.0 - weight) * missed + SMOOTH)
    alarmed = weight * (probability * probability).sum(axes)
    tversky = torch.where(truth.sum(axes) > 0, tversky, empty_weight * alarmed / (alarmed + SMOOTH_EMPTY))
    return (0.5 * cross + 0.5 * tversky) * (counted > 0).float()


def shrink_labels(labels: Tensor) -> Tensor:
    """Labels at half the size: a block with any disease is diseased, else ignored if any of it is, else background."""

    def pooled(mask: Tensor) -> Tensor:
        return functional.max_pool3d(mask.float(), 2) > 0

    small = torch.zeros_like(labels[..., ::2, ::2, ::2])
    return small.masked_fill_(pooled(labels == IGNORE), IGNORE).masked_fill_(pooled(labels == 1), 1)


def supervised_loss(
    stages: Sequence[Tensor], labels: Tensor, head_weights: Tensor, alpha: Sequence[float] = ALPHA, empty_weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Deep supervision: the weighted sum of `masked_loss` over scales and heads, and the loss of each head at full size."""
    total = torch.zeros((), device=labels.device)
    heads = torch.zeros_like(head_weights)
    for scale, (weight, logits) in enumerate(zip(STAGE_WEIGHTS, stages, strict=False)):
        if scale > 0:
            labels = shrink_labels(labels)
        losses = masked_loss(logits.float(), labels, alpha, empty_weight)
        total = total + weight * (losses * head_weights).sum()
        heads = losses.detach() if scale == 0 else heads
    return total, heads

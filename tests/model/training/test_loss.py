from __future__ import annotations

import torch

from model.training.examples import IGNORE
from model.training.loss import masked_loss, shrink_labels, supervised_loss


def _case():
    labels = torch.zeros(1, 3, 8, 8, 8, dtype=torch.uint8)
    labels[:, 0, 2:4] = 1
    return torch.zeros(1, 3, 8, 8, 8, requires_grad=True), labels


def test_ignored_voxels_and_heads_send_no_gradient():
    logits, labels = _case()
    labels[:, 0, 5:] = IGNORE
    labels[:, 1] = IGNORE
    loss, heads = supervised_loss([logits], labels, torch.ones(3))
    loss.backward()
    assert heads[1] == 0
    assert torch.isclose(loss.detach(), heads.sum())
    assert logits.grad is not None
    assert (logits.grad[:, 0, 5:] == 0).all()
    assert (logits.grad[:, 1] == 0).all()
    assert (logits.grad[:, 0, :5] != 0).all()
    assert (logits.grad[:, 2] != 0).all()


def test_what_is_ignored_does_not_change_the_loss():
    logits, labels = _case()
    labels[:, 0, 5:] = IGNORE
    before = masked_loss(logits, labels)
    with torch.no_grad():
        logits[:, 0, 5:] = 9.0
    assert torch.equal(before, masked_loss(logits, labels))


def test_right_beats_wrong_and_a_miss_costs_more_than_a_false_alarm():
    _, labels = _case()
    truth = labels.float() * 20 - 10
    missed, alarmed = truth.clone(), truth.clone()
    missed[:, 0, 2] = -10
    alarmed[:, 0, 6] = 10
    right, miss, alarm = (float(masked_loss(x, labels)[0]) for x in (truth, missed, alarmed))
    assert right < 0.01 < alarm < miss


def test_labels_shrink_without_losing_small_lesions():
    labels = torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    labels[0, 0, 3, 3, 3] = 1
    labels[0, 0, 6, 6, 6] = IGNORE
    small = shrink_labels(labels)
    assert small.shape == (1, 1, 4, 4, 4)
    assert small[0, 0, 1, 1, 1] == 1
    assert small[0, 0, 3, 3, 3] == IGNORE
    assert int((small == 1).sum()) == 1


def _pull_on_background(logit, voxels, empty_weight):
    labels = torch.zeros(1, 1, 40, 40, 40, dtype=torch.uint8)
    labels.view(-1)[:voxels] = 1
    logits = torch.full((1, 1, 40, 40, 40), logit, requires_grad=True)
    masked_loss(logits, labels, (0.3,), empty_weight).sum().backward()
    return float(logits.grad.view(-1)[-1])


def test_a_crop_without_a_lesion_never_teaches_a_young_network_to_find_nothing():
    """Else, where lesions are rare, that is the surest way to a low loss, and no gradient leads back."""
    entropy_alone = 0.5 * torch.sigmoid(torch.tensor(-5.0)) / 40**3
    assert torch.isclose(torch.tensor(_pull_on_background(-5.0, 0, 0.0)), entropy_alone, rtol=1e-3)
    assert _pull_on_background(-5.0, 0, 0.0) < 2 * _pull_on_background(-5.0, 1000, 0.0)


def test_where_it_knows_lesions_a_sure_false_alarm_costs_and_a_haze_does_not():
    haze, sure = ([_pull_on_background(logit, 0, weight) for weight in (0.0, 1.0)] for logit in (-8.0, 0.0))
    assert haze[1] < 1.5 * haze[0]
    _, labels = _case()
    labels[:, 0] = 0
    logits = torch.full((1, 3, 8, 8, 8), -10.0)
    logits[:, 0, 3:5] = 10.0
    without, with_it = (float(masked_loss(logits, labels, empty_weight=weight)[0]) for weight in (0.0, 1.0))
    assert with_it > without + 0.05
    assert sure[1] > sure[0]

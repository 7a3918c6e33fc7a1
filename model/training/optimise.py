"""What moves the weights: rates by layer, parts that are kept still at first, and the average that is kept in the end."""

from __future__ import annotations

import math

import torch
from torch import nn

from model.training.configuration import Schedule
from model.training.network import AttentionVNet


class Average:
    """Exponential moving average of the weights; short memory while young."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def update(self, network: nn.Module) -> None:
        """Take one step of the network in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value.detach(), 1.0 - decay)
            else:
                self.weights[name].copy_(value)


def make_optimiser(network: AttentionVNet, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW with the encoder's rate apart from the rest."""
    decoder = [*network.decoder_parameters(), *network.head_parameters()]
    groups = [
        {"params": network.encoder_parameters(), "lr": schedule.learning_rate * schedule.encoder_rate},
        {"params": decoder, "lr": schedule.learning_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=schedule.weight_decay)


def set_rates(optimiser: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """The learning rates of one step."""
    share = learning_rate(schedule, step)
    for group, layers in zip(optimiser.param_groups, (schedule.encoder_rate, 1.0), strict=True):
        group["lr"] = schedule.learning_rate * layers * share


def learning_rate(schedule: Schedule, step: int) -> float:
    """Warm-up, then cosine to a hundredth; a share of the schedule's rate."""
    if step < schedule.warm_up:
        return (step + 1) / schedule.warm_up
    progress = (step - schedule.warm_up) / max(1, schedule.steps - schedule.warm_up)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def release_layers(network: AttentionVNet, schedule: Schedule, step: int) -> None:
    """Let learn what learns at this step: first the heads, then decoder and gates too, then all.

    A part that is still has no gradient, so neither weight decay nor a running mean of gradients moves it, and no time is spent on it.
    """
    decoder, encoder = step >= schedule.head_steps, step >= schedule.head_steps + schedule.decoder_steps
    for learns, parameters in ((decoder, network.decoder_parameters()), (encoder, network.encoder_parameters())):
        for parameter in parameters:
            parameter.requires_grad_(learns)

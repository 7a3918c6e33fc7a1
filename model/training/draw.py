"""Which crop each step trains on: a kind by the mixture, a patient of that kind, a scan of that patient, a place in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from model.training.augment import Crop, Painting, draw_crop, find_centres
from model.training.configuration import Schedule
from model.training.examples import Example
from model.training.paint import Bank


class Pool:
    """All volumes of a training, on the device; the random numbers of a step depend on what was seeded for it and on nothing else.

    Raises
    ------
    ValueError
        No volume is of any kind the mixture names.
    """

    def __init__(self, examples: Sequence[Example], bank: Bank, schedule: Schedule, device: torch.device) -> None:
        self.schedule = schedule
        self.bank = dataclasses.replace(bank, shapes=tuple(shape.to(device) for shape in bank.shapes), prior=bank.prior.to(device))
        self.kinds = [kind for kind in schedule.mixture if any(example.kind == kind for example in examples)]
        self.absent = sorted(set(schedule.mixture) - set(self.kinds))
        if not self.kinds:
            raise ValueError(f"no volume to train on is of the kinds in `mixture`: {', '.join(schedule.mixture)}")
        self.shares = torch.tensor([schedule.mixture[kind] for kind in self.kinds])
        self.patients: dict[str, list[list[Example]]] = {}
        used = [example for example in examples if example.kind in self.kinds]
        self.centres = {}
        for example in sorted(used, key=lambda example: example.patient):
            here = dataclasses.replace(example, image=example.image.to(device), labels=example.labels.to(device))
            self.centres[here] = find_centres(example)
            scans = self.patients.setdefault(example.kind, [])
            if scans and scans[-1][0].patient == example.patient:
                scans[-1].append(here)
            else:
                scans.append([here])

    def draw(self, step: int) -> Crop:
        """The batch of one step."""
        size = crop_size(self.schedule, step)
        crops = [self._draw_one(size) for _ in range(self.schedule.batch)]
        return Crop(torch.cat([crop.image for crop in crops]), torch.cat([crop.labels for crop in crops]))

    def _draw_one(self, size: tuple[int, int, int]) -> Crop:
        kind = self.kinds[int(torch.multinomial(self.shares, 1))]
        patients = self.patients[kind]
        scans = patients[int(torch.randint(len(patients), ()))]
        example = scans[int(torch.randint(len(scans), ()))]
        painting = self.schedule.painting.get(kind, Painting())
        return draw_crop(example, self.centres[example], size, self.schedule.centred, painting, self.bank)


def crop_size(schedule: Schedule, step: int) -> tuple[int, int, int]:
    """Small crops, with large ones now and then and at the end."""
    now_and_then = schedule.large_every > 0 and step % schedule.large_every == schedule.large_every - 1
    if schedule.large_crop is not None and (now_and_then or step >= schedule.steps - schedule.large_steps):
        return schedule.large_crop
    return schedule.crop

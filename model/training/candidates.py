"""Which network a release ships and how its weights are kept: decided by what each finds on scans, through the served path."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.release import Card
from model.training.evaluate import other_figures, score_lesions, serve
from model.training.examples import Truth
from model.training.export import Members, Network, average_weights, round_weights
from model.training.fit import load_network
from model.training.served import TorchEngine

DICE_KEPT = 0.005


class Ensemble(StrEnum):
    """What may be shipped instead of the final network alone."""

    ONE = "one"
    SOUP = "soup"
    MEAN = "mean"


def choose_network(
    wanted: Ensemble, final: Path, folds: Sequence[Path], card: Card, judges: Sequence[Truth]
) -> tuple[Network, dict[str, Any]]:
    """The final network, or the ensemble that was asked for where it does better on scans that none of its members saw.

    Every fold's network saw the other folds' patients, so that only scans kept aside and phantoms can judge. Their figures in the card
    are then of the network they chose.
    """
    network = load_network(final / "final.pt")
    if wanted is Ensemble.ONE:
        return network, {"shipped": Ensemble.ONE.value}
    members = [network, *(load_network(folder / "final.pt") for folder in folds)]
    other: Network = average_weights(members) if wanted is Ensemble.SOUP else Members(members)
    rated = {Ensemble.ONE: _rate(network, card, judges), wanted: _rate(other, card, judges)}
    better = max(rated, key=lambda name: rated[name]["merit"])
    return (network if better is Ensemble.ONE else other), {"shipped": better.value, **{name.value: row for name, row in rated.items()}}


def _rate(network: Network, card: Card, judges: Sequence[Truth]) -> dict[str, float]:
    """Dice of lesions and of tumours, the share of tumours called lesion, and the three as one number."""
    engine = TorchEngine(network, torch.device("cpu"))
    lesion, tumour, called = [], [], []
    for truth in judges:
        served = serve(truth, engine, card)
        if truth.lesion is not None:
            lesion.append(score_lesions(served, card.lesion).dice)
        if truth.tumour is not None:
            figures = other_figures(served, card.lesion)
            tumour.append(figures["tumour_dice"])
            called.append(figures["tumour_called_lesion_percent"])
    found = [float(np.nanmean(values)) if values else 0.0 for values in (lesion, tumour, called)]
    names = ("lesion_dice", "tumour_dice", "tumour_called_lesion_percent")
    row = {name: round(value, 4) for name, value in zip(names, found, strict=True)}
    return {**row, "merit": round(found[0] + found[1] - found[2] / 100, 4), "scans": len(judges)}


def choose_storage(network: Network, card: Card, judges: Sequence[Truth]) -> tuple[Network, dict[str, Any]]:
    """The network with weights that float16 holds, unless that moves a scan's Dice by more than `DICE_KEPT`; and what was measured."""
    rounded = round_weights(network)
    scans = {truth.name: {"float32": _dice(network, truth, card), "float16": _dice(rounded, truth, card)} for truth in judges}
    apart = {name: abs(row["float32"] - row["float16"]) for name, row in scans.items()}
    worst = max(apart, key=lambda name: apart[name])
    fits = apart[worst] <= DICE_KEPT
    said = f"Dice moves by up to {apart[worst]:.4f} ({worst}, n = {len(scans)} scans); allowed are {DICE_KEPT}"
    figures = {
        "weights": "float16" if fits else "float32",
        "reason": said,
        "largest_dice_difference": round(apart[worst], 5),
        "scans": scans,
    }
    return (rounded if fits else network), figures


def _dice(network: Network, truth: Truth, card: Card) -> float:
    """Dice of the lesions; 1 where none is and none is found."""
    found = score_lesions(serve(truth, TorchEngine(network, torch.device("cpu")), card), card.lesion).dice
    return 1.0 if np.isnan(found) else round(found, 5)

"""Scores through the served path: the service's own preparation, engine and postprocessing, on scans as they were read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.edges import EVERY_NEIGHBOUR, Edges, edges_of
from model.engine import Engine
from model.familiar import Profile
from model.postprocess import LESION, TUMOUR_LIKE, Masks, classify, drop_small, masks
from model.predict import probability
from model.preprocess import prepare
from model.release import Card, LesionDefinition
from model.training.examples import Truth
from model.training.layouts import Mask
from model.training.merit import Scan, Tried, merits
from model.training.metrics import Scores, dice, score
from model.training.temperature import warm

NOTHING = 2.0  # a threshold no probability reaches


@dataclass(frozen=True, eq=False)
class Served:
    """What the served path made of one scan, kept so that other lesion definitions can be tried without the network.

    Attributes
    ----------
    probability : lesion, on the scan's grid, at temperature 1 and bias 0; 0 where it is not carried to that grid
    tumour, brain : on the scan's grid
    """

    truth: Truth
    probability: npt.NDArray[np.float32]
    tumour: Mask
    brain: Mask
    quality: tuple[str, ...]
    start: LesionDefinition
    profile: Profile = ()

    @cached_property
    def known(self) -> Mask:
        """Where somebody has said what is lesion and what is not."""
        return np.ones(self.brain.shape, bool) if self.truth.ignore is None else ~self.truth.ignore

    @property
    def true_lesion(self) -> Mask:
        """The lesions to be found; raises ValueError where nobody has drawn them."""
        if self.truth.lesion is None:
            raise ValueError(f"{self.truth.name}: no lesion mask to compare with")
        return self.truth.lesion & self.known

    def labels(self, definition: LesionDefinition) -> npt.NDArray[np.uint8]:
        """Label image under another lesion definition (its tumour and brain thresholds do not count here)."""
        labels = np.zeros(self.brain.shape, np.uint8)
        labels[self.window] = self._classify(warm(self.probability[self.window], definition.temperature, definition.bias), definition)
        return labels

    @cached_property
    def window(self) -> tuple[slice, slice, slice]:
        """Box around everything found."""
        found = ndimage.find_objects((self.brain | self.tumour).astype(np.uint8))
        i, j, k = found[0] if found else (slice(0, 1),) * 3
        return i, j, k

    @cached_property
    def merits(self) -> dict[Tried, float]:
        """Of every lesion definition that is tried; see `merit`."""
        part = self.window
        probability = np.where(self.brain[part], self.probability[part], np.float32(0))
        scan = Scan(probability, self.tumour[part], self.true_lesion[part], self.known[part], 1000.0 * self.truth.scan.voxel_ml)
        return merits(scan, self.start.tumour_touch_fraction, self._edges(self.start))

    def _classify(self, probability: npt.NDArray[np.float32], definition: LesionDefinition) -> npt.NDArray[np.uint8]:
        found = (probability > definition.threshold) & self.brain[self.window]
        smallest = definition.smallest_mm3 / (1000.0 * self.truth.scan.voxel_ml)
        peaks = probability > definition.peak_threshold
        edges = self._edges(definition)
        return classify(found, self.tumour[self.window], smallest, definition.tumour_touch_fraction, peaks=peaks, edges=edges)

    def _edges(self, definition: LesionDefinition) -> Edges:
        return edges_of(self.truth.scan, self.window, self.brain, definition.edge_fraction)

    def lesions(self, definition: LesionDefinition) -> Mask:
        """White-matter lesions under a definition."""
        return np.asarray(self.labels(definition) == LESION)


def serve(truth: Truth, engine: Engine, card: Card) -> Served:
    """Run one scan as the service would."""
    inputs = prepare(truth.scan, card.input)
    plain = card.lesion.model_copy(update={"temperature": 1.0, "bias": 0.0, "threshold": NOTHING})
    bare = card.model_copy(update={"lesion": plain})
    made: Masks = masks(probability(inputs, engine, bare), inputs, bare)
    return Served(truth, made.lesion_probability, made.labels == TUMOUR_LIKE, made.brain, inputs.quality, card.lesion, inputs.profile)


def score_lesions(served: Served, definition: LesionDefinition) -> Scores:
    """Lesion scores against the truth."""
    return score(served.true_lesion, served.lesions(definition) & served.known, served.truth.scan.spacing_mm)


def other_figures(served: Served, definition: LesionDefinition) -> dict[str, Any]:
    """Brain, tumour and false-alarm figures of a scan, and how many of the lesions that changed between two visits are found in it.

    A lesion that is new at the second visit cannot be found in the first one.
    """
    truth = served.truth
    labels = served.labels(definition)
    lesion = labels == LESION
    voxel_ml = truth.scan.voxel_ml
    figures: dict[str, Any] = {
        "brain_dice": round(dice(truth.brain, served.brain), 4) if truth.brain_known else None,
        "lesion_ml": round(float(lesion.sum()) * voxel_ml, 3),
        "lesion_outside_brain_ml": round(float((lesion & ~truth.brain).sum()) * voxel_ml, 4) if truth.brain_known else None,
        "tumour_like_ml": round(float((labels == TUMOUR_LIKE).sum()) * voxel_ml, 3),
        "brain_ml": round(float(served.brain.sum()) * voxel_ml, 1),
        "reference_brain_ml": round(float(truth.brain.sum()) * voxel_ml, 1) if truth.brain_known else None,
    }
    if truth.changed is not None:
        changed, count = ndimage.label(drop_small(truth.changed, definition.smallest_mm3 / (1000.0 * voxel_ml)), EVERY_NEIGHBOUR)
        figures["changed_lesions"], figures["changed_found"] = count, len(np.unique(changed[lesion & (changed > 0)]))
    if truth.tumour is not None:
        whole = float(truth.tumour.sum())
        figures["tumour_ml"] = round(whole * voxel_ml, 2)
        figures["tumour_dice"] = round(dice(truth.tumour, labels == TUMOUR_LIKE), 4)
        figures["tumour_called_lesion_percent"] = round(100.0 * float((lesion & truth.tumour).sum()) / whole, 2)
        figures["tumour_found_percent"] = round(100.0 * float(((labels == TUMOUR_LIKE) & truth.tumour).sum()) / whole, 2)
    return figures

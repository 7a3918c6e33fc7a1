"""One definition of a lesion, applied on the grid of the scan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from model.postprocess import classify, masks
from model.preprocess import Inputs
from model.release import Card
from model.volume import Volume


def inputs_of(shape: tuple[int, int, int]) -> Inputs:
    return Inputs(np.zeros((1, 1, *shape), np.float32), np.eye(4), np.ones(shape, bool), Volume(np.zeros(shape), np.eye(4)), ())


def field(shape: tuple[int, int, int], *boxes: tuple[slice, slice, slice]) -> np.ndarray:
    out = np.zeros(shape, np.float32)
    for box in boxes:
        out[box] = 0.9
    return out


SHAPE = (40, 40, 40)
INSIDE = np.s_[4:36, 4:36, 4:36]


def test_lesions_count_only_inside_the_largest_filled_brain(card: Card) -> None:
    brain = field(SHAPE, INSIDE)
    brain[15:25, 15:25, 15:25] = 0  # a hole the brain head left
    brain[38:40] = 0.9  # something apart from it
    lesion = field(SHAPE, np.s_[16:22, 16:22, 16:22], np.s_[38:40, 0:20, 0:20], np.s_[0:3, 0:8, 0:8])
    found = masks(np.stack([lesion, np.zeros(SHAPE, np.float32), brain]), inputs_of(SHAPE), card)
    assert found.brain[20, 20, 20] and not found.brain[39, 20, 20]
    assert (found.labels == 1).sum() == 6**3
    assert not (found.labels == 2).any()
    assert found.lesion_probability[17, 17, 17] == pytest.approx(0.9)
    assert found.labels.dtype == np.uint8 and found.lesion_probability.dtype == np.float32


def test_nothing_found_is_a_result(card: Card) -> None:
    found = masks(np.zeros((3, *SHAPE), np.float32), inputs_of(SHAPE), card)
    assert not found.labels.any() and not found.brain.any()


def test_what_touches_tumour_is_its_own_class() -> None:
    lesion = field(SHAPE, np.s_[5:15, 5:15, 5:15], np.s_[25:30, 25:30, 25:30]) > 0
    tumour = field(SHAPE, np.s_[15:22, 5:15, 5:15]) > 0
    labels = classify(lesion, tumour, 20, 0.05)
    assert (labels[5:22, 5:15, 5:15] == 2).all()
    assert (labels[25:30, 25:30, 25:30] == 1).all()
    # a lesion of which too little touches stays a lesion, but for the voxels that are tumour
    labels = classify(lesion, tumour, 20, 0.5)
    assert (labels[5:15, 5:15, 5:15] == 1).all()


def test_the_smallest_lesion_is_the_card_s_and_corners_connect() -> None:
    lesion = np.zeros(SHAPE, bool)
    lesion[10:12, 10:12, 10:12] = lesion[12:14, 12:14, 12:14] = True  # 16 voxels joined at a corner
    lesion[30:32, 30:32, 30:32] = True  # 8 alone
    labels = classify(lesion, np.zeros(SHAPE, bool), 10, 0.1)
    assert labels.sum() == 16
    assert not classify(np.zeros(SHAPE, bool), lesion, 20, 0.1).any()


def test_a_lesion_counts_only_where_its_probability_peaks(card: Card) -> None:
    brain = field(SHAPE, INSIDE)
    lesion = field(SHAPE, np.s_[8:14, 8:14, 8:14], np.s_[20:26, 20:26, 20:26])
    lesion[20, 20, 20] = 0.99
    wanted = card.model_copy(update={"lesion": card.lesion.model_copy(update={"peak_threshold": 0.98})})
    found = masks(np.stack([lesion, np.zeros(SHAPE, np.float32), brain]), inputs_of(SHAPE), wanted)
    assert (found.labels == 1).sum() == 6**3 and (found.labels[20:26, 20:26, 20:26] == 1).all()


def test_a_speck_of_tumour_neither_turns_nor_carves_a_large_lesion() -> None:
    lesion = field(SHAPE, np.s_[5:30, 5:30, 5:20]) > 0
    speck = field(SHAPE, np.s_[10:13, 10:13, 10:13]) > 0
    assert (classify(lesion, speck, 10, 0.0, 100)[lesion] == 1).all()
    tumour = field(SHAPE, np.s_[10:15, 10:15, 10:15]) > 0
    assert (classify(lesion, tumour, 10, 0.0, 100)[lesion] == 2).all()
    beside = classify(lesion, tumour, 10, 0.5, 100)
    assert (beside[tumour] == 2).all() and (beside[lesion & ~tumour] == 1).all()


def test_a_card_from_before_has_a_smallest_tumour_and_it_is_in_cubic_millimetres(card: Card) -> None:
    old = card.model_dump()
    del old["lesion"]["smallest_tumour_mm3"]
    assert Card.model_validate(old).lesion.smallest_tumour_mm3 == 100.0
    lesion = field(SHAPE, np.s_[5:30, 5:30, 5:20])
    tumour = field(SHAPE, np.s_[10:14, 10:14, 10:15])
    found = masks(np.stack([lesion, tumour, field(SHAPE, INSIDE)]), inputs_of(SHAPE), card)
    assert set(np.unique(found.labels)) == {0, 1}


def test_the_brain_of_an_extracted_scan_ends_where_the_scan_does(card: Card) -> None:
    reaching = np.stack([np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32), field(SHAPE, INSIDE)])
    scan = inputs_of(SHAPE)
    scan.head[:] = False
    scan.head[6:34, 6:34, 6:34] = True
    assert masks(reaching, scan, card).brain.sum() == 32**3  # air around a whole head is not known to be empty
    assert masks(reaching, dataclasses.replace(scan, stripped=True), card).brain.sum() == 28**3

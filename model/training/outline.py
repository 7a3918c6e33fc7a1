"""Where the brain is in a scan that comes without a brain mask: its own outline where it was extracted, else the released network's."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from scipy import ndimage

from model.engine import Engine, open_engine
from model.head import find_head
from model.postprocess import masks
from model.predict import probability
from model.preprocess import prepare
from model.release import RELEASES, Release, load
from model.training.layouts import Mask, UnusableCase
from model.volume import UnusableVolume, Volume, canonical

LARGEST_BRAIN_ML = 2300.0  # with its cerebrospinal fluid; a head to the chin has 3500 and more
LARGEST_REFERENCE_ML = 2000.0  # of a brain mask somebody made: a larger one holds the head


def is_extracted(scan: Volume) -> bool:
    """Whether everything but a brain is exactly one value.

    Raises
    ------
    UnusableCase
        No head is in it.
    """
    try:
        head = find_head(canonical(scan))
    except UnusableVolume as error:
        raise UnusableCase(str(error)) from None
    if not head.stripped:
        return False
    inside = int(np.count_nonzero(np.asarray(scan.data, np.float32) > head.air))
    return inside * scan.voxel_ml < LARGEST_BRAIN_ML


def holds_head(brain: Mask, scan: Volume) -> bool:
    """Whether a brain mask is too large for a brain: whoever made it took the head, or its skull, along."""
    return float(brain.sum()) * scan.voxel_ml > LARGEST_REFERENCE_ML


def fill_brain(scan: Volume) -> Mask:
    """The largest part of an extracted brain, holes closed."""
    mask = np.asarray(np.asarray(scan.data, np.float32) > 0)
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    closed = ndimage.binary_closing(np.pad(mask, 3), iterations=2)[3:-3, 3:-3, 3:-3]
    return np.asarray(ndimage.binary_fill_holes(closed | mask))


def outline_brain(scan: Volume) -> Mask:
    """The brain of a whole head, as the newest release that is here finds it.

    Raises
    ------
    UnusableCase
        No head is in it, or no release is here.
    """
    release, engine = _newest()
    try:
        inputs = prepare(scan, release.card.input)
    except UnusableVolume as error:
        raise UnusableCase(str(error)) from None
    return masks(probability(inputs, engine, release.card), inputs, release.card).brain


@cache
def _newest() -> tuple[Release, Engine]:
    folders = [path.parent for path in RELEASES.glob("*/card.json")]
    if not folders:
        raise UnusableCase(f"a whole head without a brain mask needs a release in {RELEASES} to find the brain")
    release = load(max(folders, key=lambda folder: [int(number) for number in re.findall(r"\d+", folder.name)]))
    return release, open_engine(release, "auto", "auto")

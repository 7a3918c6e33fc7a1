"""A lesion definition is judged as it would be served."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from model.training.card import START_DEFINITION
from model.training.definition import choose_definition
from model.training.evaluate import Served, other_figures
from model.training.examples import Truth
from model.training.merit import TRIED
from model.training.metrics import dice, lesion_wise
from model.volume import Volume

SHAPE = (40, 36, 32)


def found_on(seed: int, with_tumour: bool, with_ignored: bool) -> Served:
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.normal(size=SHAPE), 1.6)
    probability = (1 / (1 + np.exp(-60 * (field - 0.12)))).astype(np.float32)
    lesion = ndimage.gaussian_filter(random.normal(size=SHAPE), 1.6) * 0.4 + field > 0.17
    tumour = np.zeros(SHAPE, bool)
    tumour[5:15, 5:15, 5:15] = with_tumour
    ignored = random.random(SHAPE) < 0.05 if with_ignored else None
    scan = Volume(np.zeros(SHAPE, np.float32), np.diag([1.0, 1.1, 2.0, 1.0]))
    truth = Truth("scan", "p", scan, lesion, None, np.ones(SHAPE, bool), True, ignore=ignored)
    return Served(truth, probability, tumour, np.ones(SHAPE, bool), (), START_DEFINITION)


@pytest.mark.parametrize(("with_tumour", "with_ignored"), [(False, False), (True, False), (False, True)])
def test_what_is_added_up_is_what_the_served_masks_score(with_tumour, with_ignored):
    served = found_on(4, with_tumour, with_ignored)
    truth = served.true_lesion
    for tried in TRIED[::7]:
        update = {"threshold": tried.threshold, "peak_threshold": tried.peak, "smallest_mm3": tried.smallest_mm3}
        mask = served.lesions(START_DEFINITION.model_copy(update=update)) & served.known
        expected = dice(truth, mask) + 0.5 * lesion_wise(truth, mask)[0]
        # ignored voxels cut lesions in pieces for lesion_wise, and a lesion stays one here: a reader would not count it twice
        assert served.merits[tried] == pytest.approx(expected, abs=0.05 if with_ignored else 1e-9)


def test_a_scan_without_lesions_wants_nothing_found():
    served = found_on(5, False, False)
    empty = Truth("scan", "p", served.truth.scan, np.zeros(SHAPE, bool), None, served.brain, True)
    quiet = Served(empty, served.probability * 0.97, served.tumour, served.brain, (), START_DEFINITION)
    values = {tried: quiet.merits[tried] for tried in TRIED}
    assert all(value == (1.5 if tried.threshold >= 0.98 or tried.peak >= 0.98 else 0.0) for tried, value in values.items())


def test_a_peak_is_asked_for_where_faint_lesions_are_false():
    served = found_on(6, False, False)
    sure = np.zeros(SHAPE, bool)
    sure[8:14, 8:14, 8:14] = True
    faint = np.zeros(SHAPE, bool)
    faint[20:30, 20:30, 20:30] = True
    probability = np.where(sure | faint, 0.75, 0.01).astype(np.float32)
    probability[10:12, 10:12, 10:12] = 0.997
    truth = Truth("scan", "p", served.truth.scan, sure, None, served.brain, True)
    chosen = choose_definition([Served(truth, probability, served.tumour, served.brain, (), START_DEFINITION)], START_DEFINITION)
    kept = Served(truth, probability, served.tumour, served.brain, (), START_DEFINITION).lesions(chosen)
    assert np.array_equal(kept, sure) and chosen.peak_threshold > chosen.threshold


def test_changed_lesions_that_are_found_are_counted():
    served = found_on(7, False, False)
    changed = np.zeros(SHAPE, bool)
    changed[2:6, 2:6, 2:6] = changed[20:24, 20:24, 20:24] = changed[30, 30, 30] = True  # the last is smaller than any lesion
    probability = np.zeros(SHAPE, np.float32)
    probability[21:23, 21:23, 21:23] = 0.999
    truth = Truth("scan", "p", served.truth.scan, None, None, served.brain, True, changed=changed)
    figures = other_figures(Served(truth, probability, served.tumour, served.brain, (), START_DEFINITION), START_DEFINITION)
    assert (figures["changed_lesions"], figures["changed_found"]) == (2, 1)

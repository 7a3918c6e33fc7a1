"""A probability is what its name says: patients the network never saw decide."""

from __future__ import annotations

import numpy as np
import pytest

from model.release import Card
from model.training.calibrate import calibration_error, fit_platt, judge, measure_scan, reliability
from model.training.card import START_DEFINITION
from model.training.definition import choose_definition
from model.training.evaluate import Served
from model.training.examples import Truth
from model.training.temperature import warm
from model.volume import Volume

SHAPE = (48, 48, 48)


def served(patient: str, seed: int, temperature: float = 1.0, bias: float = 0.0, load: float = -7.0) -> Served:
    """A scan whose lesions are drawn from a known probability, told with another temperature and bias."""
    random = np.random.default_rng(seed)
    logits = random.normal(load, 2.5, SHAPE).astype(np.float32)
    lesion = random.random(SHAPE) < 1 / (1 + np.exp(-logits))
    told = (1 / (1 + np.exp(-(logits - bias) * temperature))).astype(np.float32)
    brain = np.ones(SHAPE, bool)
    scan = Volume(np.zeros(SHAPE, np.float32), np.eye(4))
    truth = Truth(f"scan-{seed}", patient, scan, lesion, None, brain, True)
    return Served(truth, told, np.zeros(SHAPE, bool), brain, (), START_DEFINITION)


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (2.5, -1.5), (0.6, 1.0)])
def test_temperature_and_bias_are_found_again(temperature, bias):
    found = [served(f"p{n % 3}", n, temperature, bias) for n in range(3)]
    fitted = fit_platt(found)
    assert fitted == pytest.approx((temperature, bias), abs=0.15)
    definition = START_DEFINITION.model_copy(update={"temperature": fitted[0], "bias": fitted[1]})
    figures = [measure_scan(one, definition) for one in found]
    assert sum(f["by_probability_ml"] for f in figures) == pytest.approx(sum(f["truth_ml"] for f in figures), rel=0.06)
    assert max(f["expected_calibration_error"] for f in figures) < 0.01


def test_patients_weigh_alike_however_often_they_were_scanned():
    often = [served("often", n, load=-6.0) for n in range(4)]
    once = served("once", 9, bias=2.0, load=-6.0)
    shares = [fit_platt([*often, once])[1], fit_platt([often[0], once])[1]]
    assert shares[0] == pytest.approx(shares[1], abs=0.25)
    assert fit_platt(often)[1] == pytest.approx(0.0, abs=0.2)


def test_the_card_calls_a_calibration_acceptable_only_where_every_patient_s_volume_is_right():
    rows = {
        "a1": {"by_probability_ml": 12.0, "truth_ml": 10.0}, "a2": {"by_probability_ml": 11.0, "truth_ml": 10.0},
        "b": {"by_probability_ml": 1.9, "truth_ml": 0.0},
    }  # fmt: skip
    errors = {"expected_calibration_error": 0.01, "expected_calibration_error_where_possible": 0.1}
    patients = {"a1": "a", "a2": "a", "b": "b"}
    scans = {name: {**row, **errors} for name, row in rows.items()}
    assert judge(scans, patients).acceptable
    scans["b"]["by_probability_ml"] = 2.1
    judged = judge(scans, patients)
    assert not judged.acceptable
    assert (judged.worst_volume_error_ml, judged.patients) == (2.1, 2)


def test_the_calibration_error_is_the_gap_between_said_and_seen():
    share = np.repeat(np.asarray([0.05, 0.95], np.float32), 100)
    truth = np.zeros(200, bool)
    truth[:5] = truth[100:195] = True
    assert calibration_error(share, truth) == pytest.approx(0.0, abs=1e-6)
    truth[100:195] = False
    assert calibration_error(share, truth) == pytest.approx(0.475)
    one = served("p", 1)
    bins = reliability(one, START_DEFINITION)
    assert sum(row["voxels"] for row in bins) == one.brain.sum()
    assert sum(row["positives"] for row in bins) == one.truth.lesion.sum()
    assert all(row["bin_low"] <= row["mean_probability"] <= row["bin_high"] for row in bins if row["voxels"])


def test_the_threshold_stays_where_it_was_whatever_the_scale():
    random = np.random.default_rng(1)
    one = served("p", 3)
    lesion = np.zeros(SHAPE, bool)
    lesion[10:16, 10:16, 10:16] = True
    probability = np.where(lesion, 0.75, 0.02).astype(np.float32)
    probability[(random.random(SHAPE) < 0.003) & ~lesion] = 0.55
    told = Served(Truth("s", "p", one.truth.scan, lesion, None, one.brain, True), probability, one.tumour, one.brain, (), START_DEFINITION)
    chosen = choose_definition([told], START_DEFINITION)
    assert chosen.bias != 0.0
    assert chosen.threshold < warm(np.asarray([0.75], np.float32), chosen.temperature, chosen.bias)[0]
    assert told.lesions(chosen).sum() == lesion.sum()


def test_a_card_without_a_bias_or_a_calibration_reads_as_before(card: Card):
    old = card.model_dump()
    del old["lesion"]["bias"], old["calibration"], old["contrast"]
    read = Card.model_validate(old)
    assert read == card
    assert read.lesion.bias == 0.0 and read.calibration is None

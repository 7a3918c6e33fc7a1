from __future__ import annotations

from math import isnan, nan

import numpy as np
import pytest

from model.training.results import FIGURES, Bin, Row, UnusableResults, read_reliability, read_results
from model.training.statistics import FEWEST_TO_TEST, bland_altman, bootstrap_mean, by_patient, compare, holm, reliability, summarise
from model.training.tables import negatives_text, statement
from tests.model.training.synthetic_experiment import write_experiment


def _row(arm="transfer", patient="P1", scan="", seed=1, truth_ml=1.0, found_ml=1.0, **figures):
    known = {**dict.fromkeys(FIGURES, 0.0), "truth_ml": truth_ml, "found_ml": found_ml, **figures}
    return Row(arm, seed, "all", patient, scan or patient, 9, 9, known)


def _paired(one, other):
    pairs = enumerate(zip(one, other, strict=True))
    return [_row(arm, f"P{n}", dice=value) for n, pair in pairs for arm, value in zip(("transfer", "scratch"), pair, strict=True)]


def test_repeated_scans_and_seeds_of_a_patient_are_one_patient():
    rows = [_row(scan="T1", seed=1, dice=0.2), _row(scan="T1", seed=2, dice=0.4), _row(scan="T2", dice=0.9), _row(patient="P2", dice=0.5)]
    assert by_patient(rows, "dice") == pytest.approx({"P1": (0.3 + 0.9) / 2, "P2": 0.5})
    summary = summarise(rows, "dice")
    assert (summary.n, summary.n_scans) == (2, 3)


def test_a_miss_stays_in_the_mean_and_a_correct_negative_is_counted_apart():
    rows = [
        _row(patient="P1", dice=0.8),
        _row(patient="P2", dice=0.0, found_ml=0.0),
        _row(patient="P3", dice=nan, truth_ml=0.0, found_ml=0.0),
        _row(patient="P4", dice=0.0, truth_ml=0.0, found_ml=2.0),
    ]
    assert summarise(rows, "dice").points == {"P1": 0.8, "P2": 0.0, "P4": 0.0}
    assert summarise(rows, "dice").mean == pytest.approx(0.8 / 3)
    assert negatives_text(rows) == "1 of 2"
    assert summarise(rows[2:3], "dice") is None


def test_median_and_quartiles_are_over_patients():
    summary = summarise([_row(patient=f"P{n}", dice=value) for n, value in enumerate((0.1, 0.2, 0.3, 0.4, 1.0))], "dice")
    assert (summary.median, *summary.quartiles, summary.mean) == pytest.approx((0.3, 0.2, 0.4, 0.4))


def test_the_interval_is_that_of_drawing_patients_with_all_their_scans():
    random = np.random.default_rng(5)
    scans = {f"P{n}": random.uniform(0, 1, size=1 + n % 3) for n in range(12)}
    rows = [_row(patient=name, scan=f"{name}{k}", dice=float(v)) for name, own in scans.items() for k, v in enumerate(own)]
    low, high = summarise(rows, "dice").interval
    names = list(scans)
    means = np.asarray([scans[name].mean() for name in names])
    drawn = means[random.integers(0, 12, (9999, 12))].mean(axis=1)
    assert (low, high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.01)
    assert summarise(rows, "dice").interval == (low, high), "the same rows must give the same interval"
    shuffled = [rows[k] for k in random.permutation(len(rows))]
    assert summarise(shuffled, "dice").interval == (low, high)


def test_one_patient_gives_no_interval():
    assert all(isnan(value) for value in bootstrap_mean(np.asarray([0.5])))


def test_signed_rank_agrees_with_the_published_example():
    """Hollander and Wolfe 1973, p. 29: depression scores before and after; exact one-sided p 0.01953."""
    before = (1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30)
    after = (0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29)
    found = compare(_paired(before, after), "transfer", "scratch", "dice")
    assert found.p == pytest.approx(0.0390625)
    assert (found.n, found.higher) == (9, 7)


@pytest.mark.parametrize(("n", "p"), [(FEWEST_TO_TEST - 1, nan), (FEWEST_TO_TEST, 2 / 2**6)])
def test_nothing_is_tested_below_six_patients(n, p):
    found = compare(_paired(np.linspace(0.5, 0.9, n), np.linspace(0.4, 0.6, n)), "transfer", "scratch", "dice")
    assert found.p == pytest.approx(p, nan_ok=True)
    assert ("n < 6: no test" in statement(found)) == isnan(p)


def test_differences_below_rounding_are_none():
    same = np.asarray([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert compare(_paired(same, same + 1e-14), "transfer", "scratch", "dice").p == 1.0


def test_a_patient_with_a_value_in_one_arm_only_is_named_and_not_paired():
    rows = [*_paired((0.8, 0.9), (0.5, 0.4)), _row("scratch", "P9", dice=0.0), _row("transfer", "P9", dice=nan, truth_ml=0, found_ml=0)]
    found = compare(rows, "transfer", "scratch", "dice")
    assert (found.n, found.left_out) == (2, ("P9",))
    assert found.mean == pytest.approx(0.4)
    assert "P9" in statement(found)


def test_a_comparison_says_what_was_seen_whichever_arm_wins():
    worse = compare(_paired((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (0.7, 0.7, 0.7, 0.7, 0.7, 0.5)), "transfer", "scratch", "dice")
    assert "higher in 1 of 6 patients" in statement(worse)
    assert "mean difference −0.32" in statement(worse)
    assert "no patient" in statement(compare([], "transfer", "scratch", "dice"))


def test_holm_gives_known_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust(…, "holm")
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])


def test_comparisons_that_were_not_tested_do_not_count_in_holm():
    assert holm([nan, 0.02, 0.03]) == pytest.approx([nan, 0.04, 0.04], nan_ok=True)
    assert holm([]) == []


def test_limits_of_agreement_are_the_classical_ones_with_one_scan_per_patient():
    found = np.asarray([10.0, 12.0, 9.0, 15.0])
    agreement = bland_altman([_row(patient=f"P{n}", truth_ml=10.0, found_ml=float(v)) for n, v in enumerate(found)])
    spread = 1.96 * np.std(found - 10, ddof=1)
    assert agreement.bias == pytest.approx(1.5)
    assert agreement.limits == pytest.approx((1.5 - spread, 1.5 + spread))
    assert agreement.patients["P1"] == (11.0, 2.0)


def test_limits_of_agreement_with_repeats_hold_both_variances():
    """Differences 1 and 3, 5 and 7: within 2, between (16 - 2) / 2 = 7, so 3 ml of one measurement."""
    rows = [_row(patient=p, scan=f"{p}{d}", truth_ml=10.0, found_ml=10.0 + d) for p, d in (("A", 1), ("A", 3), ("B", 5), ("B", 7))]
    agreement = bland_altman(rows)
    assert agreement.bias == pytest.approx(4.0)
    assert agreement.limits == pytest.approx((4 - 1.96 * 3, 4 + 1.96 * 3))
    assert len(agreement.measurements) == 4


def test_one_patient_has_a_bias_and_no_limits():
    agreement = bland_altman([_row(truth_ml=2.0, found_ml=3.0)])
    assert agreement.bias == 1.0
    assert all(isnan(limit) for limit in agreement.limits)


def test_calibration_error_by_hand_with_patients_weighing_alike():
    bins = [
        Bin("transfer", "A", 0.0, 0.5, 90, 0.1, 0),
        Bin("transfer", "A", 0.5, 1.0, 10, 0.8, 10),
        Bin("transfer", "B", 0.0, 0.5, 500, 0.2, 100),
        Bin("transfer", "B", 0.5, 1.0, 500, 0.6, 300),
    ]
    curve = reliability(bins)
    assert curve.error == pytest.approx({"A": 0.9 * 0.1 + 0.1 * 0.2, "B": 0.0})
    assert curve.error_above == pytest.approx({"A": 0.2, "B": 0.0})
    assert curve.probability == pytest.approx([(0.09 + 0.1) / 1.4, (0.08 + 0.3) / 0.6])
    assert curve.frequency == pytest.approx([0.1 / 1.4, 0.4 / 0.6])


def test_bins_without_voxels_are_no_points():
    curve = reliability([Bin("transfer", "A", 0.0, 0.5, 10, 0.1, 1), Bin("transfer", "A", 0.5, 1.0, 0, nan, 0)])
    assert curve.probability == pytest.approx([0.1])
    assert curve.error_above == {}
    assert reliability([]) is None


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    return folder, write_experiment(folder, 8, arms=("scratch", "transfer"), empty=("P04",), files=False)


def test_what_was_written_is_read_back(written):
    folder, rows = written
    read = read_results(folder)
    assert len(read) == len(rows) == 9 * 2 * 2
    assert [row.figures["dice"] for row in read] == pytest.approx([row["dice"] for row in rows], nan_ok=True)
    assert sum(row.correct_negative for row in read if row.arm == "transfer") == 2
    assert len(read_reliability(folder)) == len(rows) * 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0].replace("dice", "die"), *lines[1:]], "no column dice"),
        (lambda lines: [*lines[:-1], lines[-1][:40]], "cut short"),
        (lambda lines: [*lines, lines[3]], "stands there twice"),
        (lambda lines: [lines[0], lines[1].replace("P01-T1", "P01-T1,many", 1)], "line 2"),
    ],
)
def test_damaged_results_are_refused_with_file_and_line(written, tmp_path, change, message):
    lines = (written[0] / "results.csv").read_text().splitlines()
    (tmp_path / "results.csv").write_text("\n".join(change(lines)) + "\n")
    with pytest.raises(UnusableResults, match=message) as refusal:
        read_results(tmp_path)
    assert "results.csv" in str(refusal.value)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(UnusableResults, match="run the experiment first"):
        read_results(tmp_path)

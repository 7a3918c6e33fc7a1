"""The verdict on an adaptation: a margin for the median and one for every patient."""

from __future__ import annotations

import pytest

from model.training.verdict import Margins, Row, judge_rows


def _row(patient, old, new, group="site", truth_ml=5.0):
    return Row(group, patient, patient, {"dice": old, "truth_ml": truth_ml, "found_ml": 0.0}, {"dice": new, "found_ml": new or 0.0})


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        ([_row("a", 0.7, 0.69), _row("b", 0.6, 0.51), _row("c", 0.5, 0.6)], True),
        ([_row("a", 0.7, 0.67), _row("b", 0.6, 0.57), _row("c", 0.5, 0.6)], False),
        ([_row("a", 0.7, 0.9), _row("b", 0.6, 0.9), _row("c", 0.5, 0.39)], False),
        ([_row("a", 0.7, 0.9), _row("p", 0.9, 0.7, "phantom")], False),
        ([_row("a", 0.7, 0.9), _row("healthy", None, 1.5, truth_ml=0.0)], False),
        ([], False),
    ],
    ids=[
        "within the margins",
        "the median lost too much",
        "one patient lost too much",
        "phantoms forgotten",
        "false alarms",
        "no evidence",
    ],
)
def test_the_verdict_holds_the_margin_for_the_median_and_for_every_patient(rows, passed):
    verdict = judge_rows(rows, Margins())
    assert verdict.passed is passed
    assert all("n = " in sentence for sentence in verdict.sentences)

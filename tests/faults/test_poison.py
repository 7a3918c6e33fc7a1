"""Cases that always fail, each in its own way, in a queue with good ones."""

from __future__ import annotations

import pytest

from service.store import series_key
from tests.faults.books import wait_for_all
from tests.faults.modality import Modality
from tests.faults.plan import Fault, Plan
from tests.faults.sets import on
from tests.running import series_uid

WAYS = {"kill": "its process died while working on it", "hang": "not done within 8 s", "defect": "RuntimeError in the stage"}


@pytest.mark.timeout(400)
@on("embedded", soak="full")
def test_three_poison_cases_in_a_queue_of_ten_fail_and_the_others_are_done(make_fragile, write_small, tmp_path):
    series = write_small(10)
    poisonous = dict(zip(WAYS, (series[1], series[4], series[7]), strict=True))
    plan = Plan(
        tmp_path / "flags",
        [
            Fault("worker.pipeline:run", do, role="--queue inference", match=series_key(series_uid(files)), always=True)
            for do, files in poisonous.items()
        ],
    )
    service = make_fragile(time_limit_s=8)
    service.extra = plan.environ
    service.start()
    for number in range(len(plan.faults)):
        plan.arm(number)
    modality = Modality(service)
    modality.finish(modality.push_all(series, senders=2))
    cases = wait_for_all(service, series, limit_s=250)
    for do, files in poisonous.items():
        case = cases.pop(series_uid(files))
        assert (case.state, case.attempts) == ("failed", 3)
        assert WAYS[do] in str(case.reason)
        assert "DOE" not in str(case.reason)
    for case in cases.values():
        assert (case.state, case.attempts, case.lapses) == ("done", 0, 0)
        claims = [line.at for line in case.history if line.event == "claim"]
        assert len(claims) == 1, "a good case was never touched by a bad one"


@pytest.mark.timeout(400)
@on("embedded")
def test_a_failed_case_runs_again_when_asked(make_fragile, write_small, tmp_path):
    (files,) = write_small(1)
    plan = Plan(tmp_path / "flags", [Fault("worker.pipeline:run", "defect", role="--queue inference")] * 3)
    service = make_fragile()
    service.extra = plan.environ
    service.start()
    for number in range(3):
        plan.arm(number)
    Modality(service).push(files)
    assert wait_for_all(service, [files])[series_uid(files)].state == "failed"
    case = service.case_of(series_uid(files))
    assert service.client.post(f"/cases/{case['id']}/retry").status_code == 202
    assert service.wait_until(series_uid(files), "done")["attempts"] == 0

"""A fault at every point of the way, in every process, on both sets of parts: nothing lost, nothing doubled."""

from __future__ import annotations

import pytest

from tests.faults.books import assert_balance, wait_for_all
from tests.faults.modality import Modality
from tests.faults.plan import Fault, Plan
from tests.faults.sets import on

STORE, ARRIVALS, WORK = "service.store:Store", "service.records.arrivals:Arrivals", "service.records.work:Work"
CHILD, PARENT = "worker --queue inference", "worker --queue inference"

INTAKE = [
    Fault("service.store:write_durably", "kill", "after", call=3),  # the file has not got its name yet
    Fault(f"{STORE}.put_instance", "kill", "after", call=4),  # the file is there, the row is not
    Fault(f"{ARRIVALS}.note_instances", "kill", "after", call=5),  # the row is there, the answer is not
    Fault("service.intake:Intake.close_source", "kill"),  # everything answered, nothing judged
    Fault(f"{ARRIVALS}.queue_case", "kill", "after"),  # queued, not submitted
    Fault("service.queue:submit", "kill", "after"),  # submitted, not noted
]
DOING = [
    Fault(f"{WORK}.claim", "kill", "after", role=CHILD),
    Fault("worker.convert:read_series", "kill", role=CHILD),
    Fault(f"{STORE}.put_output", "kill", "after", call=2, role=CHILD),  # files, no rows
    Fault(f"{WORK}.finish", "kill", role=CHILD),
    Fault(f"{WORK}.finish", "kill", "after", role=CHILD),  # done, and nobody was told
    Fault("worker.pipeline:run", "hang", role=CHILD),
    Fault("worker.pipeline:run", "freeze", role=CHILD),
    Fault("worker.pipeline:run", "no memory", role=CHILD),
    Fault("worker.pipeline:run", "defect", role=CHILD),
    Fault(f"{STORE}.put_output", "disk full", role=CHILD),
]
ORPHANING = [
    Fault("worker.child:WorkChild.work_on", "kill", role=PARENT),  # the message is taken, the case is not
    Fault(f"{WORK}.claim", "kill parent", "after", role=CHILD),
    Fault("worker.pipeline:run", "kill parent", role=CHILD),
    Fault(f"{STORE}.put_output", "kill parent", "after", call=2, role=CHILD),
    Fault(f"{WORK}.finish", "kill parent", role=CHILD),
    Fault(f"{WORK}.finish", "kill parent", "after", role=CHILD),
    Fault("worker.child:WorkChild.work_on", "kill", "after", role=PARENT),  # done, the message is not acknowledged
]


@pytest.fixture
def under(make_fragile, write_small, tmp_path):
    """Run a service under faults, one series for each, and one more; then the books have to balance."""

    def run(faults, **settings):
        plan = Plan(tmp_path / "flags", faults)
        service = make_fragile(**settings)
        service.extra = plan.environ
        series = write_small(len(faults) + 1)
        service.start()
        modality = Modality(service)
        with service.kept_alive():
            for number, files in enumerate(series):
                if number < len(faults):
                    plan.arm(number)
                modality.push(files)
                if number < len(faults):
                    plan.wait(number)
                wait_for_all(service, [files])
            assert_balance(service, series, modality.acknowledged)
        return service

    return run


def quick(faults, *numbers):
    """Strike some in `make test`, and the others in the soak."""
    chosen = [faults[number] for number in numbers]
    others = [fault for fault in faults if fault not in chosen]
    return pytest.mark.parametrize("faults", [pytest.param(chosen, id="quick"), pytest.param(others, id="rest", marks=pytest.mark.soak)])


@pytest.mark.timeout(400)
@quick(INTAKE, 1, 2, 4)
def test_the_listener_dies_at_every_step_of_taking_a_series_in(under, faults):
    under(faults)


@pytest.mark.timeout(400)
@on("embedded", soak="full")
@quick(DOING, 0, 2, 3, 4, 5, 7, 8, 9)
def test_the_worker_s_child_fails_at_every_step_of_a_case(under, faults):
    under(faults)


@pytest.mark.timeout(400)
@quick(ORPHANING, 0, 3, 5)
def test_the_worker_dies_with_its_child_at_every_step_of_a_case(under, faults):
    service = under(faults, time_limit_s=60)
    assert {case["attempts"] for case in service.cases(limit=100)} == {0}, "a kill of the parent is not the case's fault"

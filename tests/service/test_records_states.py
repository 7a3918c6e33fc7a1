"""The life of a case under every order of events, against a model of it kept beside."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from service.records import FINAL, TRANSITIONS, Book, Event, InvalidTransition, Lease, LeaseLost, State, upgrade
from service.records.states import SUBMITTED, next_state
from service.sections import Destination
from tests.service.casebook import FINDINGS, SECRET, instance, output

PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
SERIES = ("1", "2")


def test_every_state_can_be_left_and_reached() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert set(TRANSITIONS.values()) == set(State)


def test_a_new_instance_is_welcome_in_every_state() -> None:
    assert all(TRANSITIONS[state, Event.RECEIVE] is State.RECEIVING for state in State)


def test_what_is_not_in_the_table_raises() -> None:
    for state in State:
        for event in Event:
            if (state, event) not in TRANSITIONS:
                with pytest.raises(InvalidTransition, match=f"a case that is {state} cannot {event}"):
                    next_state(state, event)


def test_only_a_worker_gives_results_or_its_files_when_the_book_is_made_anew() -> None:
    done = {key for key, end in TRANSITIONS.items() if end is State.DONE}
    assert done == {(State.RUNNING, Event.FINISH), (State.RECEIVING, Event.REBUILD)}
    assert State.RUNNING not in FINAL


class Model:
    """What should be true of one case."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.revision = 1
        self.instances: set[int] = set()
        self.attempts = 0
        self.fence = 0
        self.published: int | None = None

    def receive(self, numbers: list[int]) -> None:
        new = set(numbers) - self.instances
        self.instances |= new
        if self.state is None:
            self.state = State.RECEIVING
        elif new and self.state is not State.RECEIVING:
            self.revision += self.state in SUBMITTED
            self.fence += 1
            self.attempts = 0
            self.state = State.RECEIVING


class CaseBook(RuleBasedStateMachine):
    """Two series of one study, a few workers, every order of events."""

    leases: Bundle[Lease] = Bundle("leases")
    template: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="book-"))
        if CaseBook.template is None:
            CaseBook.template = Path(tempfile.mkdtemp(prefix="book-")) / "empty.sqlite"
            upgrade(f"sqlite:///{CaseBook.template}")
        shutil.copy(CaseBook.template, self.folder / "book.sqlite")
        self.book = Book(f"sqlite:///{self.folder}/book.sqlite", secret=SECRET, destinations=[PACS])
        self.models = {series: Model() for series in SERIES}
        self.ids: dict[str, str] = {}

    def teardown(self) -> None:
        self.book.close()
        shutil.rmtree(self.folder)

    def attempt(self, series: str, event: Event, call) -> bool:
        """Call, and demand that it does what the table says: go on, or InvalidTransition."""
        model = self.models[series]
        end = TRANSITIONS.get((model.state, event)) if model.state else None
        if end is None:
            with pytest.raises(InvalidTransition):
                call()
            return False
        call()
        model.state = end
        return True

    @initialize()
    def first(self) -> None:
        for series in SERIES:
            self.receive(series, [0])

    @rule(series=st.sampled_from(SERIES), numbers=st.lists(st.integers(0, 6), min_size=1, max_size=3))
    def receive(self, series: str, numbers: list[int]) -> None:
        noted = self.book.note_instances([instance(number, series=series) for number in numbers])
        self.ids[series] = noted[0].case_id
        self.models[series].receive(numbers)

    @rule(series=st.sampled_from(SERIES), number=st.integers(0, 6))
    def conflict(self, series: str, number: int) -> None:
        if number in self.models[series].instances:
            (noted,) = self.book.note_instances([instance(number, series=series, digest="other")])
            assert noted.outcome == "conflict"

    @rule(series=st.sampled_from(SERIES), rank=st.integers(0, 1))
    def admit(self, series: str, rank: int) -> None:
        if self.attempt(series, Event.ADMIT, lambda: self.book.queue_case(self.ids[series], "flair", rank=(rank,))):
            self.models[series].attempts = 0

    @rule(series=st.sampled_from(SERIES))
    def hold(self, series: str) -> None:
        self.attempt(series, Event.HOLD, lambda: self.book.hold(self.ids[series], "gap"))

    @rule(series=st.sampled_from(SERIES))
    def refuse(self, series: str) -> None:
        model = self.models[series]
        if model.state is not State.RUNNING:
            self.attempt(series, Event.REFUSE, lambda: self.book.refuse(self.ids[series], "T1"))

    @rule(series=st.sampled_from(SERIES))
    def retry(self, series: str) -> None:
        if self.attempt(series, Event.RETRY, lambda: self.book.retry(self.ids[series])):
            self.models[series].attempts = 0

    @rule(target=leases, series=st.sampled_from(SERIES))
    @precondition(lambda self: any(model.state is State.QUEUED for model in self.models.values()))
    def claim(self, series: str) -> Lease:
        model = self.models[series]
        if model.state is not State.QUEUED:
            assert self.book.claim(self.ids[series], "w") is None
            series = next(name for name in SERIES if self.models[name].state is State.QUEUED)
            model = self.models[series]
        lease = self.book.claim(self.ids[series], "w")
        assert lease is not None
        model.state, model.fence = State.RUNNING, model.fence + 1
        assert (lease.revision, lease.fence, lease.attempts) == (model.revision, model.fence, model.attempts)
        return lease

    def held(self, lease: Lease) -> tuple[Model, bool]:
        series = next(name for name in SERIES if self.ids[name] == lease.case_id)
        model = self.models[series]
        return model, model.state is State.RUNNING and model.fence == lease.fence

    def write(self, lease: Lease, call) -> Model | None:
        model, mine = self.held(lease)
        if mine:
            call()
            return model
        with pytest.raises(LeaseLost):
            call()
        return None

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        self.write(lease, lambda: self.book.renew(lease))

    @rule(lease=leases)
    def finish(self, lease: Lease) -> None:
        if model := self.write(lease, lambda: self.book.finish(lease, outputs=[output(lease.revision)], findings=FINDINGS)):
            model.state, model.published = State.DONE, model.revision

    @rule(lease=leases)
    def fail(self, lease: Lease) -> None:
        if model := self.write(lease, lambda: self.book.fail(lease, "boom")):
            model.attempts += 1
            model.state = State.FAILED if model.attempts == 3 else State.QUEUED

    @rule(lease=leases)
    def put_back(self, lease: Lease) -> None:
        if model := self.write(lease, lambda: self.book.put_back(lease, "disk")):
            model.state = State.QUEUED

    @rule(lease=consumes(leases))
    def reject(self, lease: Lease) -> None:
        if model := self.write(lease, lambda: self.book.reject(lease, "mask")):
            model.state = State.REJECTED

    @rule()
    def everything_dies(self) -> None:
        self.book.reclaim("w")
        for model in self.models.values():
            if model.state is State.RUNNING:
                model.state = State.QUEUED

    @invariant()
    def the_book_is_as_the_model(self) -> None:
        primaries = 0
        for series, case_id in self.ids.items():
            case, model = self.book.case(case_id), self.models[series]
            assert case is not None
            assert (case.state, case.revision, case.attempts) == (model.state, model.revision, model.attempts)
            assert case.instances == len(self.book.headers(case_id)) == len(model.instances)
            assert {row.revision for row in self.book.outputs(case_id)} == ({model.published} if model.published else set())
            assert bool(case.reason) or case.state not in {State.HELD, State.REJECTED, State.FAILED}
            for before, after in zip(case.history, case.history[1:], strict=False):
                assert after.previous is before.state
            assert case.history[-1].state is case.state
            primaries += case.primary
        assert primaries <= 1

    @invariant()
    def only_the_primarys_newest_results_are_due(self) -> None:
        for delivery in self.book.due_deliveries():
            case = self.book.case(delivery.case_id)
            assert case is not None
            published = next(model.published for name, model in self.models.items() if self.ids[name] == delivery.case_id)
            assert delivery.revision == published
            assert case.primary or case.state is not State.DONE


CaseBook.TestCase.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
TestCaseBook = CaseBook.TestCase

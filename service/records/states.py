"""The life of a case as data: State × Event → State. What is not in the table cannot happen."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a case is."""

    RECEIVING = "receiving"
    HELD = "held"
    REJECTED = "rejected"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Event(StrEnum):
    """What can happen to a case."""

    RECEIVE = "receive"  # a new instance
    ADMIT = "admit"  # complete and wanted
    HOLD = "hold"  # wanted, but not complete
    REFUSE = "refuse"  # not wanted, by headers or by the worker's look at the pixels
    CLAIM = "claim"  # a worker takes the lease
    LAPSE = "lapse"  # the lease ran out: the worker was killed with its parent
    SET_ASIDE = "set aside"  # it lapsed time and again: most likely it is what kills its worker
    PUT_BACK = "put back"  # a part the worker needs is away
    STUMBLE = "stumble"  # an attempt failed, there are more
    FAIL = "fail"  # the last attempt failed
    FINISH = "finish"  # results are committed
    RETRY = "retry"  # somebody asked
    REBUILD = "rebuild"  # its results were found on disk when the case book was made anew
    REJECT = "reject"  # a rejection note took some of its instances
    WITHDRAW = "withdraw"  # a rejection note took all of them
    CORRECT = "correct"  # other attributes, same picture: of an instance that came again, or of an identity corrected by hand
    CHOOSE = "choose"  # another series of its study has become the primary, or it has; its state stays
    REVISE = "revise"  # a reader's corrected mask is there, and everything is made anew from it


FINAL = frozenset({State.DONE, State.REJECTED, State.FAILED, State.HELD})
MAXIMUM_ATTEMPTS = 3

TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.RECEIVING, Event.RECEIVE): State.RECEIVING,
    (State.RECEIVING, Event.ADMIT): State.QUEUED,
    (State.RECEIVING, Event.HOLD): State.HELD,
    (State.RECEIVING, Event.REFUSE): State.REJECTED,
    (State.RECEIVING, Event.REBUILD): State.DONE,
    (State.HELD, Event.RECEIVE): State.RECEIVING,
    (State.HELD, Event.RETRY): State.RECEIVING,
    (State.REJECTED, Event.RECEIVE): State.RECEIVING,
    (State.QUEUED, Event.RECEIVE): State.RECEIVING,
    (State.QUEUED, Event.CLAIM): State.RUNNING,
    # A late slice takes the case from the worker: its fence is void and its work is thrown away, never mixed.
    (State.RUNNING, Event.RECEIVE): State.RECEIVING,
    (State.RUNNING, Event.LAPSE): State.QUEUED,
    (State.RUNNING, Event.SET_ASIDE): State.HELD,
    (State.RUNNING, Event.PUT_BACK): State.QUEUED,
    (State.RUNNING, Event.STUMBLE): State.QUEUED,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.REFUSE): State.REJECTED,
    (State.RUNNING, Event.FINISH): State.DONE,
    (State.DONE, Event.RECEIVE): State.RECEIVING,
    (State.DONE, Event.REVISE): State.QUEUED,
    (State.FAILED, Event.RECEIVE): State.RECEIVING,
    (State.FAILED, Event.RETRY): State.QUEUED,
    **{(state, Event.CORRECT): State.RECEIVING for state in State},
    **{(state, Event.REJECT): State.RECEIVING for state in State},
    **{(state, Event.WITHDRAW): State.REJECTED for state in State},
}

# A new or corrected instance in one of these makes a new revision: the set of instances that was submitted is no longer the series.
SUBMITTED = frozenset({State.QUEUED, State.RUNNING, State.DONE, State.FAILED})


class InvalidTransition(Exception):
    """The case is not in a state in which this can happen to it."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a case that is {state} cannot {event}")
        self.state = state
        self.event = event


def next_state(state: State, event: Event) -> State:
    """Look the transition up. Raises InvalidTransition."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InvalidTransition(state, event) from None

"""A day of a hospital in minutes: many kinds of series, two destinations, parts that are killed, one destination away; the books balance.

Every acknowledged instance is on disk and indexed (what nobody wants is indexed only), every series is in its right final state with one
finish for its revision, and every result of its last revision was taken by both destinations or is visibly dead. Speed is only the frame.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from service.records import Book, Case, Delivery
from service.sendable import COMPANION
from tests.bench.modalities import Visit, bring, write_day
from tests.faults.books import assert_stored, book_of
from tests.faults.modality import Modality
from tests.faults.storm import kill_everything, kill_something
from tests.installed import installed
from tests.provider import CLASSES, MR, Provider, provider
from tests.running import Service, series_uid
from tests.servers import find_port
from tests.soak.kills import SENDERS, SHORT
from tests.tiny import write_release
from worker.send import read_archive

SEED = 20
TAKEN = (MR, *CLASSES.values())
SIZES = {"small": (16, 3, 420.0), "full": (300, 40, 3600.0)}  # series, kills, seconds until the books must balance


def measure(folder: Path, size: str, seed: int = SEED) -> dict[str, object]:
    count, kills, limit_s = SIZES[size]
    rng = random.Random(seed)
    visits = write_day(folder / "sources", count, rng, seed)
    release = write_release(folder / "tiny").folder
    began = time.monotonic()
    with provider(classes=TAKEN) as steady, _flickering() as flicker:
        destinations = [
            {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": one.port, "outputs": list(CLASSES)}
            for name, one in (("pacs", steady), ("planning", flicker))
        ]
        named = {**SHORT, "release": release, "destinations": json.dumps(destinations), "maximum_associations": 25}
        with installed("embedded", folder, **named) as installation:
            service = installation.service
            killed, modality = _live(service, visits, kills, rng, flicker, limit_s)
            with closing(book_of(service)) as book:
                cases = _wait_for_ends(service, book, visits, limit_s)
                sent = _wait_for_deliveries(service, book, cases, {"pacs": steady, "planning": flicker}, limit_s)
            wanted = {path for visit in visits if visit.kind != "CT" for path in visit.files}
            assert_stored(service, {uid: path for uid, path in modality.acknowledged.items() if path in wanted})
            _assert_noted(service, modality)
    return {
        "series": len(visits),
        "minutes": (time.monotonic() - began) / 60,
        "seed": seed,
        "instances acknowledged": len(modality.acknowledged),
        "associations broken": modality.broken,
        "refusals": modality.refusals,
        "killed": dict(killed),
        "kinds, all in their right final state": dict(Counter(f"{visit.kind}: {visit.state}" for visit in visits)),
        "leases lapsed": sum(case.lapses for case in cases.values()),
        "attempts charged": sum(case.attempts for case in cases.values()),
        **sent,
    }


class _Flickering:
    """A destination that can be away for a while, and comes back on its port."""

    def __init__(self) -> None:
        self.port = find_port()
        self.got: list[str] = []
        self._guard = threading.Lock()
        self._provider: Provider | None = None

    def come(self) -> None:
        with self._guard:
            self._provider = Provider(port=self.port, classes=TAKEN)
            self._provider.got = self.got

    def go(self) -> None:
        with self._guard:
            if self._provider is not None:
                self._provider.server.shutdown()
                for association in self._provider.server.active_associations:
                    association.abort()
            self._provider = None


@contextmanager
def _flickering() -> Iterator[_Flickering]:
    one = _Flickering()
    one.come()
    try:
        yield one
    finally:
        one.go()


def _live(
    service: Service, visits: Sequence[Visit], kills: int, rng: random.Random, flicker: _Flickering, limit_s: float
) -> tuple[Counter[str], Modality]:
    """Bring everything while parts die; one destination is away from the middle of the kills until everything was brought and missed it."""
    modality = Modality(service, limit_s)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        own = random.Random(f"{SEED}-{number}")
        try:
            for visit in visits[number::SENDERS]:
                bring(service, modality, visit, own)
        except BaseException as error:
            errors.append(error)

    senders = [threading.Thread(target=work, args=(number,), name=f"sender {number}") for number in range(SENDERS)]
    killed: Counter[str] = Counter()
    with service.kept_alive():
        for sender in senders:
            sender.start()
        for number in range(kills):
            time.sleep(rng.uniform(4, 12))
            if number == kills // 2:
                flicker.go()
            killed[rng.choice((kill_everything, kill_something, kill_something))(service, rng)] += 1
        for sender in senders:
            sender.join()
        if not errors:
            _wait_for_a_miss(service, limit_s)
        flicker.come()
    assert not errors, errors
    return killed, modality


def _wait_for_a_miss(service: Service, limit_s: float) -> None:
    """Wait until a delivery has found its destination away; without one the day shows nothing of that."""
    deadline = time.monotonic() + limit_s
    with closing(book_of(service)) as book:
        while not any(
            one.attempts and one.state.value == "pending" for case in book.find_cases(limit=500).items for one in book.deliveries(case.id)
        ):
            assert time.monotonic() < deadline, service.last_words()
            time.sleep(0.5)


def _wait_for_ends(service: Service, book: Book, visits: Sequence[Visit], limit_s: float) -> dict[str, Case]:
    """Wait until every series is whole and in its right final state, each revision finished at most once."""
    wanted = {series_uid(visit.files): visit for visit in visits}
    deadline = time.monotonic() + limit_s
    while True:
        found = {case.series_uid: case for case in book.find_cases(limit=500).items}
        wrong = {
            uid: (visit.kind, found[uid].state.value, found[uid].instances, found[uid].reason) if uid in found else (visit.kind, "unknown")
            for uid, visit in wanted.items()
            if uid not in found or (found[uid].state.value, found[uid].instances) != (visit.state, len(visit.files))
        }
        if not wrong:
            break
        assert time.monotonic() < deadline, (wrong, service.last_words())
        time.sleep(0.5)
    assert found.keys() == wanted.keys(), "a case that nobody sent"
    whole = {uid: book.case(case.id) or case for uid, case in found.items()}
    for case in whole.values():
        finished = Counter(line.revision for line in case.history if line.event == "finish")
        assert max(finished.values(), default=0) <= 1, "a revision was finished twice"
        assert (case.state.value != "done") or finished[case.revision] == 1
    return whole


def _wait_for_deliveries(
    service: Service, book: Book, cases: dict[str, Case], providers: dict[str, Provider | _Flickering], limit_s: float
) -> dict[str, object]:
    """Every result of a last revision is at each destination, or dead with a reason; no destination has what the book does not know of."""
    done = [case for case in cases.values() if case.state.value == "done"]
    deadline = time.monotonic() + limit_s
    while True:
        rows: list[tuple[Case, Delivery]] = [(case, one) for case in cases.values() for one in book.deliveries(case.id)]
        if all(one.state.value != "pending" for _, one in rows):
            break
        assert time.monotonic() < deadline, (Counter(one.state.value for _, one in rows), service.last_words())
        time.sleep(0.5)
    last = Counter((case.id, one.destination, one.output) for case, one in rows if one.revision == case.revision)
    assert last == Counter((case.id, name, output) for case in done for name in providers for output in _sendable(book, case))
    for case, one in rows:
        current = one.revision == case.revision
        assert one.state.value in {"sent", "committed", *(() if current else ("withheld",))} or (
            one.state.value == "dead" and one.last_error
        )
    for name, there in providers.items():
        own = [(one.state.value, _instances(service.data, one)) for _, one in rows if one.destination == name]
        told = {uid for state, uids in own if state in {"sent", "committed"} for uid in uids}
        known = {uid for _, uids in own for uid in uids}
        assert told <= set(there.got) <= known
    arrived = sum(len(one.got) for one in providers.values())
    return {
        "deliveries": dict(Counter(one.state.value for _, one in rows)),
        "deliveries that took more than one attempt": sum(one.attempts > 1 for _, one in rows),
        "sent once more after a kill, as the same instance": arrived - sum(len(set(one.got)) for one in providers.values()),
    }


def _sendable(book: Book, case: Case) -> list[str]:
    """Every object there is; a structure set is followed by the axial series it refers to, where the source is not axial."""
    made = {one.kind for one in book.outputs(case.id)}
    return [*CLASSES, *(made & set(COMPANION.values()))]


def _instances(data: Path, delivery: Delivery) -> set[str | None]:
    if delivery.output in COMPANION.values() and delivery.path is not None:
        return {str(one.sop_instance_uid) for one in read_archive(data / delivery.path)}
    return {delivery.sop_instance_uid}


def _assert_noted(service: Service, modality: Modality) -> None:
    """What was acknowledged is counted in its case, the discarded too."""
    with closing(book_of(service)) as book:
        assert sum(case.instances for case in book.find_cases(limit=500).items) == len(modality.acknowledged)

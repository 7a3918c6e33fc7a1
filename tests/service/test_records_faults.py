"""Several processes and threads on one case book, killed where it hurts."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from service.records import Book, LeaseLost, OutputRow, State
from service.records import work as work_module
from service.sections import Destination
from service.store import Store, StoredInstance
from tests.service.casebook import FINDINGS, SECRET, instance, output, queue, receive
from tests.service.house import files_of

PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)


@contextmanager
def process(work: Callable[[], None]) -> Iterator[int]:
    """Run `work` in a process of its own (forked: a start from nothing costs a second), and reap it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def end_of(work: Callable[[], None]) -> int:
    """Run a process to its end and give its exit code, negative for a signal."""
    with process(work) as pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_threads(count: int, work) -> None:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_threads_note_the_same_series_at_once(book: Book) -> None:
    outcomes: Counter[str] = Counter()
    guard = threading.Lock()

    def work(thread: int) -> None:
        for number in range(12):
            noted = book.note_instances([instance(number, association=f"a{thread}"), instance(number, series=f"s{number % 3}")])
            with guard:
                outcomes.update(one.outcome for one in noted)

    in_threads(4, work)
    assert outcomes == {"new": 24, "repeat": 72}
    assert len(book.find_cases().items) == 4
    assert {one.instances for one in book.receiving() if one.series_uid == "1.2.3"} == {12}


def test_threads_claim_a_case_once(book: Book) -> None:
    ids = [queue(book, 1, series=f"{n}", study=f"{n}") for n in range(6)]
    leases = []

    def work(thread: int) -> None:
        for case_id in ids:
            lease = book.claim(case_id, f"w{thread}")
            if lease is not None:
                leases.append(lease)
                book.finish(lease, outputs=[output()], findings=FINDINGS)

    in_threads(4, work)
    assert sorted(lease.case_id for lease in leases) == sorted(ids)
    assert all(len(book.outputs(case_id)) == 1 for case_id in ids)
    deliveries = book.due_deliveries()
    claimed = []
    in_threads(4, lambda n: claimed.extend(found for d in deliveries if (found := book.claim_delivery(d.id, f"s{n}"))))
    assert sorted(d.id for d in claimed) == sorted(d.id for d in deliveries)


def test_a_late_slice_and_a_finish_at_once_never_mix(book: Book) -> None:
    for number in range(8):
        case_id = queue(book, 1, series=f"{number}", study=f"{number}")
        lease = book.claim(case_id, "w")
        assert lease is not None
        won = []

        def finish(lease=lease, won=won) -> None:
            try:
                book.finish(lease, outputs=[output()], findings=FINDINGS)
                won.append(True)
            except LeaseLost:
                won.append(False)

        def slice_comes(number=number) -> None:
            book.note_instances([instance(2, series=f"{number}", study=f"{number}")])

        in_threads(2, lambda n, acts=(finish, slice_comes): acts[n]())
        case = book.case(case_id)
        assert case is not None
        assert (case.state, case.revision) == (State.RECEIVING, 2)
        assert bool(book.outputs(case_id)) is won[0]


def test_series_of_one_study_from_several_threads_do_not_deadlock(book: Book) -> None:
    def work(thread: int) -> None:
        for number in range(5):
            case_id = queue(book, 2, series=f"{thread}.{number}", rank=(number,))
            lease = book.claim(case_id, f"w{thread}")
            assert lease is not None
            book.finish(lease, outputs=[output()], findings=FINDINGS)

    in_threads(4, work)
    cases = book.find_cases().items
    assert {case.state for case in cases} == {State.DONE}
    assert [case.rank for case in cases if case.primary] == [(4,)]
    assert len(book.due_deliveries()) == 1


def note_many(url: str, name: str, report: int) -> None:
    """Note instances one by one, and write each that was acknowledged to the pipe."""
    book = Book(url, secret=SECRET)
    for number in range(60):
        row = instance(number, series=f"{name}.{number % 4}", study=str(number % 2), association=name)
        (noted,) = book.note_instances([row])
        os.write(report, f"{noted.case_id} {row.sop_instance_uid}\n".encode())


def test_processes_share_a_book(book_url: str, book: Book) -> None:
    reading, writing = os.pipe()
    with ExitStack() as stack:
        pids = [stack.enter_context(process(lambda name=name: note_many(book_url, name, writing))) for name in ("a", "b", "c")]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    os.close(writing)
    with os.fdopen(reading) as lines:
        acknowledged = {tuple(line.split()) for line in lines}
    assert codes == [0, 0, 0]
    assert len(acknowledged) == 180
    indexed = {(case.id, row.sop_instance_uid) for case in book.find_cases(limit=100).items for row in book.headers(case.id)}
    assert indexed == acknowledged


def test_a_killed_process_loses_nothing_it_acknowledged(book_url: str, book: Book) -> None:
    for turn in range(5):
        reading, writing = os.pipe()
        with process(lambda name=f"p{turn}", pipe=writing: note_many(book_url, name, pipe)) as pid:
            os.close(writing)
            with os.fdopen(reading) as lines:
                acknowledged = [next(lines).split() for _ in range(5 + 7 * turn)]
                os.kill(pid, signal.SIGKILL)
                acknowledged += [line.split() for line in lines if line.endswith("\n")]
        for case_id, uid in acknowledged:
            assert uid in {row.sop_instance_uid for row in book.headers(case_id)}
    for case in book.find_cases(limit=100).items:
        assert case.instances == len(book.headers(case.id))


def work_until(spot: str, url: str, root: Path, case_id: str) -> None:
    """Work on a case, and be killed at a spot."""
    book, store = Book(url, secret=SECRET, destinations=[PACS]), Store(root)
    lease = book.claim(case_id, "victim")
    assert lease is not None
    if spot == "before the file":
        die()
    path = store.put_output(case_id, "segmentation", b"mask")
    if spot == "between file and row":
        die()
    if spot == "in the transaction":
        work_module.settle_study = lambda *_: die()  # type: ignore[assignment]
    book.finish(lease, outputs=[OutputRow("segmentation", "application/dicom", path, "a" * 64, 4, lease.revision)], findings=FINDINGS)
    die()


@pytest.mark.parametrize("spot", ["before the file", "between file and row", "in the transaction", "after the commit"])
def test_a_worker_killed_at_any_spot_gives_one_result_set(book_url: str, book: Book, tmp_path: Path, spot: str) -> None:
    store = Store(tmp_path / "data")
    case_id = queue(book)
    assert end_of(lambda: work_until(spot, book_url, store.root, case_id)) == -signal.SIGKILL
    done = spot == "after the commit"
    assert book.case(case_id).state is (State.DONE if done else State.RUNNING)  # type: ignore[union-attr]
    assert len(book.outputs(case_id)) == len(book.deliveries(case_id)) == done
    assert book.reclaim("victim") == ([] if done else [case_id])
    if not done:
        assert end_of(lambda: work_until("after the commit", book_url, store.root, case_id)) == -signal.SIGKILL
    case = book.case(case_id)
    assert case is not None
    assert (case.state, case.attempts, case.lapses) == (State.DONE, 0, 0 if done else 1)
    (row,) = book.outputs(case_id)
    assert store.path_of(row.path).read_bytes() == b"mask"
    assert len(list((store.root / "outputs").rglob("segmentation-*"))) == 1
    assert len(book.deliveries(case_id)) == 1


def put_one(root: Path) -> StoredInstance:
    return Store(root).put_instance(
        b"x" * 1000, series_uid="1", sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid="1.2.840.10008.1.2"
    )


def test_a_file_without_a_row_is_taken_again_and_becomes_one_row(book: Book, tmp_path: Path) -> None:
    def store_and_die() -> None:
        put_one(tmp_path / "data")
        die()

    assert end_of(store_and_die) == -signal.SIGKILL
    store = Store(tmp_path / "data")
    assert (len(files_of(store, "1")), book.find_cases().items) == (1, ())
    again = put_one(tmp_path / "data")
    (noted,) = book.note_instances([instance(1, series="1", digest=again.digest, path=again.path)])
    assert noted.outcome == "new"
    assert [store.path_of(path) for path in book.instance_paths(noted.case_id)] == files_of(store, "1")


def test_a_book_survives_its_connections(postgresql_book: str) -> None:
    """The server ends every connection: the next call, or the one after it, works again."""
    book, other = Book(postgresql_book, secret=SECRET), Book(postgresql_book)
    case_id = receive(book, series="77", study="77")
    with other._writing() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()")
        )
    assert book.case(case_id) is not None
    book.close()
    other.close()

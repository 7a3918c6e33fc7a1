"""Whom the results of a done case name: a case book made anew must not give one patient's results to another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from service.headers import Unreadable, read_file
from service.records import Book, Case, DeliveryState, State, is_note
from service.records.kept import DICOM
from service.store import Store

WHY: Final = "the results name another patient than the case does"
_LONGEST_LO: Final = 64
_PAGE: Final = 500


def hold_back_others(book: Book, store: Store) -> set[str]:
    """
    Find done cases whose results name another patient, and give up what of them waits to be sent; gives the cases.

    Results that name nobody, or cannot be read, are not another's.

    Raises
    ------
    Unavailable
    """
    found = [case for case in _done(book) if _is_of_another(book, store, case)]
    for case in found:
        for one in book.deliveries(case.id):
            if one.state is DeliveryState.PENDING and one.revision == case.revision and not is_note(one.output):
                book.delivery_dead(one.id, WHY)
    return {case.id for case in found}


def _done(book: Book) -> Iterator[Case]:
    cursor = None
    while True:
        page = book.find_cases(state=State.DONE, limit=_PAGE, cursor=cursor)
        yield from page.items
        cursor = page.next
        if cursor is None:
            return


def _is_of_another(book: Book, store: Store, case: Case) -> bool:
    for row in book.outputs(case.id):
        if row.media_type == DICOM and row.revision == case.revision:
            try:
                with store.open_output(row.path) as file:
                    header, _ = read_file(file)
            except (OSError, Unreadable):
                continue
            return _differ(header.patient_id, case.patient_id) or (
                bool(case.patient_issuer) and _differ(header.patient_id_issuer, case.patient_issuer)
            )
    return False


def _differ(named: str, known: str) -> bool:
    return bool(_letters(named)) and _letters(named) != _letters(known)


def _letters(value: str) -> str:
    """What stays where an invalid one was put right in the results (PS3.5 6.2)."""
    return "".join(filter(str.isalnum, value[:_LONGEST_LO]))

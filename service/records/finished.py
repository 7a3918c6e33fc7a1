"""What finished, for the metrics: read in order, each once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import and_, select

from service.records.moves import utc_now
from service.records.schema import cases, history
from service.records.states import Event

if TYPE_CHECKING:
    from service.records import Book

PAGE = 2000
# Numbers are given before a transaction commits: one that is younger may still come in below the last one seen.
SETTLED = timedelta(seconds=2)


def finished_after(book: Book, line: int) -> Iterator[tuple[int, dict[str, float]]]:
    """
    Give (line of history, stage name → seconds) of every finish after `line`, oldest first.

    A case that ran again since gives the times of its last run only. Raises Unavailable.
    """
    last, more = line, True
    while more:
        chosen = (
            select(history.c.id, cases.c.stages)
            .join(cases, and_(cases.c.id == history.c.case_id, cases.c.revision == history.c.revision))
            .where(history.c.id > last, history.c.event == Event.FINISH.value, history.c.at < utc_now() - SETTLED)
            .order_by(history.c.id)
            .limit(PAGE)
        )
        with book._reading() as connection:  # noqa: SLF001  # the same package
            rows = connection.execute(chosen).all()
        for number, stages in rows:
            yield number, {name: float(times["seconds"]) for name, times in stages.items()}
            last = number
        more = len(rows) == PAGE

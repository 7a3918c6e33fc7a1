"""Which series is the study's result, and what that means for its deliveries. Always inside a transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, exists, insert, select, update

from service.records.moves import lock_studies, note_history
from service.records.notes import IS_NOTE, owe_notes
from service.records.rows import DeliveryState, VerdictKind, VerdictState
from service.records.schema import cases, deliveries, outputs, reader_verdicts
from service.records.states import Event, State
from service.records.visits import liken
from service.sections import Recipient
from service.sendable import COMPANION

BY_READER: Final = "rejected by a reader"
ELIGIBLE = frozenset({State.RECEIVING, State.QUEUED, State.RUNNING, State.DONE})


def choose_among(connection: Connection, rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """
    Rank the accepted cases of a locked study, the chosen one first.

    First comes what a reader has accepted or corrected, then what was acquired most like the earlier visit, then the greatest rank; on a
    tie the one that came first.
    """
    accepted = [row for row in rows if row["rank"] is not None and State(row["state"]) in ELIGIBLE]
    liken(connection, rows, accepted)
    approved = _approved(connection, accepted)
    accepted.sort(key=lambda row: (row["received_at"], row["series_uid"]))
    ranked = {row["id"]: [row["id"] in approved, row["likeness"], *row["rank"]] for row in accepted}
    return dict(sorted(ranked.items(), key=lambda one: one[1], reverse=True))


def settle_study(connection: Connection, study_uid: str, destinations: Sequence[Recipient], now: datetime) -> str | None:
    """Choose the primary anew; its newest results are due for delivery, what else is undelivered is withheld."""
    rows = lock_studies(connection, [study_uid])
    ranked = choose_among(connection, rows)
    chosen = next(iter(ranked), None)
    _note_change(connection, rows, ranked, now)
    for row in rows:
        primary = row["id"] == chosen
        if row["primary"] != primary:
            connection.execute(update(cases).where(cases.c.id == row["id"]).values(primary=primary))
        _withhold(connection, row, now, all_revisions=not primary)
        if row["state"] == State.DONE.value and is_rejected(connection, row["id"], row["revision"]):
            _withdraw(connection, row, now)
            owe_notes(connection, row, destinations, now, of_reader=True)
        elif primary and row["state"] == State.DONE.value:
            _release(connection, row, destinations, now)
        if (primary and row["state"] == State.DONE.value) or row["state"] == State.REJECTED.value:
            owe_notes(connection, row, destinations, now)
    return chosen


def _note_change(connection: Connection, rows: Sequence[dict[str, Any]], ranked: dict[str, list[Any]], now: datetime) -> None:
    """Write into the history of both cases that one took the other's place as the primary, and why."""
    new = next((row for row in rows if row["id"] == next(iter(ranked), None)), None)
    old = next((row for row in rows if row["primary"]), new)
    if new is None or old is None or new is old:
        return
    why = f"which is {old['state']}"
    if old["id"] in ranked:
        better = [one != other for one, other in zip(ranked[new["id"]], ranked[old["id"]], strict=False)]
        why = "by a reader's word" if better[0] else "acquired more like the earlier visit" if better[1] else "better in itself"
    said = {
        new["id"]: f"the study's result in place of series {old['series_uid']}, {why}",
        old["id"]: f"series {new['series_uid']} is the study's result",
    }
    for row in (new, old):
        state = State(row["state"])
        note_history(connection, row["id"], Event.CHOOSE, state, state, row["revision"], said[row["id"]], now)


def _approved(connection: Connection, rows: Sequence[dict[str, Any]]) -> set[str]:
    """Give the cases whose current revision a reader has accepted, or that is made from a correction, and was not rejected since."""
    said = reader_verdicts.c
    standing = select(said.case_id, said.revision, said.kind, said.made).where(said.state == VerdictState.STANDS.value)
    found = connection.execute(standing.where(said.case_id.in_([row["id"] for row in rows]))).all()
    approved = set()
    for row in rows:
        mine = [one for one in found if one.case_id == row["id"]]
        made = max((one.made for one in mine if one.made is not None), default=0)
        accepted = any((one.kind, one.revision) == (VerdictKind.ACCEPT.value, row["revision"]) for one in mine)
        since = row["revision"] if accepted else made
        if since and not any(one.kind == VerdictKind.REJECT.value and one.revision >= since for one in mine):
            approved.add(row["id"])
    return approved


def is_rejected(connection: Connection, case_id: str, revision: int) -> bool:
    """Tell whether a reader has rejected this revision; nothing undoes that but another revision."""
    return bool(connection.execute(select(rejecting(case_id, revision))).scalar())


def rejecting(case_id: str | ColumnElement[str], revision: int | ColumnElement[int]) -> ColumnElement[bool]:
    """Say that a reader has rejected a revision."""
    mine = (reader_verdicts.c.case_id == case_id, reader_verdicts.c.revision == revision, reader_verdicts.c.kind == "reject")
    return exists().where(*mine)


def _withdraw(connection: Connection, row: dict[str, Any], now: datetime) -> None:
    """Withhold what of a rejected revision is not delivered, also what was given up: `leukoscope resend` must not send it."""
    waiting = (DeliveryState.PENDING.value, DeliveryState.DEAD.value)
    mine = (deliveries.c.case_id == row["id"], deliveries.c.revision == row["revision"], deliveries.c.state.in_(waiting), ~IS_NOTE)
    withheld = {"state": DeliveryState.WITHHELD.value, "last_error": BY_READER, "next_attempt_at": None, "changed_at": now}
    connection.execute(update(deliveries).where(*mine).values(**withheld))


def _withhold(connection: Connection, row: dict[str, Any], now: datetime, *, all_revisions: bool) -> None:
    reason = "another series is the study's result" if all_revisions else f"revision {row['revision']} took its place"
    if row["state"] == State.REJECTED.value:
        reason = "the series was rejected"
    waiting = update(deliveries).where(deliveries.c.case_id == row["id"], deliveries.c.state == DeliveryState.PENDING.value)
    waiting = waiting.where(~and_(IS_NOTE, deliveries.c.revision == row["revision"]))
    if not all_revisions:
        waiting = waiting.where(deliveries.c.revision < row["revision"])
    connection.execute(waiting.values(state=DeliveryState.WITHHELD.value, last_error=reason, next_attempt_at=None, changed_at=now))


def _release(connection: Connection, row: dict[str, Any], destinations: Sequence[Recipient], now: datetime) -> None:
    """Make the outbox rows of a primary's results that are not there yet, and revive those withheld."""
    mine = (deliveries.c.case_id == row["id"], deliveries.c.revision == row["revision"])
    kinds = set(
        connection.execute(select(outputs.c.kind).where(outputs.c.case_id == row["id"], outputs.c.revision == row["revision"])).scalars()
    )
    there = {
        (found.destination, found.output)
        for found in connection.execute(select(deliveries.c.destination, deliveries.c.output).where(*mine))
    }
    connection.execute(
        update(deliveries)
        .where(*mine, deliveries.c.state == DeliveryState.WITHHELD.value)
        .values(state=DeliveryState.PENDING.value, last_error=None, next_attempt_at=now, changed_at=now)
    )
    for destination in destinations:
        for kind in _wanted(destination):
            if kind in kinds and (destination.name, kind) not in there and not _is_unwanted(destination, kind, row):
                connection.execute(
                    insert(deliveries).values(
                        case_id=row["id"],
                        revision=row["revision"],
                        destination=destination.name,
                        output=kind,
                        state=DeliveryState.PENDING.value,
                        attempts=0,
                        created_at=now,
                        changed_at=now,
                        next_attempt_at=now,
                        fence=0,
                    )
                )


def _wanted(destination: Recipient) -> Iterator[str]:
    """Give the outputs in the order they are sent in."""
    for kind in dict.fromkeys(destination.outputs):
        if kind in COMPANION:
            yield COMPANION[kind]
        yield kind


def _is_unwanted(destination: Recipient, kind: str, row: dict[str, Any]) -> bool:
    """Tell whether this is a segmentation without a single voxel, on which viewers have hung."""
    findings = row["findings"] or {}
    empty = not findings.get("lesion_count") and not findings.get("tumour_like_volume_ml")
    return kind == "segmentation" and empty and not destination.empty_segmentation

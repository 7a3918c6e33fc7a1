"""The case book made anew, or completed, from the files: what was finished comes back as finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from service.records.database import Ledger
from service.records.moves import lock_case, lock_studies, move, plain, utc_now
from service.records.noting import demand_secret, patient_key
from service.records.primary import settle_study
from service.records.reader_verdicts import restore_correction
from service.records.result_record import ResultRecord
from service.records.rows import DeliveryState, OutputRow, Verdict
from service.records.schema import cases, deliveries, identities, instances, outputs, reader_verdicts
from service.records.states import Event, State

_PAGE = 1000


@dataclass(frozen=True)
class Found:
    """The results of one series as its files tell them, all there and undamaged.

    Attributes
    ----------
    own : the record's own file
    made_at : when it was written
    newest : the greatest revision of the series that any file tells of
    """

    record: ResultRecord
    own: OutputRow
    made_at: datetime
    newest: int


class Rebuilding(Ledger):
    """For `leukoscope index rebuild`; nothing else may run meanwhile."""

    def restore_results(self, study_uid: str, found: Sequence[Found]) -> list[str]:
        """
        Give the cases of a study that receive their results back, in one transaction; gives those that are done by that.

        A case is done if the results were made from exactly the instances it has. Otherwise they stay readable, as those of the revision
        before the one that is to come. The primary is the one that the records tell of.
        """
        now = utc_now()
        done = []
        with self._writing() as connection:
            rows = {row["series_uid"]: row for row in lock_studies(connection, [study_uid])}
            for one in found:
                row = rows.get(one.record.series_uid)
                if row is not None and row["state"] == State.RECEIVING.value and row["revision"] <= one.newest:
                    _insert_outputs(connection, row["id"], one)
                    if _finish(connection, row, one, demand_secret(self._secret), now):
                        done.append(row["id"])
            settle_study(connection, study_uid, self._destinations, now)
        return done

    def note_sent(self, case_ids: Sequence[str]) -> None:
        """Believe that the destinations have what is due of these cases."""
        said = {
            "state": DeliveryState.SENT.value,
            "next_attempt_at": None,
            "changed_at": utc_now(),
            "last_error": "said to be there already",
        }
        waiting = (deliveries.c.case_id.in_(list(case_ids)), deliveries.c.state == DeliveryState.PENDING.value)
        with self._writing() as connection:
            connection.execute(update(deliveries).where(*waiting).values(**said))

    def run_again(self, case_id: str) -> bool:
        """Take a done case whose results are gone back to receiving; the same revision gives the same results. False: it is not done."""
        now = utc_now()
        with self._writing() as connection:
            row = lock_case(connection, case_id)
            if row["state"] != State.DONE.value:
                return False
            connection.execute(delete(outputs).where(outputs.c.case_id == case_id, outputs.c.revision == row["revision"]))
            anew: dict[str, Any] = {"fence": row["fence"] + 1, "attempts": 0, "findings": None, "model": None, "stages": {}}
            move(connection, row, Event.RECEIVE, now, reason="the files of its results are gone", **anew)
            settle_study(connection, row["study_uid"], self._destinations, now)
        return True

    def indexed_digests(self, study_uid: str, series_uid: str) -> set[str]:
        """Give the digests of all instances of a series that are indexed, those set aside too."""
        chosen = select(instances.c.digest).join(cases, cases.c.id == instances.c.case_id)
        with self._reading() as connection:
            return set(connection.execute(chosen.where(cases.c.study_uid == study_uid, cases.c.series_uid == series_uid)).scalars())

    def indexed_instances(self) -> Iterator[tuple[str, str]]:
        """Give (case, path) of every instance that has a file."""
        chosen = select(instances.c.id, instances.c.case_id, instances.c.path).where(instances.c.path != "").order_by(instances.c.id)
        last = 0
        while rows := self._page(chosen.where(instances.c.id > last).limit(_PAGE)):
            yield from ((row.case_id, row.path) for row in rows)
            last = rows[-1].id

    def indexed_outputs(self) -> Iterator[tuple[str, str, bool]]:
        """Give (case, path, whether it is of the finished revision) of every result, and of what people said of them."""
        chosen = (
            select(outputs.c.id, outputs.c.case_id, outputs.c.path, outputs.c.revision, cases.c.revision.label("current"), cases.c.state)
            .join(cases, cases.c.id == outputs.c.case_id)
            .order_by(outputs.c.id)
        )
        last = 0
        while rows := self._page(chosen.where(outputs.c.id > last).limit(_PAGE)):
            yield from ((row.case_id, row.path, row.state == State.DONE.value and row.revision == row.current) for row in rows)
            last = rows[-1].id
        for column in (reader_verdicts.c.path, reader_verdicts.c.said, identities.c.path):
            words = select(column.table.c.case_id, column.label("path")).where(column.is_not(None))
            yield from ((row.case_id, row.path, False) for row in self._page(words))

    def _page(self, chosen: Any) -> Sequence[Any]:
        with self._reading() as connection:
            return connection.execute(chosen).all()


def _insert_outputs(connection: Connection, case_id: str, found: Found) -> None:
    mine = (outputs.c.case_id == case_id, outputs.c.revision == found.record.revision)
    if connection.execute(select(outputs.c.id).where(*mine)).first() is None:
        rows = (*found.record.outputs, found.own)
        connection.execute(insert(outputs), [{**row.__dict__, "case_id": case_id} for row in rows])
    if found.record.correction is not None:
        restore_correction(connection, case_id, found.record.correction)


def _finish(connection: Connection, row: dict[str, Any], found: Found, secret: bytes, now: datetime) -> bool:
    """Take the case to done, or to the revision after the one there is."""
    record = found.record
    kept = connection.execute(select(instances).where(instances.c.case_id == row["id"], instances.c.path != "")).mappings().all()
    if record.revision < max(found.newest, row["revision"]) or not _is_made_from(kept, record):
        connection.execute(update(cases).where(cases.c.id == row["id"]).values(revision=max(found.newest + 1, row["revision"])))
        return False
    values: dict[str, Any] = _take_versions(connection, row, kept, found, secret) | {
        "revision": record.revision,
        "received_at": record.received_at,
        "rule": record.rule,
        "rank": list(record.rank) if record.rank is not None else [],
        "quality": list(record.quality),
        "findings": dict(record.findings),
        "series_shift": record.series_shift,
        "likeness": record.likeness,
        "likened_to": record.likened_to,
        "model": dict(record.model),
        "stages": {name: dict(stage) for name, stage in record.stages.items()},
    }
    move(connection, row, Event.REBUILD, now, reason="index rebuilt from the files", **values)
    # The reason is the line's in the history; a done case has none.
    connection.execute(update(cases).where(cases.c.id == row["id"]).values(reason=None))
    return True


def _is_made_from(kept: Sequence[RowMapping], record: ResultRecord) -> bool:
    """Tell whether the results were made from one version of each instance there is, and nothing else."""
    used = [one["sop_instance_uid"] for one in kept if one["digest"] in set(record.digests)]
    return sorted(used) == sorted({one["sop_instance_uid"] for one in kept}) and len(used) == len(record.digests)


def _take_versions(connection: Connection, row: dict[str, Any], kept: Sequence[RowMapping], found: Found, secret: bytes) -> dict[str, Any]:
    """Put the versions that were segmented into the series; gives what changes in the case by that.

    Those set aside before the results were made had been compared by then.
    """
    used = set(found.record.digests)
    out = [one for one in kept if not one["aside"] and one["digest"] not in used]
    judged = [one for one in kept if one["aside"] and one["digest"] not in used and one["received_at"] <= found.made_at]
    taken = [one for one in kept if one["aside"] and one["digest"] in used]
    # First out, then in: the series has one instance of each UID at every moment.
    for rows, values in ((out + judged, {"aside": True, "verdict": Verdict.SUPERSEDED.value}), (taken, {"aside": False, "verdict": None})):
        for one in rows:
            connection.execute(update(instances).where(instances.c.id == one["id"]).values(**values))
    if not taken:
        return {}
    header = max(taken, key=lambda one: (one["received_at"], one["id"]))["header"]
    patient_id, issuer = plain(str(header.get("patient_id", ""))), plain(str(header.get("patient_id_issuer", "")))
    return {
        "patient_id": patient_id,
        "patient_issuer": issuer,
        "patient_key": patient_key(secret, patient_id, issuer, row["study_uid"]),
        "series_description": plain(str(header.get("series_description", ""))),
    }

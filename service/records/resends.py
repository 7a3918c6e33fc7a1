"""Instances that came again with other bytes: which of them wait to be compared, and what follows from what was found.

The versions of one SOP Instance UID that show the same picture at the same place differ in attributes only; of these the one that was
sent last is in the series. All others are kept aside for good.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, and_, exists, func, or_, select, text, update

from service.records.database import Ledger
from service.records.moves import UnknownCase, lock_case, plain, utc_now
from service.records.noting import demand_secret, forget_correction, patient_key, reopen
from service.records.primary import settle_study
from service.records.rows import Judged, Resend, Standing, Verdict
from service.records.schema import cases, fetches, instances
from service.records.states import Event

FLAGS: Final = {
    Verdict.OTHER_PIXELS: ("other-pixels", "came again with other pixels"),
    Verdict.OTHER_GEOMETRY: ("other-geometry", "came again at another place"),
    Verdict.UNREADABLE: ("unreadable-copy", "came again and could not be compared"),
}
_CODES: Final = tuple(code for code, _ in FLAGS.values())
_LONGEST_REASON = 500
_HOUR = timedelta(hours=1)

# One row set aside that has a file and no verdict, and the one it is compared with.
_kept = instances.alias("kept")
# The words of the partial index, so that the sweep's look costs nothing.
_UNCOMPARED = and_(text("instances.aside AND instances.verdict IS NULL"), instances.c.path != "")
_PAIR = and_(_kept.c.case_id == instances.c.case_id, _kept.c.sop_instance_uid == instances.c.sop_instance_uid, _kept.c.aside.is_(False))


class Resends(Ledger):
    """Versions of instances: compared once, and the last corrected one taken."""

    def uncompared(self, case_id: str) -> list[Resend]:
        """Give what waits to be compared, each with the one in the series, oldest first."""
        chosen = (
            select(instances.c.id, instances.c.sop_instance_uid, instances.c.path, _kept.c.path.label("kept_path"), _kept.c.digest)
            .join(_kept, _PAIR)
            .where(instances.c.case_id == case_id, _UNCOMPARED)
            .order_by(instances.c.id)
        )
        with self._reading() as connection:
            return [Resend(row.id, row.sop_instance_uid, row.path, row.kept_path, row.digest) for row in connection.execute(chosen)]

    def cases_to_compare(self, quiet_s: float, now: datetime | None = None, limit: int = 500) -> list[str]:
        """Give the cases with something to compare to which nothing of the kind came for `quiet_s` seconds."""
        now = now or utc_now()
        latest = func.max(instances.c.received_at)
        # A time well in the future comes from a clock that was set back.
        quiet = or_(latest <= now - timedelta(seconds=quiet_s), latest > now + _HOUR)
        chosen = select(instances.c.case_id).where(_UNCOMPARED).group_by(instances.c.case_id).having(quiet).order_by(latest)
        with self._reading() as connection:
            return list(connection.execute(chosen.limit(limit)).scalars())

    def standing(self, case_id: str) -> Standing:
        """Tell what a decision on the series stands on; asked before the headers are read. Raises UnknownCase."""
        waiting = exists().where(instances.c.case_id == cases.c.id, _UNCOMPARED)
        fetching = exists().where(fetches.c.case_id == cases.c.id, fetches.c.state == "pending")
        chosen = select(cases.c.fence, waiting.label("waiting"), fetching.label("fetching")).where(cases.c.id == case_id)
        with self._reading() as connection:
            row = connection.execute(chosen).one_or_none()
        if row is None:
            raise UnknownCase(case_id)
        return Standing(row.fence, bool(row.waiting), bool(row.fetching))

    def judge_resends(self, case_id: str, found: Sequence[Judged]) -> int:
        """
        Write verdicts down, in one transaction; gives how many.

        One that was judged meanwhile, or compared with an instance that is no longer the series', is passed over. Where corrected
        versions took their place in the series the case goes back to receiving, as one new revision if it was submitted, and the
        description is that of the corrected header that came last, and so is the patient, where nobody said by hand after that whose it is.
        """
        now = utc_now()
        with self._writing() as connection:
            try:
                case = lock_case(connection, case_id)
            except UnknownCase:
                return 0
            versions = _versions_of(connection, case_id, {one.resend.sop_instance_uid for one in found})
            written, taken, changed = 0, [], set()
            for uid, judged in _by_uid(found).items():
                applied = _apply(versions[uid], judged)
                written += len(applied)
                if (one := _take_newest(versions[uid])) is not None:
                    taken.append(one)
                    changed |= {word for verdict in applied for word in verdict.changed}
            _write(connection, versions)
            if taken:
                newest = max(taken, key=lambda row: (row.received_at, row.number))
                said_since = forget_correction(connection, case_id, newest.received_at)
                whose = {} if said_since else _identity(case, newest, self._secret)
                reopen(connection, case, now, Event.CORRECT, _reason(changed), **whose, series_description=_description(newest))
            quality = [*without_flags(case["quality"]), *resend_flags(connection, case_id)]
            connection.execute(update(cases).where(cases.c.id == case_id).values(quality=quality))
            if taken:
                settle_study(connection, case["study_uid"], self._destinations, now)
        return written


def resend_flags(connection: Connection, case_id: str) -> list[str]:
    """Say, for the quality of a case, how many of its instances came again in a way that was not taken."""
    chosen = (
        select(instances.c.verdict, func.count(instances.c.sop_instance_uid.distinct()))
        .where(instances.c.case_id == case_id, instances.c.aside, instances.c.verdict.in_([verdict.value for verdict in FLAGS]))
        .group_by(instances.c.verdict)
    )
    counted = Counter({Verdict(verdict): int(count) for verdict, count in connection.execute(chosen)})
    return [f"{code}: {_instances(counted[verdict], what)}" for verdict, (code, what) in FLAGS.items() if counted[verdict]]


def _instances(count: int, what: str) -> str:
    return f"1 instance {what}, the first was used" if count == 1 else f"{count} instances {what}, the first were used"


def without_flags(quality: Iterable[str]) -> list[str]:
    """Leave the flags of `resend_flags` out."""
    return [flag for flag in quality if flag.partition(":")[0] not in _CODES]


class _Row:
    """One version while its fate is decided; `before` is what the database says."""

    def __init__(self, row: RowMapping) -> None:
        self.number: int = row["id"]
        self.digest: str = row["digest"]
        self.received_at: datetime = row["received_at"]
        self.header: dict[str, Any] = row["header"]
        self.aside: bool = row["aside"]
        self.verdict: str | None = row["verdict"]
        self.before = (self.aside, self.verdict)


def _versions_of(connection: Connection, case_id: str, uids: Iterable[str]) -> dict[str, list[_Row]]:
    versions: dict[str, list[_Row]] = defaultdict(list)
    chosen = select(instances).where(instances.c.case_id == case_id, instances.c.sop_instance_uid.in_(list(uids)))
    for row in connection.execute(chosen).mappings():
        versions[row["sop_instance_uid"]].append(_Row(row))
    return versions


def _by_uid(found: Sequence[Judged]) -> dict[str, list[Judged]]:
    grouped: dict[str, list[Judged]] = defaultdict(list)
    for one in found:
        grouped[one.resend.sop_instance_uid].append(one)
    return grouped


def _apply(versions: Sequence[_Row], judged: Sequence[Judged]) -> list[Judged]:
    """Put verdicts on rows that wait for one, if they were compared with what is still in the series."""
    rows = {row.number: row for row in versions}
    current = next((row.digest for row in versions if not row.aside), None)
    applied = []
    for one in judged:
        row = rows.get(one.resend.number)
        if row is not None and row.aside and row.verdict is None and one.resend.kept_digest == current:
            row.verdict = one.verdict.value
            applied.append(one)
    return applied


def _take_newest(versions: Sequence[_Row]) -> _Row | None:
    """Of the versions that show the same picture, take the one that was sent last into the series; None where it is there already.

    One that is the same as the series' instance but for its encoding speaks for it.
    """
    corrected = [row for row in versions if row.verdict == Verdict.CORRECTED.value]
    if not corrected:
        return None
    speaking = [row for row in versions if not row.aside or row.verdict == Verdict.SAME.value]
    newest = max([*speaking, *corrected], key=lambda row: (row.received_at, row.number))
    overtaken = [row for row in corrected if row is not newest]
    if newest in corrected:
        overtaken += speaking
        newest.aside, newest.verdict = False, None
    for row in overtaken:
        row.aside, row.verdict = True, Verdict.SUPERSEDED.value
    return newest if not newest.aside and newest.before[0] else None


def _write(connection: Connection, versions: Mapping[str, Sequence[_Row]]) -> None:
    changed = [row for rows in versions.values() for row in rows if (row.aside, row.verdict) != row.before]
    # First out, then in: the series has one instance of each UID at every moment.
    for row in sorted(changed, key=lambda row: not row.aside):
        connection.execute(update(instances).where(instances.c.id == row.number).values(aside=row.aside, verdict=row.verdict))


def _reason(changed: Iterable[str]) -> str:
    words = sorted(changed)
    said = f"corrected attributes: {', '.join(words)}"
    return said if len(said) <= _LONGEST_REASON else f"corrected attributes: {len(words)} of them"


def _description(row: _Row) -> str:
    return plain(str(row.header.get("series_description", "")))


def _identity(case: Mapping[str, Any], row: _Row, secret: bytes | None) -> dict[str, str]:
    """Whose series it is, by one of its headers."""
    patient_id, issuer = str(row.header.get("patient_id", "")), str(row.header.get("patient_id_issuer", ""))
    return {
        "patient_id": plain(patient_id),
        "patient_issuer": plain(issuer),
        "patient_key": patient_key(demand_secret(secret), patient_id, issuer, case["study_uid"]),
    }

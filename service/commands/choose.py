"""Which series of a folder is the FLAIR: the same rules as for what is sent to the service, with the reason told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.admission import Decision, Hold, Refuse, Run, examine
from service.errors import Rejected
from service.headers import Header, Unreadable, read_file
from service.settings import Settings


@dataclass(frozen=True)
class Choice:
    """The files of one series, and why this one."""

    series_uid: str
    files: tuple[Path, ...]
    why: str
    quality: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Series:
    files: tuple[Path, ...]
    headers: tuple[Header, ...]
    decision: Decision

    def describe(self) -> str:
        """One line: identifier, name, slices, verdict."""
        header = self.headers[0]
        name = header.series_description or header.protocol_name or "without a name"
        verdict = "could be used" if isinstance(self.decision, Run) else "no"
        return f"{header.series_uid}  {name}, {len(self.files)} files: {verdict} ({self.decision.reason})"


def choose_series(folder: Path, settings: Settings, series_uid: str | None = None) -> Choice:
    """Pick the one series of a folder that admission would run.

    Parameters
    ----------
    series_uid : the caller's own choice; it overrules the rules about what is a FLAIR, never those about a whole stack

    Raises
    ------
    Rejected
        No series can be used, or several equally well: the message lists them with their reasons.
    """
    found = _read(folder, settings)
    if not found:
        raise Rejected(f"{folder}: no DICOM image there")
    if series_uid is not None:
        return _take_named(found, series_uid)
    usable = {uid: one.decision for uid, one in found.items() if isinstance(one.decision, Run)}
    if not usable and len(found) == 1:
        raise Rejected(f"no series can be used: {next(iter(found.values())).decision.reason}")
    if not usable:
        raise Rejected("no series can be used:\n" + _list(found.values()))
    best = max(decision.rank for decision in usable.values())
    winners = [uid for uid, decision in usable.items() if decision.rank == best]
    if len(winners) > 1:
        raise Rejected("several series could be used; name one with --series:\n" + _list(found[uid] for uid in winners))
    chosen = usable[winners[0]]
    others = f"; {len(found) - 1} other series left out" if len(found) > 1 else ""
    return Choice(winners[0], found[winners[0]].files, f"series {winners[0]}: {chosen.reason}{others}", chosen.quality)


def _take_named(found: Mapping[str, _Series], series_uid: str) -> Choice:
    if series_uid not in found:
        raise Rejected(f"no series {series_uid}; there are:\n" + _list(found.values()))
    one = found[series_uid]
    if isinstance(one.decision, Hold):
        raise Rejected(f"series {series_uid}: {one.decision.reason}")
    doubt = f", although {one.decision.reason}" if isinstance(one.decision, Refuse) else ""
    return Choice(series_uid, one.files, f"series {series_uid}: named by you{doubt}")


def _read(folder: Path, settings: Settings) -> dict[str, _Series]:
    files: dict[str, dict[str, tuple[Path, Header]]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            with path.open("rb") as stream:
                header, _ = read_file(stream)
        except Unreadable:
            continue
        files.setdefault(header.series_uid, {}).setdefault(header.sop_instance_uid, (path, header))
    return {uid: _examine(tuple(entries.values()), settings) for uid, entries in files.items()}


def _examine(entries: Sequence[tuple[Path, Header]], settings: Settings) -> _Series:
    headers = tuple(header for _, header in entries)
    return _Series(tuple(path for path, _ in entries), headers, examine(headers, settings, final=True))


def _list(series: Iterable[_Series]) -> str:
    return "\n".join(f"  {one.describe()}" for one in series)

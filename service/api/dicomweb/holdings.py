"""What DICOMweb can give: the series that came in and the results that went out, as studies, series and instances."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from service.api.dicomweb.attributes import READ, READ_OF_INSTANCE
from service.api.dicomweb.objects import read_attributes
from service.headers import Unreadable
from service.records import Book, KeptSeries, OutputRow, State
from service.records.kept import DICOM
from service.store import Store

BATCH: Final = 100
REMEMBERED: Final = 10_000
"""Headers kept in memory, about a kilobyte each; a file never changes under its name."""


@dataclass(frozen=True)
class Instance:
    """One object that can be retrieved; `path` relative to the store, `size` of the file in bytes."""

    study_uid: str
    series_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: str
    size: int


@dataclass(frozen=True)
class Series:
    """
    A series: one that came in (then `case_id`), or the results that carry one Series Instance UID (then `results`).

    `identity`: what the case book knows better than the files that came in, by DICOM keyword; results say it themselves.
    """

    study_uid: str
    series_uid: str
    path: str
    case_id: str | None
    results: tuple[Instance, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """
    A study: the series of it that came in, and the results of those that are done, but what a reader has rejected.

    `identity`: its patient, as corrected last where that was done, by DICOM keyword; `identities`: those of its series, by case.
    """

    study_uid: str
    identity: Mapping[str, str]
    path: str
    sources: tuple[KeptSeries, ...]
    results: tuple[OutputRow, ...]
    identities: Mapping[str, Mapping[str, str]]


class Holdings:
    """Studies, series and instances of one installation, newest first; headers are read from the files, and remembered."""

    def __init__(self, book: Book, store: Store) -> None:
        self._book, self._store = book, store
        self._remembered: Callable[[str], str] = lru_cache(maxsize=REMEMBERED)(self._read)

    def studies(self, study_uids: Sequence[str] | None = None) -> Iterator[Study]:
        """Give these studies, or all of them."""
        rows = self._book.kept_series(study_uids)
        by_study: dict[str, list[KeptSeries]] = {}
        for row in rows:
            by_study.setdefault(row.study_uid, []).append(row)
        groups = list(by_study.values())
        for start in range(0, len(groups), BATCH):
            batch = groups[start : start + BATCH]
            done = {row.case_id: row.revision for group in batch for row in group if row.state is State.DONE}
            outputs = self._book.outputs_of(list(done))
            rejected = self._book.rejected_revisions(list(done))
            corrected = self._book.identities_of([row.case_id for group in batch for row in group])
            for group in batch:
                results = (
                    output
                    for row in group
                    for output in outputs.get(row.case_id, ())
                    if output.media_type == DICOM and output.revision == row.revision and (row.case_id, row.revision) not in rejected
                )
                identities = {row.case_id: {"PatientID": row.patient_id} | corrected.get(row.case_id, {}) for row in group}
                speaks = next((case_id for case_id in reversed(corrected) if case_id in identities), group[-1].case_id)
                yield Study(group[0].study_uid, identities[speaks], group[-1].path, tuple(group), tuple(results), identities)

    def studies_with(self, sop_instance_uids: Sequence[str]) -> list[str]:
        """Give the UIDs of the studies in which one of these instances may be."""
        return self._book.studies_with(sop_instance_uids)

    def series_of(self, study: Study) -> list[Series]:
        """Give the series of a study: those that came in, then the results."""
        sources = [
            Series(study.study_uid, row.series_uid, row.path, row.case_id, identity=study.identities[row.case_id]) for row in study.sources
        ]
        found = [instance for row in study.results if (instance := self.identify(study.study_uid, row.path, row.size)) is not None]
        found.sort(key=lambda instance: instance.series_uid)
        results = [
            Series(study.study_uid, series_uid, one[0].path, None, tuple(one))
            for series_uid, group in groupby(found, key=lambda instance: instance.series_uid)
            if (one := list(group))
        ]
        return [*sources, *results]

    def instances_of(self, series: Series, sop_instance_uids: Sequence[str] | None = None) -> list[Instance]:
        """Give the instances of a series, or those of these UIDs."""
        if series.case_id is None:
            return [one for one in series.results if sop_instance_uids is None or one.sop_instance_uid in sop_instance_uids]
        return [
            Instance(series.study_uid, series.series_uid, row.sop_instance_uid, row.transfer_syntax_uid, row.path, row.size)
            for row in self._book.kept_instances(series.case_id, sop_instance_uids)
        ]

    def find(self, study_uid: str, series_uid: str | None = None, sop_instance_uid: str | None = None) -> list[Instance]:
        """Give the instances of a study, a series or one instance, whose files are there; none where it is not known."""
        wanted = None if sop_instance_uid is None else [sop_instance_uid]
        return [
            instance
            for study in self.studies([study_uid])
            for series in self.series_of(study)
            if series_uid in (None, series.series_uid)
            for instance in self.instances_of(series, wanted)
            if self._store.has_file(instance.path)
        ]

    def count_instances(self, series: Sequence[Series]) -> dict[str, int]:
        """Count the instances of each series, by its UID."""
        counts = self._book.count_kept([one.case_id for one in series if one.case_id is not None])
        return {one.series_uid: len(one.results) if one.case_id is None else counts[one.case_id] for one in series}

    def attributes(self, path: str) -> dict[str, Any]:
        """What a search knows of an object, by keyword; nothing where the file is damaged or was cleaned away."""
        try:
            found: dict[str, Any] = json.loads(self._remembered(path))
        except (Unreadable, FileNotFoundError):
            return {}
        return found

    def instance_attributes(self, path: str) -> dict[str, Any]:
        """The same of the instance's own level, read anew: there are too many instances to remember."""
        try:
            return read_attributes(self._store.path_of(path), READ_OF_INSTANCE)
        except (Unreadable, FileNotFoundError):
            return {}

    def identify(self, study_uid: str, path: str, size: int = 0) -> Instance | None:
        """Read from a result's header which instance it is; None where the file is damaged or was cleaned away."""
        found = self.attributes(path)
        names = [str(next(iter(found.get(name, {}).get("Value", ())), "")) for name in ("SeriesInstanceUID", "SOPInstanceUID")]
        if not all(names):
            return None
        return Instance(study_uid, names[0], names[1], found["TransferSyntaxUID"]["Value"][0], path, size)

    def _read(self, path: str) -> str:
        return json.dumps(read_attributes(self._store.path_of(path), READ), separators=(",", ":"))  # a tenth of the memory of a dict

"""QIDO-RS: searches for studies, series and instances; PS3.18 10.6."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from service.api.desk import Desk
from service.api.dicomweb.accept import choose_json, read_accept
from service.api.dicomweb.addresses import SERIES, STUDY, Uid, demand_uids, instance_url, service_url
from service.api.dicomweb.attributes import COMPUTED, GIVEN, REQUIRED, Level, encoded, overlaid, tag_of
from service.api.dicomweb.holdings import Holdings, Instance, Series, Study
from service.api.dicomweb.objects import describe, opened
from service.api.dicomweb.query import Query, read_query
from service.headers import Unreadable
from service.identity import KEYWORDS
from service.records import AuditEvent

MORE: Final = "There are additional results that can be requested"


@dataclass(frozen=True)
class Match:
    """One result: a study, a series of it, or an instance of that; `path` is the file that speaks for it."""

    study: Study
    series: Series | None
    instance: Instance | None

    @property
    def path(self) -> str:
        """The file whose header speaks for it."""
        return (self.instance or self.series or self.study).path


def add_search(router: APIRouter, desk: Desk, holdings: Holdings) -> None:
    """All three levels, hierarchical and relational."""
    answer = partial(_answer, desk, holdings)

    @router.get("/studies")
    async def search_studies(request: Request) -> Response:
        return await answer(request, Level.STUDY)

    @router.get("/series")
    async def search_all_series(request: Request) -> Response:
        return await answer(request, Level.SERIES)

    @router.get("/instances")
    async def search_all_instances(request: Request) -> Response:
        return await answer(request, Level.INSTANCE)

    @router.get(STUDY + "/series")
    async def search_series(request: Request, study_uid: Uid) -> Response:
        return await answer(request, Level.SERIES, study_uid)

    @router.get(STUDY + "/instances")
    async def search_instances(request: Request, study_uid: Uid) -> Response:
        return await answer(request, Level.INSTANCE, study_uid)

    @router.get(SERIES + "/instances")
    async def search_instances_of_series(request: Request, study_uid: Uid, series_uid: Uid) -> Response:
        return await answer(request, Level.INSTANCE, study_uid, series_uid)


async def _answer(
    desk: Desk, holdings: Holdings, request: Request, level: Level, study_uid: str | None = None, series_uid: str | None = None
) -> Response:
    demand_uids(study_uid, series_uid)
    media_type = choose_json(read_accept(request.headers.get("accept")))
    query = read_query(request.query_params.multi_items(), level)
    search = Search(desk, holdings, query, service_url(request), study_uid, series_uid)
    found, more = await desk.read(search.run)
    desk.audit(request, AuditEvent.QUERY, f"searched over QIDO-RS: {level.plural}, {len(found)} given", study_uid=study_uid)
    response = Response(json.dumps(found), media_type=media_type) if found else Response(status_code=204)
    for text in (*query.warnings, *([MORE] if more else [])):
        response.headers.append("warning", f"299 {service_url(request)}: {text}")
    return response


@dataclass(frozen=True)
class Search:
    """One search over the holdings; every method blocks."""

    desk: Desk
    holdings: Holdings
    query: Query
    url: str
    study_uid: str | None
    series_uid: str | None

    def run(self) -> tuple[list[dict[str, Any]], bool]:
        """Give the results of the page that was asked for, and whether there are more."""
        if self.query.limit == 0:
            return [], False
        found = list(islice(self._matches(), self.query.offset, self.query.offset + self.query.limit + 1))
        page = found[: self.query.limit]
        counts: dict[str, dict[str, int]] = {}
        return [self._render(match, counts) for match in page], len(found) > len(page)

    def _matches(self) -> Iterator[Match]:
        level = self.query.level
        for study in self.holdings.studies(self._study_uids()):
            values_of = self._study_values if level is Level.STUDY else self._values_below
            if not self.query.matches(Level.STUDY, partial(values_of, study)):
                continue
            if level is Level.STUDY:
                yield Match(study, None, None)
                continue
            for series in self._matching_series(study):
                if level is Level.SERIES:
                    yield Match(study, series, None)
                else:
                    yield from (Match(study, series, instance) for instance in self._matching_instances(series))

    def _study_uids(self) -> list[str] | None:
        """The studies to look at, where the address or a UID says which; None is all of them."""
        if self.study_uid is not None:
            return [self.study_uid]
        if "StudyInstanceUID" in self.query.uids:
            return sorted(self.query.uids["StudyInstanceUID"])
        wanted = self.query.uids.get("SOPInstanceUID")
        return None if wanted is None else self.holdings.studies_with(sorted(wanted))

    def _matching_series(self, study: Study) -> Iterator[Series]:
        for series in self.holdings.series_of(study):
            if self.series_uid not in (None, series.series_uid):
                continue
            above, own = partial(self._values_above, study, series), partial(self._series_values, series)
            if self.query.matches(Level.STUDY, above) and self.query.matches(Level.SERIES, own):
                yield series

    def _matching_instances(self, series: Series) -> Iterator[Instance]:
        for instance in self.holdings.instances_of(series):
            if self.query.matches(Level.INSTANCE, partial(self._instance_values, instance)):
                yield instance

    def _study_values(self, study: Study, keyword: str) -> Sequence[Any]:
        known: dict[str, Callable[[], Sequence[Any]]] = {
            "StudyInstanceUID": lambda: [study.study_uid],
            "PatientID": lambda: [study.identity["PatientID"]],
            "ModalitiesInStudy": lambda: self._modalities(study),
        }
        return known[keyword]() if keyword in known else _values(self._attributes(study), keyword)

    def _values_above(self, study: Study, series: Series, keyword: str) -> Sequence[Any]:
        """What a series has of its study: where only some series of a study were corrected, each has its own patient."""
        if keyword not in KEYWORDS:
            return self._study_values(study, keyword)
        if keyword == "PatientID" and keyword in series.identity:
            return [series.identity[keyword]]
        return _values(self._attributes(series), keyword)

    def _values_below(self, study: Study, keyword: str) -> Sequence[Any]:
        """What the series of a study have, all together: studies that cannot match are passed over without a look at their files."""
        if keyword == "PatientID":
            return [identity[keyword] for identity in study.identities.values()]
        if keyword not in KEYWORDS:
            return self._study_values(study, keyword)
        return [value for series in self.holdings.series_of(study) for value in self._values_above(study, series, keyword)]

    def _attributes(self, one: Study | Series) -> dict[str, Any]:
        return overlaid(self.holdings.attributes(one.path), one.identity)

    def _series_values(self, series: Series, keyword: str) -> Sequence[Any]:
        if keyword == "SeriesInstanceUID":
            return [series.series_uid]
        return _values(self.holdings.attributes(series.path), keyword)

    def _instance_values(self, instance: Instance, keyword: str) -> Sequence[Any]:
        if keyword == "SOPInstanceUID":
            return [instance.sop_instance_uid]
        return _values(self.holdings.instance_attributes(instance.path), keyword)

    def _modalities(self, study: Study) -> list[Any]:
        every = (_values(self.holdings.attributes(series.path), "Modality") for series in self.holdings.series_of(study))
        return sorted({value for values in every for value in values})

    def _render(self, match: Match, counts: dict[str, dict[str, int]]) -> dict[str, Any]:
        """A result in DICOM JSON: the attributes of its level, and of those above it that the address does not fix."""
        attributes: dict[str, Any] = {}
        if self.query.level is Level.STUDY or self.study_uid is None:
            attributes |= self._study_attributes(match.study, match.series)
        if match.series is not None and (match.instance is None or self.series_uid is None):
            attributes |= self._series_attributes(match.study, match.series, counts)
        if match.instance is not None:
            attributes |= self._instance_attributes(match.instance)
        found = {tag_of(keyword): value for keyword, value in attributes.items()}
        if match.instance is not None and (self.query.everything or self.query.included):
            found = self._further(match.instance.path, match.series) | found
        return dict(sorted(found.items()))

    def _study_attributes(self, study: Study, of: Series | None) -> dict[str, Any]:
        series = self.holdings.series_of(study)
        attributes = self._attributes(study)
        if of is not None:
            patient = {keyword: value for keyword, value in self._attributes(of).items() if keyword in KEYWORDS}
            attributes = {keyword: value for keyword, value in attributes.items() if keyword not in KEYWORDS} | patient
        return _given(Level.STUDY, attributes) | {
            "StudyInstanceUID": encoded("StudyInstanceUID", study.study_uid),
            "InstanceAvailability": encoded("InstanceAvailability", "ONLINE"),
            "ModalitiesInStudy": encoded("ModalitiesInStudy", *self._modalities(study)),
            "RetrieveURL": encoded("RetrieveURL", f"{self.url}/studies/{study.study_uid}"),
            "NumberOfStudyRelatedSeries": encoded("NumberOfStudyRelatedSeries", len(series)),
            "NumberOfStudyRelatedInstances": encoded("NumberOfStudyRelatedInstances", sum(self.holdings.count_instances(series).values())),
        }

    def _series_attributes(self, study: Study, series: Series, counts: dict[str, dict[str, int]]) -> dict[str, Any]:
        if study.study_uid not in counts:
            counts[study.study_uid] = self.holdings.count_instances(self.holdings.series_of(study))
        return _given(Level.SERIES, self.holdings.attributes(series.path)) | {
            "StudyInstanceUID": encoded("StudyInstanceUID", series.study_uid),
            "SeriesInstanceUID": encoded("SeriesInstanceUID", series.series_uid),
            "RetrieveURL": encoded("RetrieveURL", f"{self.url}/studies/{series.study_uid}/series/{series.series_uid}"),
            "NumberOfSeriesRelatedInstances": encoded("NumberOfSeriesRelatedInstances", counts[study.study_uid].get(series.series_uid, 0)),
        }

    def _instance_attributes(self, instance: Instance) -> dict[str, Any]:
        place = instance_url(self.url, instance.study_uid, instance.series_uid, instance.sop_instance_uid)
        return _given(Level.INSTANCE, self.holdings.instance_attributes(instance.path)) | {
            "StudyInstanceUID": encoded("StudyInstanceUID", instance.study_uid),
            "SeriesInstanceUID": encoded("SeriesInstanceUID", instance.series_uid),
            "SOPInstanceUID": encoded("SOPInstanceUID", instance.sop_instance_uid),
            "InstanceAvailability": encoded("InstanceAvailability", "ONLINE"),
            "RetrieveURL": encoded("RetrieveURL", place),
        }

    def _further(self, path: str, series: Series | None) -> dict[str, Any]:
        """What includefield asks for beyond what is always given; for studies and series that is nothing."""
        try:
            with opened(self.desk.store.path_of(path)) as stored:
                found = describe(stored, lambda place: place)
        except (Unreadable, FileNotFoundError):
            return {}
        if series is not None and series.identity:
            patient = {keyword: found.pop(tag_of(keyword)) for keyword in KEYWORDS if tag_of(keyword) in found}
            found |= {tag_of(keyword): value for keyword, value in overlaid(patient, series.identity).items()}
        wanted = found if self.query.everything else self.query.included
        return {tag: value for tag, value in found.items() if tag in wanted and "BulkDataURI" not in value}


def _values(attributes: dict[str, Any], keyword: str) -> Sequence[Any]:
    sequence, _, last = keyword.rpartition(".")
    if sequence:
        items = attributes.get(sequence, {}).get("Value", ())
        return [value for item in items for value in item.get(tag_of(last), {}).get("Value", ())]
    found: Sequence[Any] = attributes.get(keyword, {}).get("Value", ())
    return found


def _given(level: Level, attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a level that are there, and without a value those that are required and are not."""
    return {
        keyword: attributes.get(keyword, encoded(keyword))
        for keyword in GIVEN[level]
        if keyword not in COMPUTED and (keyword in attributes or keyword in REQUIRED)
    }

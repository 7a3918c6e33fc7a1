"""In which study a PACS has a series: asked where the request names none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from service.errors import Rejected, Unavailable
from service.fetching.node import NotThere, find_by_node
from service.fetching.web import find_by_web
from service.sections import Pacs
from service.settings import Settings


def find_study(settings: Settings, source: Pacs, series_uid: str) -> str:
    """
    Give the study of a series, by C-FIND where the source is a DICOM node, else or failing that by QIDO-RS.

    Raises
    ------
    NotThere
        The PACS knows no such series.
    Rejected
        It knows several.
    Unavailable
    """
    reasons = []
    for find in _finders(settings, source, series_uid):
        try:
            found = find()
        except Unavailable as error:
            reasons.append(error.reason)
            continue
        if len(found) > 1:
            raise Rejected(f"{source.name} has the series in {len(found)} studies: give study_uid")
        if found:
            return found.pop()
        reasons.append("")
    if "" in reasons:
        raise NotThere(f"{source.name} finds no such series; it may need study_uid")
    raise Unavailable(f"{source.name}: {'; '.join(reasons)}")


def _finders(settings: Settings, source: Pacs, series_uid: str) -> Iterator[Callable[[], set[str]]]:
    if source.ae_title is not None:
        yield lambda: find_by_node(settings, source, series_uid)
    if source.url is not None:
        yield lambda: find_by_web(source, series_uid)

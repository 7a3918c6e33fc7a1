"""A search as it is asked for: matching keys, paging, further attributes. What is not understood is refused, never passed over."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from service.api.dicomweb.attributes import MATCHED, Level
from service.api.dicomweb.matching import Matcher, NotAValue, make_matcher, read_uids
from service.api.problems import Problem

MOST_RESULTS: Final[dict[Level, int]] = {Level.STUDY: 1000, Level.SERIES: 1000, Level.INSTANCE: 5000}
"""In one answer; more are asked for with `offset`."""

MOST_OFFSET: Final = 10**9
_LONGEST_VALUE: Final = 4096
_UNSUPPORTED: Final = {
    "fuzzymatching": "The fuzzymatching parameter is not supported. Only literal matching has been performed.",
    "emptyvaluematching": "The emptyvaluematching parameter is not supported. Empty Value Matching has not been performed.",
    "multiplevaluematching": "The multiplevaluematching parameter is not supported. Multiple Value Matching has not been performed.",
}
"""PS3.18 8.3.4.2, 8.3.4.5, 8.3.4.6, word for word."""

_CHEAP: Final = ("StudyInstanceUID", "PatientID", "SeriesInstanceUID", "SOPInstanceUID")
"""Compared first: the case book knows them, no file is opened."""


@dataclass(frozen=True)
class Query:
    """
    A search that was understood.

    Attributes
    ----------
    keys : by level, what has to match: keyword (or sequence.keyword) and comparison
    uids : by keyword, the UIDs that were asked for where they were
    included : tags of further attributes, upper-case hexadecimal; `everything` includes all there are
    warnings : what has to be said about it in the Warning header
    """

    level: Level
    keys: Mapping[Level, tuple[tuple[str, Matcher], ...]]
    uids: Mapping[str, frozenset[str]]
    included: tuple[str, ...]
    everything: bool
    limit: int
    offset: int
    warnings: tuple[str, ...]

    def matches(self, level: Level, values_of: Callable[[str], Sequence[Any]]) -> bool:
        """Tell whether what `values_of` gives for each keyword is what was asked for at this level."""
        return all(matcher(values_of(keyword)) for keyword, matcher in self.keys[level])


def read_query(parameters: Sequence[tuple[str, str]], level: Level) -> Query:
    """
    Read the parameters of a search; PS3.18 8.3.4.

    Raises
    ------
    Problem
        400, with what is wrong; values are not repeated.
    """
    keys: dict[Level, list[tuple[str, Matcher]]] = {one: [] for one in Level}
    uids: dict[str, frozenset[str]] = {}
    included: list[str] = []
    plain: dict[str, str] = {}
    seen: set[str] = set()
    for place, (name, value) in enumerate(parameters, start=1):
        if name == "includefield":
            included += [part.strip() for part in value.split(",")]
        elif name in {"limit", "offset", *_UNSUPPORTED}:
            _once(seen, name)
            plain[name] = value
        else:
            keyword = _keyword(name, level, place)
            _once(seen, keyword)
            matcher = _matcher(keyword, value)
            if matcher is not None:
                keys[MATCHED[keyword]].append((keyword, matcher))
                if keyword in ("StudyInstanceUID", "SOPInstanceUID"):
                    uids[keyword] = read_uids(value)
    everything = "all" in included
    return Query(
        level=level,
        keys={one: tuple(sorted(found, key=lambda key: key[0] not in _CHEAP)) for one, found in keys.items()},
        uids=uids,
        included=tuple(_tag(name) for name in included if name != "all"),
        everything=everything,
        limit=min(_whole("limit", plain.get("limit"), MOST_RESULTS[level]), MOST_RESULTS[level]),
        offset=_whole("offset", plain.get("offset"), 0),
        warnings=tuple(text for name, text in _UNSUPPORTED.items() if _flag(name, plain.get(name, "false"))),
    )


def refuse(name: str, why: str) -> Problem:
    """The answer to a parameter that is not understood, named as the standard names it."""
    return Problem("invalid-query", f"{name}: {why}.")


def _once(seen: set[str], name: str) -> None:
    if name in seen:
        raise refuse(name, "is given twice")
    seen.add(name)


def _keyword(name: str, level: Level, place: int) -> str:
    """The keyword (or sequence.keyword) of a parameter that names an attribute by keyword or by tag."""
    parts = [_keyword_of_part(part) for part in name.split(".")]
    keyword = ".".join(parts)
    if not all(part.isascii() and tag_for_keyword(part) for part in parts):
        raise refuse(f"parameter {place}", "its name is neither an attribute's nor a parameter's of a search")  # and may be anything
    if keyword not in MATCHED:
        raise refuse(keyword, "is not an attribute that can be searched by here")
    if MATCHED[keyword] > level:
        raise refuse(keyword, f"is an attribute of {MATCHED[keyword].plural}; it cannot be matched in a search for {level.plural}")
    return keyword


def _keyword_of_part(part: str) -> str:
    return keyword_for_tag(int(part, 16)) if re.fullmatch(r"[0-9A-Fa-f]{8}", part) else part


def _matcher(keyword: str, value: str) -> Matcher | None:
    last = keyword.rpartition(".")[2]
    if len(value) > _LONGEST_VALUE or any(not letter.isprintable() for letter in value):
        raise refuse(keyword, "is too long, or holds a control character")
    try:
        return make_matcher(last, dictionary_VR(last), value)
    except NotAValue as error:
        raise refuse(keyword, str(error)) from None


def _tag(name: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        return name.upper()
    tag = tag_for_keyword(name.partition(".")[0]) if name.isascii() else None
    if tag is None:
        raise refuse("includefield", "names what is no attribute: give keywords, tags of eight hexadecimal digits, or all")
    return f"{tag:08X}"


def _whole(name: str, value: str | None, default: int) -> int:
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}", value) or int(value) > MOST_OFFSET:
        raise refuse(name, "is not a whole number from 0 on")
    return int(value)


def _flag(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise refuse(name, "is neither true nor false")
    return value == "true"

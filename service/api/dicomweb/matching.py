"""How a value of a query is compared with an attribute's values; PS3.4 C.2.2.2."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from fnmatch import translate
from typing import Any, Final

Matcher = Callable[[Sequence[Any]], bool]

_WHOLE: Final = frozenset({"IS", "US", "UL", "SS", "SL"})
_LISTED: Final = frozenset({"ModalitiesInStudy", "Modality"})
_MOST_STARS: Final = 16
_UID: Final = re.compile(r"[0-9.]{1,64}")
_SPAN: Final = re.compile(r"(?P<first>[0-9.]*)(?P<dash>-?)(?P<last>[0-9.]*)")
_TIME: Final = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?|60(\.\d{1,6})?)?)?")


class NotAValue(ValueError):
    """The text is no value of the attribute's kind; its message says what one looks like, and never quotes the text."""


def make_matcher(keyword: str, vr: str, text: str) -> Matcher | None:
    """
    Give the comparison that a query asks for, or None where every value will do (universal matching).

    Raises
    ------
    NotAValue
    """
    if text in ("", "*"):
        return None
    if vr == "UI":
        return _one_of(read_uids(text))
    if vr in ("DA", "TM"):
        return _within(text, _date if vr == "DA" else _time)
    if vr in _WHOLE:
        return _number(text)
    if keyword in _LISTED:
        return _like_any([part.strip() for part in re.split(r"[\\,]", text)], ignore_case=False)
    return _like_any([text.rstrip("^") if vr == "PN" else text], ignore_case=vr == "PN")


def read_uids(text: str) -> frozenset[str]:
    """Read a UID, or a list of them with commas or backslashes between. Raises NotAValue."""
    found = [part.strip() for part in re.split(r"[\\,]", text)]
    if not all(_UID.fullmatch(part) for part in found):
        raise NotAValue("is not a UID, or a list of UIDs with commas between")
    return frozenset(found)


def _one_of(wanted: frozenset[str]) -> Matcher:
    return lambda values: any(str(value) in wanted for value in values)


def _number(text: str) -> Matcher:
    if not re.fullmatch(r"[+-]?\d{1,12}", text.strip()):
        raise NotAValue("is not a whole number")
    wanted = int(text)
    return lambda values: any(value == wanted for value in values)


def _within(text: str, bounds: Callable[[str], tuple[str, str]]) -> Matcher:
    """One value or a range, both ends included; PS3.4 C.2.2.2.5."""
    span = _SPAN.fullmatch(text.replace(" ", ""))
    if span is None or not (span["first"] or span["last"]):
        raise NotAValue("is neither a value nor a range such as A-B, A- or -B")
    low = bounds(span["first"])[0] if span["first"] else ""
    high = bounds(span["last"] if span["dash"] else span["first"])[1] if span["last"] or not span["dash"] else "~"
    if low > high:
        raise NotAValue("is a range that ends before it begins")
    return lambda values: any(low <= str(value) <= high for value in values if value)


def _date(text: str) -> tuple[str, str]:
    try:
        datetime.strptime(text, "%Y%m%d")  # noqa: DTZ007  # a day has no zone
    except ValueError:
        raise NotAValue("is not a date such as 20261128, or a range of dates") from None
    if len(text) != 8:
        raise NotAValue("is not a date such as 20261128, or a range of dates")
    return text, text


def _time(text: str) -> tuple[str, str]:
    """The first and the last instant of what the text names: 14 is the whole hour."""
    if not _TIME.fullmatch(text):
        raise NotAValue("is not a time such as 1430 or 143000.5, or a range of times")
    return text, text + "~"


def _like_any(patterns: Sequence[str], *, ignore_case: bool) -> Matcher:
    """Wild cards `*` and `?`; fnmatch's expressions never search back, however many stars there are."""
    if any(len(re.findall(r"\*+", pattern)) > _MOST_STARS for pattern in patterns):
        raise NotAValue(f"has more than {_MOST_STARS} wild cards")
    flags = re.IGNORECASE if ignore_case else 0
    wanted = [re.compile(translate(pattern.replace("[", "[[]")), flags) for pattern in patterns]
    return lambda values: any(pattern.match(text) for value in values for text in _texts(value) for pattern in wanted)


def _texts(value: Any) -> list[str]:
    """What can be compared of a value: a name in each of its writings, and in all of them."""
    if not isinstance(value, dict):
        return [str(value).strip()]
    groups = [str(value.get(name, "")) for name in ("Alphabetic", "Ideographic", "Phonetic")]
    return [group.rstrip("^ ") for group in groups if group] + ["=".join(groups).rstrip("=")]

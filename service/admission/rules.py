"""Is this series a brain FLAIR that can be segmented? Named rules over headers, tried in order; the first that matches decides.

The default list follows the clinical definition (an inversion recovery T2-weighted image whose fluid is nulled); an installation
may give its own in the settings. What can never be segmented is refused before either list is asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.admission.refusals import FLAIR_NAME, REFUSALS, STRUCTURE, describe_timing, has_flair_timing, names
from service.headers import Header
from service.rule import Rule
from service.settings import Settings

_WEIGHTING: Final = re.compile(r"\b(t1|t2|t2star|pd|stir|dir|psir|mprage|epi|bold|fmri|swi)", re.I)


@dataclass(frozen=True)
class Verdict:
    """What a rule says of a series: its name, whether it takes the series, and why."""

    rule: str
    accept: bool
    reason: str
    quality: tuple[str, ...] = ()


def judge(headers: Sequence[Header], settings: Settings) -> Verdict:
    """
    Let the rules decide over the headers of one series (at least one).

    The number of slices is not asked here: more may come.
    """
    for name, check in STRUCTURE:
        if reason := check(headers, settings):
            return Verdict(name, False, reason)
    if settings.admission is not None:
        return _judge_by_settings(headers, settings.admission)
    for name, check in REFUSALS:
        if reason := check(headers, settings):
            return Verdict(name, False, reason)
    return _judge_flair(headers)


RULE_NAMES: Final = (*(name for name, _ in STRUCTURE + REFUSALS), "too-few-slices", "flair-by-name", "flair-by-timing", "not-flair")


def _judge_flair(headers: Sequence[Header]) -> Verdict:
    header = headers[0]
    timing = has_flair_timing(header)
    if _is_named_flair(header) or (timing and FLAIR_NAME.search(names(header))):
        confirmed = timing or "IR" in header.scanning_sequence or not header.scanning_sequence
        doubt = f"timing-unconfirmed: no inversion recovery in the header ({describe_timing(header)})"
        return Verdict("flair-by-name", True, "named a FLAIR", () if confirmed else (doubt,))
    if timing and not _WEIGHTING.search(f"{header.series_description} {header.protocol_name}".replace("_", " ")):
        return Verdict("flair-by-timing", True, f"the timing of a T2-weighted FLAIR ({describe_timing(header)})")
    return Verdict("not-flair", False, f"not a FLAIR: neither its names nor its timing say so ({describe_timing(header)})")


def _is_named_flair(header: Header) -> bool:
    """A protocol's name may be that of the whole examination: it counts only where the series has no description of its own."""
    own = header.series_description or header.protocol_name
    return FLAIR_NAME.search(f"{own} {header.sequence_name}".replace("_", " ")) is not None


def _judge_by_settings(headers: Sequence[Header], rules: Sequence[Rule]) -> Verdict:
    for rule in rules:
        if _matches(rule, headers[0]):
            return Verdict(rule.name, rule.accept, rule.reason or f"rule {rule.name}")
    return Verdict("no-rule", False, f"no rule of the settings takes it ({describe_timing(headers[0])})")


def _matches(rule: Rule, header: Header) -> bool:
    """Every condition that is given must hold; an attribute the series lacks fails the condition on it.

    A description is searched as it is, and once more with its underscores read as separators.
    """
    description = f"{header.series_description}\n{header.series_description.replace('_', ' ')}"
    image_type = "\\".join(header.image_type)
    spans = (
        (rule.repetition_time_ms, header.repetition_time_ms),
        (rule.echo_time_ms, header.echo_time_ms),
        (rule.inversion_time_ms, header.inversion_time_ms),
    )
    return (
        (rule.modality is None or rule.modality.upper() == header.modality)
        and _found(rule.description_matches, description)
        and not _named(rule.description_lacks, description)
        and _found(rule.image_type_matches, image_type)
        and not _named(rule.image_type_lacks, image_type)
        and (rule.sequence is None or {one.upper() for one in rule.sequence} <= set(header.scanning_sequence))
        and _found(rule.body_part, header.body_part)
        and all(span is None or (value is not None and span.holds(value)) for span, value in spans)
    )


def _found(expression: str | None, value: str) -> bool:
    return expression is None or _named(expression, value)


def _named(expression: str | None, value: str) -> bool:
    return expression is not None and re.search(expression, value, re.I) is not None

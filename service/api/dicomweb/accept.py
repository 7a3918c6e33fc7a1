"""What a client accepts, and which of it we have. Nothing is transcoded: what is not accepted as it is stored is a 406."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.uid import (
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from service.api.problems import Problem

DICOM: Final = "application/dicom"
OCTETS: Final = "application/octet-stream"
JSON: Final = "application/dicom+json"
MULTIPART: Final = "multipart/related"
ANY: Final = "*"

_DEFAULTS: Final[dict[str, str]] = {
    DICOM: ExplicitVRLittleEndian,
    OCTETS: ExplicitVRLittleEndian,
    "image/jpeg": JPEGLosslessSV1,
    "image/jls": JPEGLSLossless,
    "image/jp2": JPEG2000Lossless,
    "image/jphc": HTJ2KLossless,
    "image/dicom-rle": RLELossless,
}
"""The transfer syntax of a media type that names none; PS3.18 tables 8.7.3-2, 8.7.3-4, 8.7.3-5."""

_WORD: Final = r"[^\s;,=\"]+"
_RANGE: Final = re.compile(rf"\s*({_WORD}/{_WORD})\s*((?:;\s*{_WORD}\s*=\s*(?:\"[^\"]*\"|[^\s;,\"]*)\s*)*)(?:,|$)")
_PARAMETER: Final = re.compile(rf";\s*({_WORD})\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]*))")


@dataclass(frozen=True)
class MediaRange:
    """One of the things a client accepts: RFC 9110 12.5.1, with the parameters of PS3.18 8.7.3."""

    kind: str
    parameters: Mapping[str, str]
    quality: float

    @property
    def multipart(self) -> bool:
        """Tell whether it lets several parts come."""
        return self.kind in (MULTIPART, "multipart/*", "*/*")

    @property
    def single(self) -> bool:
        """Tell whether it lets one part come without a wrapping."""
        return not self.kind.startswith("multipart/")

    def syntaxes(self, kind: str) -> frozenset[str]:
        """The transfer syntaxes in which it accepts this media type: none, some, or ANY."""
        inner = self.parameters.get("type", "*/*") if self.kind.startswith("multipart/") else self.kind
        if not _covers(inner.lower(), kind):
            return frozenset()
        default = ANY if ANY in inner else _DEFAULTS.get(kind, ANY)
        return frozenset({self.parameters.get("transfer-syntax", default)})


@dataclass(frozen=True)
class Choice:
    """How to answer: in several parts or one, and the places of what is accepted among what was offered."""

    multipart: bool
    kept: tuple[int, ...]


def read_accept(header: str | None) -> tuple[MediaRange, ...]:
    """Read an Accept header, best first. Raises Problem (400) where it cannot be read."""
    text = (header or "").strip() or "*/*"
    found, place = [], 0
    while place < len(text):
        match = _RANGE.match(text, place)
        if match is None:
            raise Problem("bad-request", "The Accept header cannot be read.")
        parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(match[2])}
        found.append(MediaRange(match[1].lower(), parameters, _quality(parameters.get("q", "1"))))
        place = match.end()
    return tuple(sorted((one for one in found if one.quality > 0), key=lambda one: -one.quality))


def choose(accepted: Sequence[MediaRange], offers: Sequence[tuple[str, str]], *, single: bool) -> Choice:
    """
    Choose how to answer with what is there.

    Parameters
    ----------
    offers : media type and transfer syntax of each object or frame
    single : whether one part without a wrapping is an answer too

    Raises
    ------
    Problem
        406: nothing of it is accepted as it is stored.
    """
    for one in accepted:
        multipart = one.multipart
        if not multipart and not single:
            continue
        alike = [other for other in accepted if (other.multipart if multipart else other.single)]
        kept = tuple(place for place, offer in enumerate(offers) if any(_accepts(other, *offer) for other in alike))
        if kept and any(_accepts(one, *offers[place]) for place in kept):
            return Choice(multipart, kept)
    there = sorted({f'type="{kind}"; transfer-syntax={syntax}' for kind, syntax in offers})
    raise Problem("not-acceptable", f"Stored as {MULTIPART}; {', '.join(there)}. Nothing is transcoded: accept that, or transfer-syntax=*.")


def choose_json(accepted: Sequence[MediaRange]) -> str:
    """The media type of a JSON answer. Raises Problem (406) where the client wants another kind."""
    for one in accepted:
        for kind in (JSON, "application/json"):
            if _covers(one.kind, kind):
                return kind
    raise Problem("not-acceptable", f"The answer is {JSON}.")


def _accepts(one: MediaRange, kind: str, syntax: str) -> bool:
    return bool(one.syntaxes(kind) & {syntax, ANY})


def _covers(pattern: str, kind: str) -> bool:
    return pattern in ("*/*", "*", kind) or pattern == kind.partition("/")[0] + "/*"


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        raise Problem("bad-request", "The Accept header cannot be read.") from None

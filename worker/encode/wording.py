"""Sentences that every output says the same way. Words of progression or response are never among them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC
from typing import TYPE_CHECKING

from model.release import Card

if TYPE_CHECKING:
    from worker.encode.context import Corrected

PRODUCT = "Leukoscope"
_COMPONENTS = 5  # of a person's name
STATEMENT = (
    "Investigational. FLAIR white-matter hyper-intensity, cause not attributed: treatment effect, oedema, infiltration and other "
    "disease look alike. Not a response assessment (RANO)."
)
HEADLINE_UNCONFIRMED = "Total FLAIR hyper-intensity, tumour not confirmed"
LESION_LABEL = "White-matter hyper-intensity"
TUMOUR_LIKE_LABEL = "Tumour-like hyper-intensity, not confirmed"
NONE_FOUND = "No FLAIR hyper-intensity found above the release's threshold and smallest lesion."


def irradiated_sentence(card: Card) -> str:
    """Say whether the release has ever met a patient like the ones it is meant for."""
    count = card.training.get("irradiated_patients", 0)
    if count is None:
        return "Whether irradiated patients were in training or evaluation of this release is not stated (see its card)."
    if not isinstance(count, int) or count <= 0:
        return "No irradiated patient was in training or evaluation of this release."
    return f"{count} irradiated patients were in training or evaluation of this release (see its card)."


def calibration_sentence(card: Card) -> str:
    """Say whether the lesion probability may be read as a share of volume."""
    if card.calibration is not None and card.calibration.acceptable:
        return "The probability is calibrated on patients the network never saw."
    return "The probability is not shown to be calibrated."


def counted(count: int, noun: str) -> str:
    """Say how many."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def series_description(product_version: str, *, corrected: bool = False) -> str:
    """Give the series description of our objects, at most 64 characters (LO)."""
    return f"{PRODUCT} WMH {product_version} {'corrected by reader' if corrected else 'AI - unverified'}"[:64]


def corrected_sentence(corrected: Corrected) -> str:
    """Say who corrected the mask and when, and what the release itself had found."""
    found = corrected.findings
    return (
        f"The mask was corrected by {corrected.reader} on {corrected.at.astimezone(UTC):%Y-%m-%d at %H:%M} UTC. The release itself found "
        f"{found.lesion_volume_ml:.2f} ml in {counted(found.lesion_count, 'lesion')}, and {found.tumour_like_volume_ml:.2f} ml tumour-like."
    )


def person_name(reader: str) -> str:
    """Give a reader's name as DICOM writes one (PS3.5 6.2, PN); one that was written as people do is all family name."""
    return reader if 1 <= reader.count("^") <= _COMPONENTS - 1 else f"{reader.replace('^', ' ')}^"


def sentence(flag: str) -> str:
    """Say a quality flag (`code: detail`, or a sentence already) as a sentence."""
    code, separator, detail = flag.partition(": ")
    if separator and code.replace("-", "").replace("_", "").isalnum() and code == code.lower():
        flag = f"{code.replace('-', ' ').replace('_', ' ')}: {detail}"
    return f"{flag[:1].upper()}{flag[1:].rstrip('.')}."


def unsaid(limits: Iterable[str], summary: str) -> list[str]:
    """Give the limits that the summary does not say already, with a verb or without."""
    said = {_gist(one) for one in re.split(r"(?<=\.) ", summary)}
    return [limit for limit in limits if _gist(limit) not in said]


def _gist(text: str) -> str:
    return re.sub(r"\b(?:is|are|was|were) ", "", text.strip(" .").lower())

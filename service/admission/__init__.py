"""What is to be done with a series, told from the headers of what came so far: refuse it, wait, hold it, or run it.

Headers refuse first and geometry comes after, so that a localizer is never held. Pure functions; nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.admission.completeness import check_geometry, check_patient
from service.admission.refusals import MR_IMAGE_CLASSES
from service.admission.rules import judge
from service.headers import Header
from service.headers.acquisition import is_3d, is_after_contrast, is_derived
from service.settings import Settings

Rank = tuple[int, ...]


@dataclass(frozen=True)
class Refuse:
    """The series is not one for us, whatever may still come. A recorded outcome, not an error."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Wait:
    """More may come: look again when the quiet time is over."""

    reason: str


@dataclass(frozen=True)
class Hold:
    """Wanted, but no whole stack; never a result. A slice that comes later makes it receive again."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Run:
    """Wanted and whole.

    Attributes
    ----------
    rank : compares with that of the study's other FLAIR series; the highest is the study's primary
    counted : whether the sender's own count says that nothing is missing, so that there is nothing to wait for
    """

    rule: str
    reason: str
    quality: tuple[str, ...]
    rank: Rank
    counted: bool


Decision = Refuse | Wait | Hold | Run


def examine(headers: Sequence[Header], settings: Settings, *, final: bool) -> Decision:
    """
    Decide over one series.

    Parameters
    ----------
    headers : of every instance there is, in any order, each UID once
    final : the quiet time is over; what is not whole now will not become so by waiting
    """
    if not headers:
        return Wait("nothing readable came yet")
    # Some scanners put raw data beside the images of a series: it does not speak for them.
    images = [header for header in headers if header.sop_class_uid in MR_IMAGE_CLASSES]
    ordered = sorted(images or headers, key=lambda header: header.sop_instance_uid)
    verdict = judge(ordered, settings)
    if not verdict.accept:
        return Refuse(verdict.rule, verdict.reason)
    if problem := check_patient(ordered):
        return Hold(verdict.rule, problem) if final else Wait(problem)
    geometry = check_geometry(ordered)
    if geometry.slices < settings.minimum_slices:
        few = f"{geometry.slices} slices, at least {settings.minimum_slices} are needed"
        return Refuse("too-few-slices", few) if final else Wait(few)
    if geometry.problem is not None:
        return Hold(verdict.rule, geometry.problem) if final else Wait(geometry.problem)
    if geometry.doubts and not final:
        return Wait(geometry.doubts[0])
    counts = {header.images_in_acquisition for header in ordered}
    counted = counts == {geometry.slices} or all(header.enhanced for header in ordered)
    return Run(verdict.rule, verdict.reason, (*verdict.quality, *geometry.doubts), rank(ordered), counted)


def rank(headers: Sequence[Header]) -> Rank:
    """
    Order the FLAIR series of a study: 3D before 2D, without doubt about being whole, before contrast, original, then the most slices.

    Higher is better. That a protocol was the earlier visit's comes before all of it and is known to the case book only.
    """
    geometry = check_geometry(headers)
    return (
        int(is_3d(headers)),
        int(geometry.problem is None and not geometry.doubts),
        int(not is_after_contrast(headers)),
        int(not is_derived(headers)),
        geometry.slices,
    )

"""What is wrong with annotated scans: one by one, and among each other."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import isnan, nan
from typing import Any, Literal, TypeVar

import numpy as np
from scipy import ndimage

from model.training.contrast import judge_contrast
from model.training.layouts import Case, Mask, Role, UnusableCase, carried, read_brain, read_mask, read_role, read_scan
from model.training.metrics import dice
from model.training.outline import fill_brain, holds_head, is_extracted
from model.volume import Volume

Read = TypeVar("Read")
Masks = dict[Role, Mask | None]
READ: tuple[Role, ...] = ("lesion", "tumour", "ignore", "second")
MARKED: tuple[Role, ...] = ("lesion", "tumour")
Severity = Literal["unusable", "suspicious"]
LEAST_SLICES = 12
SPACINGS_MM = (0.3, 8.0)
MOST_LESION_ML = 300.0
MOST_OUTSIDE = 0.2
UNCORRECTED = "not corrected"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks it."""

    severity: Severity
    text: str


@dataclass
class Checked:
    """One case and what was found. Volumes in millilitres, None where nothing is known; `agreement`: Dice between raters."""

    case: Case
    findings: list[Finding] = field(default_factory=list)
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    lesion_ml: float | None = None
    lesions: int | None = None
    tumour_ml: float | None = None
    agreement: float = nan
    digest: str = ""

    def unusable(self, text: str) -> None:
        """Set down that this case cannot be trained on."""
        self.findings.append(Finding("unusable", text))

    def suspicious(self, text: str) -> None:
        """Set down what a person should look at."""
        self.findings.append(Finding("suspicious", text))

    def has(self, severity: Severity) -> bool:
        """Whether anything this bad was found."""
        return any(finding.severity == severity for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; NaN as null."""
        case = self.case
        files = {name: getattr(case, name) for name in ("flair", "lesion", "tumour", "ignore", "second", "changed", "brain")}
        return {
            "scan": case.id,
            "patient": case.patient,
            "session": case.session,
            "site": case.site,
            **{name: None if path is None else str(path) for name, path in files.items()},
            "shape": self.shape,
            "spacing_mm": self.spacing_mm,
            "lesion_ml": self.lesion_ml,
            "lesions": self.lesions,
            "tumour_ml": self.tumour_ml,
            "rater_dice": None if isnan(self.agreement) else round(self.agreement, 4),
            "sha256_of_voxels": self.digest,
            "unusable": [finding.text for finding in self.findings if finding.severity == "unusable"],
            "suspicious": [finding.text for finding in self.findings if finding.severity == "suspicious"],
            "notes": list(case.notes),
        }


def check_case(case: Case) -> Checked:
    """Read everything of a case and judge it; nothing is raised, all is found at once."""
    checked = Checked(case)
    if case.lesion is None and case.tumour is None and case.changed is None:
        checked.unusable("no mask: nothing to learn from")
    if UNCORRECTED in case.provenance:
        checked.suspicious("nobody corrected this mask: training on it teaches the release what it does already")
    scan = _tried(checked, lambda: read_scan(case))
    if scan is None:
        return checked
    if not _check_grid(checked, scan):
        return checked
    masks = _read_masks(checked, scan)
    brain = _tried(checked, lambda: _find_brain(case, scan))
    if brain is not None and case.brain is not None and holds_head(brain, scan):
        held = f"its brain mask holds {brain.sum() * scan.voxel_ml:.0f} ml, more than any brain"
        checked.suspicious(f"{held}: a mask of the head? No brain is learnt from it, nor compared with it")
        brain = None
    _measure(checked, scan, masks)
    if _check_places(checked, scan, masks, brain):
        _check_contrast(checked, scan, masks, brain)
    if case.changed is not None:
        _tried(checked, lambda: carried(case, case.changed))  # type: ignore[arg-type]
    checked.agreement = _agreement(checked, scan, masks["lesion"], masks["second"])
    return checked


def check_together(found: Sequence[Checked]) -> None:
    """Set down scans that are there twice: one patient and session, or the same voxels."""
    visits: dict[tuple[str, str], list[Checked]] = defaultdict(list)
    images: dict[str, list[Checked]] = defaultdict(list)
    for checked in found:
        visits[checked.case.patient, checked.case.session].append(checked)
        if checked.digest:
            images[checked.digest].append(checked)
    for same in visits.values():
        for checked, others in _each_of_several(same):
            checked.unusable(f"the same patient and session as {others}: name the sessions apart, or keep one")
    for same in images.values():
        for checked, others in _each_of_several(same):
            patients = "" if len({one.case.patient for one in same}) == 1 else ", of another patient"
            checked.unusable(f"the same image as {others}{patients}: keep one")


def _each_of_several(same: Sequence[Checked]) -> Iterator[tuple[Checked, str]]:
    if len(same) > 1:
        for checked in same:
            yield checked, ", ".join(other.case.id for other in same if other is not checked) or checked.case.id


def human_ceiling(found: Sequence[Checked]) -> dict[str, float]:
    """Dice between raters, the mean of each patient's scans: no network can be expected to agree better with one of them."""
    patients: dict[str, list[float]] = defaultdict(list)
    for checked in found:
        if not isnan(checked.agreement):
            patients[checked.case.patient].append(checked.agreement)
    return {patient: float(np.mean(values)) for patient, values in sorted(patients.items())}


def _tried(checked: Checked, read: Callable[[], Read]) -> Read | None:
    try:
        return read()
    except UnusableCase as error:
        checked.unusable(str(error).replace(f"{checked.case.flair.parent}/", ""))
    except (RuntimeError, ModuleNotFoundError) as error:  # SimpleITK's readers, and its absence
        checked.unusable(f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
    return None


def _read_masks(checked: Checked, scan: Volume) -> Masks:
    def read(role: Role) -> Mask | None:
        return _tried(checked, lambda: read_role(checked.case, role, scan))

    return {role: read(role) for role in READ}


def _check_grid(checked: Checked, scan: Volume) -> bool:
    """Whether it is worth looking further."""
    checked.shape = scan.shape
    i, j, k = (round(float(step), 3) for step in scan.spacing_mm)
    checked.spacing_mm = (i, j, k)
    data = np.ascontiguousarray(scan.data, np.float32)
    checked.digest = hashlib.sha256(repr(scan.shape).encode() + data.tobytes()).hexdigest()
    if not abs(np.linalg.det(scan.affine_ras[:3, :3])) > 0:
        checked.unusable("its header gives no grid: the affine is singular")
        return False
    if np.ptp(data) == 0:
        checked.unusable("all voxels have one value")
        return False
    if min(checked.spacing_mm) < SPACINGS_MM[0] or max(checked.spacing_mm) > SPACINGS_MM[1]:
        checked.suspicious(f"voxels of {' x '.join(f'{step:g}' for step in checked.spacing_mm)} mm: is the header right?")
    if min(scan.shape) < LEAST_SLICES:
        checked.suspicious(f"only {min(scan.shape)} slices")
    return True


def _find_brain(case: Case, scan: Volume) -> Mask | None:
    """The brain where that costs no network: None for a whole head."""
    extracted = is_extracted(scan)
    brain = read_brain(case, scan)
    if brain is None and (extracted or case.extracted):
        return fill_brain(scan)
    return brain


def _measure(checked: Checked, scan: Volume, masks: Masks) -> None:
    lesion, tumour = masks["lesion"], masks["tumour"]
    if lesion is not None:
        checked.lesion_ml = round(float(lesion.sum()) * scan.voxel_ml, 3)
        checked.lesions = int(ndimage.label(lesion, np.ones((3, 3, 3)))[1])
        if checked.lesion_ml > MOST_LESION_ML:
            checked.suspicious(f"{checked.lesion_ml:.0f} ml of lesion")
    if tumour is not None:
        checked.tumour_ml = round(float(tumour.sum()) * scan.voxel_ml, 3)


def _check_places(checked: Checked, scan: Volume, masks: Masks, brain: Mask | None) -> bool:
    """Whether the masks lie where their contrast tells anything."""
    well = True
    inside = np.asarray(scan.data, np.float32) > 0 if brain is None else brain
    for role in MARKED:
        mask = masks[role]
        if mask is None:
            continue
        if not mask.any():
            checked.suspicious(f"the {role} mask is empty: right if this scan has none")
            continue
        outside = float((mask & ~inside).sum() / mask.sum())
        if outside > MOST_OUTSIDE:
            checked.suspicious(f"{100 * outside:.0f} % of the {role} lies outside the brain: moved, or mirrored?")
            well = False
    return well


def _check_contrast(checked: Checked, scan: Volume, masks: Masks, brain: Mask | None) -> None:
    known = [mask for role in MARKED if (mask := masks[role]) is not None]
    seen = judge_contrast(scan, brain, np.logical_or.reduce(known) if known else None)
    if seen.kind is not None and seen.sure:
        checked.unusable(f"surely {seen.kind}-weighted and no FLAIR ({seen.why}): swapped?")
    elif seen.kind is not None:
        checked.suspicious(f"perhaps {seen.kind}-weighted and no FLAIR ({seen.why}): swapped?")


def _agreement(checked: Checked, scan: Volume, lesion: Mask | None, second: Mask | None) -> float:
    """Mean Dice over pairs of raters; where only a second one is known, between the two masks."""
    case = checked.case
    if len(case.raters) > 1:
        drawn = _tried(checked, lambda: [read_mask(path, scan, case.lesion_values, case.declared("lesion")) for path in case.raters])
        values = [value for one, other in combinations(drawn or (), 2) if not isnan(value := dice(one, other))]
        return float(np.mean(values)) if values else nan
    return dice(lesion, second) if lesion is not None and second is not None else nan

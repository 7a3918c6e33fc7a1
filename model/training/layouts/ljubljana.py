"""The University of Ljubljana's multiple-sclerosis data (open_ms_data), cross-sectional and longitudinal; nobody in it has a tumour.

References
----------
Lesjak 2017, doi:10.1007/s12021-017-9348-7 (cross-sectional, three raters' consensus); Lesjak 2016, doi:10.1007/s12021-016-9301-1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from model.training.layouts.case import Case
from model.training.layouts.names import nifti, one_nifti


def open_ms_mni(root: Path) -> Iterator[Case]:
    """Cross-sectional, in MNI space: only patients whose FLAIR is there."""
    for folder in sorted((root / "cross_sectional" / "MNI").glob("patient*")):
        flair, mask = one_nifti(folder, "FLAIR_*"), one_nifti(folder, "GOLD_STANDARD_*")
        if flair and mask:
            number = folder.name.removeprefix("patient")
            yield Case(f"open_ms-{number}", f"open_ms/{number}", "1", flair, lesion=mask, extracted=True, healthy_tumour=True)


def open_ms_shapes(root: Path) -> dict[str, Path]:
    """Lesion masks of the same set by patient number, with or without a FLAIR beside them: shapes to paint with."""
    found = sorted((root / "cross_sectional" / "MNI").glob("patient*/GOLD_STANDARD_*.nii.gz"))
    return {path.parent.name.removeprefix("patient"): path for path in found}


def open_ms_raw(root: Path) -> Iterator[Case]:
    """Longitudinal: raw whole heads in thick slices; the brain is known, of the lesions only those that changed."""
    for flair in nifti(root / "longitudinal", "patient*/study*_FLAIR"):
        number, study = flair.parent.name.removeprefix("patient"), flair.name.split("_")[0]
        yield Case(
            f"open_ms_raw-{number}-{study}",
            f"open_ms_raw/{number}",
            study,
            flair,
            changed=flair.with_name("gt.nii.gz"),
            brain=flair.with_name("brainmask.nii.gz"),
            brain_transform=flair.with_name(f"{study}_FLAIR_to_common_space.txt"),
            healthy_tumour=True,
        )


def ljubljana(root: Path) -> Iterator[Case]:
    """Cross-sectional as published: whole heads in FLAIR space, `patientNN_FLAIR` (or `FLAIR`) beside `…consensus_gt` and `…brainmask`."""
    for mask in (*nifti(root, "**/patient*/*consensus_gt"),):
        folder = mask.parent
        prefix = mask.name.split("consensus_gt", maxsplit=1)[0]
        flair, brain = one_nifti(folder, f"{prefix}FLAIR"), one_nifti(folder, f"{prefix}brainmask")
        if flair is None or re.fullmatch(r"patient\d+", folder.name) is None:
            continue
        number = folder.name.removeprefix("patient")
        yield Case(f"ljubljana-{number}", f"open_ms/{number}", "1", flair, lesion=mask, brain=brain, healthy_tumour=True)

"""Three challenges with drawn lesions: WMH 2017, MSSEG 2016, MSLesSeg.

References
----------
Kuijf 2019, doi:10.1109/TMI.2019.2905770 (label 2, other pathology, is not scored: ignored here); Commowick 2018,
doi:10.1038/s41598-018-31911-7 (seven raters and their consensus); Guarnera 2025, doi:10.1038/s41597-025-05250-y.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from model.training.layouts.case import Case
from model.training.layouts.names import nifti, one_nifti

_VISIT = re.compile(r"(?P<patient>P\d+)(_(?P<session>T\d+))?_FLAIR")


def wmh2017(root: Path) -> Iterator[Case]:
    """`…/NUMBER/pre/FLAIR.nii.gz` + `…/NUMBER/wmh.nii.gz`; sites are the folders above. A third observer's masks are the second rater's."""
    for mask in nifti(root, "**/wmh"):
        folder = mask.parent
        flair = one_nifti(folder, "pre/FLAIR") or one_nifti(folder, "FLAIR")
        if flair is None:
            continue
        inner = folder.relative_to(root)
        site = "/".join(part for part in inner.parts[:-1] if part.lower() not in {"training", "test"})
        yield Case(
            f"wmh2017-{'-'.join(inner.parts)}",
            f"wmh2017/{'/'.join(inner.parts)}",
            "1",
            flair,
            site=site,
            lesion=mask,
            ignore=mask,
            second=_third_observer(root, inner),
            lesion_values=(1,),
            ignore_values=(2,),
            healthy_tumour=True,
        )


def _third_observer(root: Path, inner: Path) -> Path | None:
    """`additional_annotations/observer_o3/training/…/result.nii.gz`, whether the folder given is the whole download or its `training`."""
    for place, below in ((root, inner), (root.parent, Path(root.name) / inner)):
        if found := one_nifti(place / "additional_annotations" / "observer_o3" / below, "result"):
            return found
    return None


def msseg2016(root: Path) -> Iterator[Case]:
    """`Consensus.nii.gz` and `ManualSegmentation_N.nii.gz`, in `Masks` beside `Preprocessed_Data` (or `Raw_Data`), or all in one folder."""
    for mask in nifti(root, "**/Consensus"):
        folder = mask.parent.parent if mask.parent.name == "Masks" else mask.parent
        raw = [name for place in ("Raw_Data", ".") for name in (f"{place}/FLAIR", f"{place}/3DFLAIR")]
        stripped = [name for place in ("Preprocessed_Data", ".") for name in (f"{place}/FLAIR_preprocessed",)]
        found = [(path, name in stripped) for name in (*stripped, *raw) if (path := one_nifti(folder, name)) is not None]
        if not found:
            continue
        flair, extracted = found[0]
        raters = tuple(nifti(mask.parent, "ManualSegmentation_*"))
        inner = folder.relative_to(root).parts or (folder.name,)
        yield Case(
            f"msseg2016-{'-'.join(inner)}",
            f"msseg2016/{'/'.join(inner)}",
            "1",
            flair,
            site=next((part for part in inner if part.lower().startswith("center")), ""),
            lesion=mask,
            second=raters[0] if raters else None,
            raters=raters,
            brain=one_nifti(mask.parent, "Brain_Mask"),
            extracted=extracted,
            healthy_tumour=True,
        )


def mslesseg(root: Path) -> Iterator[Case]:
    """`train/P14/T1/P14_T1_FLAIR.nii.gz` + `…_MASK.nii.gz`; in `test` one visit each, without a folder of its own."""
    for flair in (*nifti(root, "train/P*/T*/P*_FLAIR"), *nifti(root, "test/P*/P*_FLAIR")):
        name = _VISIT.match(flair.name)
        if name is None:
            continue
        patient, session = name["patient"], name["session"] or "1"
        mask = flair.with_name(flair.name.replace("FLAIR", "MASK"))
        identifier = f"mslesseg-{patient}" + (f"-{session}" if name["session"] else "")
        yield Case(identifier, f"mslesseg/{patient}", session, flair, lesion=mask, extracted=True, healthy_tumour=True)

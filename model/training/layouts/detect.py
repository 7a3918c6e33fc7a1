"""All layouts, and which of them a folder has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.training.layouts.bids import bids
from model.training.layouts.brats import brats
from model.training.layouts.case import Case, UnusableCase
from model.training.layouts.challenges import mslesseg, msseg2016, wmh2017
from model.training.layouts.ljubljana import ljubljana, open_ms_mni, open_ms_raw
from model.training.layouts.manifest import NAME, manifest
from model.training.layouts.names import nifti, stem
from model.training.layouts.nnunet import msd, nnunet


@dataclass(frozen=True)
class Layout:
    """A way to lay scans out, and what it is known by."""

    find: Callable[[Path], Iterator[Case]]
    signs: str


# the order in which a folder is asked: what states its meaning comes before what is only known by names
LAYOUTS: dict[str, Layout] = {
    "manifest": Layout(manifest, f"a file {NAME}"),
    "nnunet": Layout(nnunet, "dataset.json with channel_names, imagesTr/*_0000.nii.gz, labelsTr/"),
    "msd": Layout(msd, "dataset.json with modality and training (Task01_BrainTumour)"),
    "bids": Layout(
        bids, "sub-*/[ses-*/]anat/*_FLAIR.nii.gz and a mask *_label-lesion_mask.nii.gz or *_desc-lesion_mask.nii.gz in derivatives/*/"
    ),
    "brats": Layout(brats, "[HGG|LGG/]NAME/*_flair.nii.gz + *_seg.nii.gz, or NAME/*-t2f.nii.gz + *-seg.nii.gz"),
    "wmh2017": Layout(wmh2017, "…/pre/FLAIR.nii.gz + …/wmh.nii.gz"),
    "msseg2016": Layout(msseg2016, "…/Masks/Consensus.nii.gz + Preprocessed_Data/FLAIR_preprocessed.nii.gz or Raw_Data/FLAIR.nii.gz"),
    "mslesseg": Layout(mslesseg, "train/P*/T*/P*_T*_FLAIR.nii.gz + *_MASK.nii.gz"),
    "open_ms_mni": Layout(open_ms_mni, "cross_sectional/MNI/patient*/FLAIR_*.nii.gz + GOLD_STANDARD_*.nii.gz"),
    "open_ms_raw": Layout(open_ms_raw, "longitudinal/patient*/study*_FLAIR.nii.gz"),
    "ljubljana": Layout(ljubljana, "…/patient*/*consensus_gt.nii.gz + *FLAIR.nii.gz"),
}
DICOM_SIGNS = "DICOM files: a source series and the SEG objects that refer to it"


@dataclass(frozen=True)
class Found:
    """The cases of one layout in a folder, and why it was taken for it."""

    layout: str
    why: str
    cases: tuple[Case, ...]


def find_cases(layout: str, root: Path) -> list[Case]:
    """All cases of one folder.

    Raises
    ------
    UnusableCase
        Unknown layout, or nothing found.
    """
    if layout not in LAYOUTS:
        raise UnusableCase(f"unknown layout {layout!r}; known: {', '.join(sorted(LAYOUTS))}")
    cases = list(LAYOUTS[layout].find(root)) if root.exists() else []
    if not cases:
        raise UnusableCase(f"{root}: no scan of layout {layout!r} found; it has {LAYOUTS[layout].signs}")
    return cases


def detect_layouts(root: Path) -> list[Found]:
    """Every layout found in a folder; a scan counts for the first that knows it.

    Raises
    ------
    UnusableCase
        None: the message lists what each layout was looked for by.
    """
    found = known_layouts(root)
    if not found:
        raise UnusableCase(_riddle(root))
    return found


def known_layouts(root: Path) -> list[Found]:
    """`detect_layouts`, and nothing where there is none; raises `UnusableCase` for a manifest that cannot be read."""
    taken: set[tuple[Path, int | None]] = set()
    found = []
    for name, layout in LAYOUTS.items():
        cases = tuple(case for case in layout.find(root) if (case.flair, case.channel) not in taken)
        if cases:
            taken |= {(case.flair, case.channel) for case in cases}
            found.append(Found(name, layout.signs, cases))
    return found


def not_taken(folder: Path, cases: Sequence[Case]) -> list[Path]:
    """FLAIR files by their names that belong to no case: a mask beside them is missing, or called something else."""
    taken = {case.flair.resolve() for case in cases}
    used = {
        path.resolve() for case in cases for path in (case.lesion, case.tumour, case.ignore, case.second, *case.raters) if path is not None
    }
    names = (path for path in nifti(folder, "**/*") if re.search(r"^flair|[_-](flair|t2f)", stem(path), re.IGNORECASE))
    names = (path for path in names if path.resolve() not in used and not re.search("gold|mask|seg|_gt", stem(path), re.IGNORECASE))
    return [path for path in names if path.resolve() not in taken]


def _riddle(root: Path) -> str:
    looked = "\n".join(f"  {name:<12} {layout.signs}" for name, layout in LAYOUTS.items())
    return (
        f"{root}: cannot tell its layout. Looked for:\n{looked}\n  {'dicom':<12} {DICOM_SIGNS}\n"
        f"Anything else: write {NAME}, one row per scan with the columns patient, flair, lesion "
        "(all columns: model/training/layouts/manifest.py)."
    )


def is_dicom(root: Path) -> bool:
    """Whether a file under this folder starts as DICOM files do (PS3.10 7.1)."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix not in {".gz", ".nii", ".json", ".csv", ".tsv"}:
            with path.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    return True
    return False

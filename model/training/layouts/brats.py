"""BraTS, 2017 to 2024: brain-extracted glioma scans, one folder each; the whole tumour is every label but the resection cavity.

References
----------
Menze 2015, doi:10.1109/TMI.2014.2377694; de Verdier 2024, arXiv:2405.18368 (after treatment: label 4 is the resection cavity).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from model.training.layouts.case import Case
from model.training.layouts.names import one_nifti

# until 2021 enhancing tumour is 4 (3 in files before 2017); from 2023 on it is 3, and 4 the cavity
_UNTIL_2021 = (1, 2, 3, 4)
_FROM_2023 = (1, 2, 3)
_CAVITY = (4,)
_NEW_NAME = re.compile(r"(?P<patient>BraTS-[A-Za-z]+-\d+)-(?P<session>\d+)")
_OLD_SITE = re.compile(r"Brats1[789]_(?P<site>[A-Za-z]*\d*?)_[A-Za-z0-9]+_\d+", re.IGNORECASE)


def brats(root: Path) -> Iterator[Case]:
    """`NAME/NAME_flair` + `NAME_seg` (2017 to 2021, also under HGG and LGG), `NAME/NAME-t2f` + `NAME-seg` (2023, 2024)."""
    for folder in sorted((path for path in (*root.glob("*"), *root.glob("[HL]GG/*")) if path.is_dir()), key=lambda path: path.name):
        if case := _old(folder) or _new(folder):
            yield case


def _old(folder: Path) -> Case | None:
    flair, truth = one_nifti(folder, "*_flair"), one_nifti(folder, "*_seg")
    if flair is None or truth is None:
        return None
    site = _OLD_SITE.fullmatch(folder.name)
    return Case(
        folder.name,
        f"brats/{folder.name}",
        "1",
        flair,
        site=site["site"] if site else "",
        tumour=truth,
        tumour_values=_UNTIL_2021,
        extracted=True,
    )


def _new(folder: Path) -> Case | None:
    flair, truth = one_nifti(folder, "*-t2f"), one_nifti(folder, "*-seg")
    if flair is None or truth is None:
        return None
    name = _NEW_NAME.fullmatch(folder.name)
    patient, session = (name["patient"], name["session"]) if name else (folder.name, "1")
    return Case(
        folder.name,
        f"brats/{patient}",
        session,
        flair,
        tumour=truth,
        tumour_values=_FROM_2023,
        other_values=_CAVITY,
        extracted=True,
    )

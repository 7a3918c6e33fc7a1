"""Names of NIfTI files, packed or not."""

from __future__ import annotations

from pathlib import Path

ENDINGS = (".nii.gz", ".nii")


def stem(path: Path) -> str:
    """The file's name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def nifti(folder: Path, pattern: str) -> list[Path]:
    """Files of this pattern (without ending), sorted; the packed one where a scan lies there both ways."""
    found: dict[Path, Path] = {}
    for ending in ENDINGS:
        for path in folder.glob(pattern + ending):
            found.setdefault(path.with_name(stem(path)), path)
    return [found[key] for key in sorted(found)]


def one_nifti(folder: Path, pattern: str) -> Path | None:
    """The one file of this pattern, None where there is none or several."""
    found = nifti(folder, pattern)
    return found[0] if len(found) == 1 else None

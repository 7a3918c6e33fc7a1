"""Where annotated scans lie on disk: one small adapter per folder layout, all giving `Case`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from model.volume import Volume

Mask = npt.NDArray[np.bool_]


class UnusableCase(Exception):
    """A mask does not fit its scan, or holds what nobody declared."""


@dataclass(frozen=True)
class Case:
    """One annotated scan: files only, read when needed.

    Attributes
    ----------
    lesion, tumour : mask files on the scan's grid, non-zero = label; None = this scan says nothing about that head
    changed : mask file in the common space of `brain_transform`: lesions that differ from another visit's; where the scan is bright, lesion
    brain : mask file; with `brain_transform` (SimpleITK) it lies in another space and is carried over
    extracted : the scan is brain-extracted, so its non-zero voxels, filled, are the brain
    healthy_tumour : nobody in this data set has a tumour, so the tumour head learns background from it
    """

    id: str
    patient: str
    session: str
    flair: Path
    lesion: Path | None = None
    tumour: Path | None = None
    changed: Path | None = None
    brain: Path | None = None
    brain_transform: Path | None = None
    extracted: bool = False
    healthy_tumour: bool = False
    notes: tuple[str, ...] = field(default=())


def read_volume(path: Path) -> Volume:
    """A NIfTI file as a float32 `Volume` in RAS millimetres.

    Raises
    ------
    UnusableCase
        Not three-dimensional, or not finite.
    """
    image = nibabel.load(path)
    data = np.asarray(image.dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    if data.ndim != 3:
        raise UnusableCase(f"{path}: {data.ndim} dimensions, expected 3")
    if not np.isfinite(data).all():
        raise UnusableCase(f"{path}: holds values that are not finite")
    return Volume(data, np.asarray(image.affine, dtype=np.float64))  # type: ignore[attr-defined]


def read_mask(path: Path, like: Volume) -> Mask:
    """A mask that must lie on its scan's grid.

    Raises
    ------
    UnusableCase
        Another shape, or an affine that differs by more than 0.1 mm or 0.01 mm/voxel.
    """
    mask = read_volume(path)
    if mask.shape != like.shape:
        raise UnusableCase(f"{path}: shape {mask.shape}, the scan has {like.shape}")
    if not np.allclose(mask.affine_ras, like.affine_ras, atol=0.1):
        raise UnusableCase(f"{path}: lies on another grid than its scan")
    return np.asarray(np.asarray(mask.data, np.float32) > 0.5)


def carried(case: Case, path: Path) -> Mask:
    """A mask of the common space on the grid of a raw scan."""
    import SimpleITK  # only this data set needs it

    scan = SimpleITK.ReadImage(str(case.flair))
    mask = SimpleITK.Resample(
        SimpleITK.ReadImage(str(path)),
        scan,
        SimpleITK.ReadTransform(str(case.brain_transform)).GetInverse(),  # the file maps common space to scan
        SimpleITK.sitkNearestNeighbor,
    )
    return np.asarray(SimpleITK.GetArrayFromImage(mask).transpose(2, 1, 0) > 0)


def brats(root: Path) -> Iterator[Case]:
    """BraTS 2021 and 2023 names; whole tumour = any label."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        flair = [*folder.glob("*_flair.nii.gz"), *folder.glob("*-t2f.nii.gz")]
        truth = [*folder.glob("*_seg.nii.gz"), *folder.glob("*-seg.nii.gz")]
        if len(flair) == 1 and len(truth) == 1:
            yield Case(folder.name, f"brats/{folder.name}", "1", flair[0], tumour=truth[0], extracted=True)


def mslesseg(root: Path) -> Iterator[Case]:
    """MSLesSeg: train/P14/T1/P14_T1_FLAIR.nii.gz."""
    for flair in sorted(root.glob("train/*/*/*_FLAIR.nii.gz")):
        patient, session = flair.parts[-3], flair.parts[-2]
        mask = flair.with_name(flair.name.replace("FLAIR", "MASK"))
        identifier = f"mslesseg-{patient}-{session}"
        yield Case(identifier, f"mslesseg/{patient}", session, flair, lesion=mask, extracted=True, healthy_tumour=True)


def open_ms_mni(root: Path) -> Iterator[Case]:
    """Open MS data, cross-sectional, in MNI space: only patients whose FLAIR is there."""
    for folder in sorted((root / "cross_sectional" / "MNI").glob("patient*")):
        flair, mask = list(folder.glob("FLAIR_*.nii.gz")), list(folder.glob("GOLD_STANDARD_*.nii.gz"))
        if flair and mask:
            number = folder.name.removeprefix("patient")
            name = f"open_ms-{number}"
            yield Case(name, f"open_ms/{number}", "1", flair[0], lesion=mask[0], extracted=True, healthy_tumour=True)


def open_ms_shapes(root: Path) -> dict[str, Path]:
    """Lesion masks of the same set by patient number, with or without a FLAIR beside them: shapes to paint with."""
    found = sorted((root / "cross_sectional" / "MNI").glob("patient*/GOLD_STANDARD_*.nii.gz"))
    return {path.parent.name.removeprefix("patient"): path for path in found}


def open_ms_raw(root: Path) -> Iterator[Case]:
    """Open MS data, longitudinal: raw whole heads in thick slices; the brain is known, of the lesions only those that changed."""
    for flair in sorted((root / "longitudinal").glob("patient*/study*_FLAIR.nii.gz")):
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


LAYOUTS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "brats": brats,
    "mslesseg": mslesseg,
    "open_ms_mni": open_ms_mni,
    "open_ms_raw": open_ms_raw,
}


def find_cases(layout: str, root: Path) -> list[Case]:
    """All cases of one folder.

    Raises
    ------
    UnusableCase
        Unknown layout, or nothing found.
    """
    if layout not in LAYOUTS:
        raise UnusableCase(f"unknown layout {layout!r}; known: {', '.join(sorted(LAYOUTS))}")
    cases = list(LAYOUTS[layout](root)) if root.is_dir() else []
    if not cases:
        raise UnusableCase(f"{root}: no scan of layout {layout!r} found")
    return cases

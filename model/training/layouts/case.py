"""One annotated scan as files, and how its scan and masks are read: on one grid, with labels somebody declared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import numpy.typing as npt

from model.volume import Volume

Mask = npt.NDArray[np.bool_]
Role = Literal["lesion", "tumour", "ignore", "second"]
ROLES: tuple[Role, ...] = ("lesion", "tumour", "ignore")


class UnusableCase(Exception):
    """A scan or a mask cannot be trained on: another grid, labels nobody declared, not finite, not found."""


@dataclass(frozen=True)
class Case:
    """One annotated scan: files only, read when needed.

    Attributes
    ----------
    channel : of a four-dimensional file, which volume is the FLAIR; None = the file holds the FLAIR alone
    lesion, tumour : mask files on the scan's grid; None = this scan says nothing about that head
    ignore : mask file on the scan's grid: the lesion head learns nothing there
    second : a second rater's lesion mask
    raters : where `lesion` is a consensus, the masks it was made from
    lesion_values, tumour_values, ignore_values : the labels in that file that are meant; none given = the file holds one label
    other_values : labels that are known and mean background
    changed : mask file in the common space of `brain_transform`: lesions that differ from another visit's; where the scan is bright, lesion
    brain : mask file; with `brain_transform` (SimpleITK) it lies in another space and is carried over
    extracted : the scan is brain-extracted, so its non-zero voxels, filled, are the brain
    healthy_tumour : nobody in this data set has a tumour, so the tumour head learns background from it
    provenance : where the labels come from, for the release card
    notes : what a person should know about how the files were read
    """

    id: str
    patient: str
    session: str
    flair: Path
    site: str = ""
    channel: int | None = None
    lesion: Path | None = None
    tumour: Path | None = None
    ignore: Path | None = None
    second: Path | None = None
    raters: tuple[Path, ...] = ()
    lesion_values: tuple[int, ...] = ()
    tumour_values: tuple[int, ...] = ()
    ignore_values: tuple[int, ...] = ()
    other_values: tuple[int, ...] = ()
    changed: Path | None = None
    brain: Path | None = None
    brain_transform: Path | None = None
    extracted: bool = False
    healthy_tumour: bool = False
    provenance: str = ""
    notes: tuple[str, ...] = field(default=())

    def values(self, role: Role) -> tuple[int, ...]:
        """The labels meant by a role; a second rater labels as the first."""
        named = {"lesion": self.lesion_values, "tumour": self.tumour_values, "ignore": self.ignore_values, "second": self.lesion_values}
        return named[role]

    def path(self, role: Role) -> Path | None:
        """The file of a role."""
        return {"lesion": self.lesion, "tumour": self.tumour, "ignore": self.ignore, "second": self.second}[role]

    def declared(self, role: Role) -> tuple[int, ...]:
        """Every label that the file of this role may hold: its own, those of other roles in the same file, and known background."""
        path = self.lesion if role == "second" else self.path(role)
        same = [other for other in ROLES if self.path(other) == path]
        return tuple(sorted({*self.values(role), *(value for other in same for value in self.values(other)), *self.other_values}))


def read_volume(path: Path, channel: int | None = None) -> Volume:
    """A NIfTI file as a float32 `Volume` in RAS millimetres.

    Parameters
    ----------
    channel : which volume of a four-dimensional file

    Raises
    ------
    UnusableCase
        Missing or unreadable, not three-dimensional, or not finite.
    """
    try:
        image = nibabel.load(path)
        stored = image.dataobj  # type: ignore[attr-defined]
        if channel is not None and (len(stored.shape) != 4 or channel >= stored.shape[3]):
            raise UnusableCase(f"{path}: shape {stored.shape} has no volume {channel}")
        data = np.asarray(stored if channel is None else stored[..., channel], dtype=np.float32)
    except FileNotFoundError:
        raise UnusableCase(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise UnusableCase(f"{path}: not readable as NIfTI ({error})") from None
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        hint = "; a manifest.csv can say which volume is the FLAIR (column channel)" if data.ndim == 4 else ""
        raise UnusableCase(f"{path}: {data.ndim} dimensions, expected 3{hint}")
    if not np.isfinite(data).all():
        raise UnusableCase(f"{path}: holds {np.count_nonzero(~np.isfinite(data))} values that are not finite")
    return Volume(data, np.asarray(image.affine, dtype=np.float64))  # type: ignore[attr-defined]


def read_scan(case: Case) -> Volume:
    """The FLAIR of a case; raises `UnusableCase` as `read_volume`."""
    return read_volume(case.flair, case.channel)


def read_mask(path: Path, like: Volume, values: Sequence[int] = (), declared: Sequence[int] = ()) -> Mask:
    """A mask that must lie on its scan's grid.

    Parameters
    ----------
    values : the labels that count; none = whatever single label the file holds
    declared : every label the file may hold, where it may hold several

    Raises
    ------
    UnusableCase
        Another shape, an affine that differs by more than 0.1 mm or 0.01 mm/voxel, or labels nobody declared.
    """
    mask = read_volume(path)
    if mask.shape != like.shape:
        raise UnusableCase(f"{path}: shape {mask.shape}, the scan has {like.shape}")
    off_mm = farthest_apart_mm(mask, like)
    if off_mm > 0.1:
        raise UnusableCase(f"{path}: lies on another grid than its scan, {off_mm:.1f} mm apart at the farthest corner")
    data = np.asarray(mask.data, np.float32)
    found = np.unique(data[data != 0])
    if not np.array_equal(found, np.rint(found)):
        if found.min() < 0 or found.max() > 1:
            raise UnusableCase(f"{path}: holds {found[found != np.rint(found)][0]:g}, which is neither a label nor a probability")
        return np.asarray(data > 0.5)
    demand_declared(path, [int(value) for value in found], declared or values)
    return np.isin(data, list(values)) if values else np.asarray(data != 0)


def demand_declared(path: Path, found: Sequence[int], declared: Sequence[int]) -> None:
    """Refuse labels nobody declared; where none is declared, one label is a mask and two are a riddle."""
    strange = [value for value in found if value not in declared] if declared else found
    if declared and strange:
        named = ", ".join(map(str, strange))
        raise UnusableCase(f"{path}: labels nobody declared: {named} (declared: {', '.join(map(str, declared))})")
    if not declared and (len(found) > 1 or any(value < 0 for value in found)):
        raise UnusableCase(f"{path}: labels nobody declared: {', '.join(map(str, found))}; a manifest.csv can say what each one means")


def farthest_apart_mm(one: Volume, other: Volume) -> float:
    """How far the corners of two grids of one shape lie apart, at most."""
    corners = np.asarray([[i, j, k, 1] for i in (0, one.shape[0] - 1) for j in (0, one.shape[1] - 1) for k in (0, one.shape[2] - 1)], float)
    return float(np.linalg.norm((corners @ (one.affine_ras - other.affine_ras).T)[:, :3], axis=1).max())


def read_role(case: Case, role: Role, scan: Volume) -> Mask | None:
    """The mask of a role on the scan's grid, None where the case has none; raises `UnusableCase` as `read_mask`."""
    path = case.path(role)
    return None if path is None else read_mask(path, scan, case.values(role), case.declared(role))


def read_brain(case: Case, scan: Volume) -> Mask | None:
    """The brain mask that comes with a case."""
    if case.brain is None:
        return None
    return carried(case, case.brain) if case.brain_transform is not None else read_mask(case.brain, scan)


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


def demand_apart(train: Sequence[Case], test: Sequence[Case]) -> None:
    """Refuse a patient, or a scan's file, that is both trained on and tested on.

    Raises
    ------
    UnusableCase
        Names them.
    """
    both = sorted({case.patient for case in train} & {case.patient for case in test})
    if both:
        raise UnusableCase(f"in training and test at once: {', '.join(both)}")
    scans: dict[tuple[Path, int | None], list[str]] = defaultdict(list)
    for case in (*train, *test):
        scans[case.flair.resolve(), case.channel].append(case.patient)
    twice = [f"{path} ({' and '.join(sorted(set(patients)))})" for (path, _), patients in scans.items() if len(set(patients)) > 1]
    if twice:
        raise UnusableCase(f"one scan under two patients: {'; '.join(twice)}")

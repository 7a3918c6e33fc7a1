"""Scans somebody wants measured: annotated folders in any layout training knows, NIfTI files, DICOM series; and what is known of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.training.layouts import Case, Mask, UnusableCase, known_layouts, not_taken, read_role, read_scan
from model.volume import Volume
from service.errors import Rejected
from worker import convert
from worker.frames import Limits
from worker.pipeline import read_nifti

Choose = Callable[[Path], tuple[Sequence[Path], Sequence[str]]]

ENDINGS = (".nii.gz", ".nii")
LESIONS = frozenset({"mask", "lesion", "lesions"})
NO_SCANS = frozenset({"seg", "gt", "gold", "brainmask", "label", "labels"})  # masks, but of what is not said


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume, the flags its headers raise, and what is known of it, on its grid; None where nobody said anything.

    Attributes
    ----------
    ignore : where nobody says what is lesion and what is not
    """

    volume: Volume
    flags: tuple[str, ...]
    lesion: Mask | None
    tumour: Mask | None
    ignore: Mask | None


def find_scans(*folders: Path) -> list[Case]:
    """Find every scan, named by its path; `flair` is a file or, for a DICOM series, its folder.

    A folder in a layout of `leukoscope train data` is read as that layout. Elsewhere, at any depth, every NIfTI file is a scan and
    `X_mask.nii.gz` (or lesion, lesions) the mask of `X` or `X_flair`; files named as other masks are passed over.

    Raises
    ------
    Rejected
        There is none, or a manifest cannot be read.
    """
    base = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    try:
        found = {(case.flair, case.channel): case for folder in folders for case in _find(folder.absolute())}
    except UnusableCase as error:
        raise Rejected(str(error)) from error
    if not found:
        raise Rejected(f"{', '.join(map(str, folders))}: no NIfTI file and no DICOM file there")
    return [replace(case, id=os.path.relpath(case.flair, base)) for case in found.values()]


def _find(folder: Path) -> Iterator[Case]:
    known = [case for layout in known_layouts(folder) for case in layout.cases]
    if known:
        yield from known
        yield from (_plain(path, None) for path in not_taken(folder, known))
        yield from _series(path for path in folder.rglob("*") if path.is_file())
        return
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in inside if path.is_file()]
    images = [path for path in files if path.name.lower().endswith(ENDINGS)]
    masks = {_key(path): path for path in images if _words(path)[-1] in LESIONS}
    yield from (_plain(path, masks.get(_key(path))) for path in images if not _is_mask(path))
    yield from _series(files)
    for path in inside:
        if path.is_dir():
            yield from _find(path)


def _plain(path: Path, lesion: Path | None) -> Case:
    return Case(str(path), str(path), "1", path, lesion=lesion)


def _series(files: Iterator[Path] | Sequence[Path]) -> Iterator[Case]:
    """Every folder that holds DICOM files."""
    folders = sorted({path.parent for path in files if not path.name.lower().endswith(ENDINGS) and _is_dicom(path)})
    yield from (_plain(folder, None) for folder in folders)


def _words(path: Path) -> list[str]:
    return path.name.lower().removesuffix(".gz").removesuffix(".nii").replace("-", "_").split("_")


def _is_mask(path: Path) -> bool:
    words = _words(path)
    return words[-1] in LESIONS | NO_SCANS or words[0] in NO_SCANS


def _key(path: Path) -> tuple[str, ...]:
    """The name without what says mask or FLAIR."""
    return tuple(word for word in _words(path) if word not in {*LESIONS, "flair"})


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_case(case: Case, choose: Choose, limits: Limits = Limits()) -> Scan:
    """Read a scan as the service does, and its masks as training does.

    Parameters
    ----------
    choose : gives the files of the one series of a DICOM folder that is to be segmented, and the flags they raise, or raises Rejected
    limits : what a scan may be at most, and a series must be at least

    Raises
    ------
    Rejected
        The scan is not for the service, or a mask is on another grid, or holds labels nobody declared. Never retried.
    """
    if case.flair.is_dir():
        files, doubts = choose(case.flair)
        series = convert.read_series(files, limits)
        return Scan(series.volume, tuple(dict.fromkeys((*doubts, *series.quality))), None, None, None)
    try:
        volume = read_nifti(case.flair, limits) if case.channel is None else read_scan(case)
        lesion, tumour, ignore = (read_role(case, role, volume) for role in ("lesion", "tumour", "ignore"))
    except UnusableCase as error:
        raise Rejected(str(error)) from error
    return Scan(volume, (), lesion, tumour, ignore)

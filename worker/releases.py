"""Releases looked at by an administrator: does one still find what its card says, and what would change with another one?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from model import postprocess, predict, preprocess
from model.engine import Engine
from model.phantom import make_phantom
from model.postprocess import LESION, TUMOUR_LIKE
from model.release import Release
from model.volume import UnusableVolume, Volume
from service.errors import Rejected
from worker import convert
from worker.pipeline import read_nifti

Mask = npt.NDArray[np.bool_]

DEMO_SEED = 3
VOLUME_SHARE, VOLUME_ML = 0.02, 0.05  # what engines may differ by in a phantom's lesion volume
ENDINGS = (".nii.gz", ".nii")
MASKS = ("mask", "lesion", "lesions")


@dataclass(frozen=True)
class Found:
    """What one release makes of one case."""

    lesion_ml: float
    tumour_like_ml: float
    seconds: float
    dice: float | None


@dataclass(frozen=True)
class Compared:
    """One case under two releases; `agreement` is the Dice of the two lesion masks, `problem` why there is nothing to compare."""

    case: str
    first: Found | None = None
    second: Found | None = None
    agreement: float | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """A NIfTI file, or a folder of DICOM files, and its lesion mask if there is one."""

    name: str
    path: Path
    mask: Path | None


def find_cases(folder: Path) -> list[Case]:
    """NIfTI scans at any depth and folders of other files; `X_mask.nii.gz` (or lesion, lesions) is the mask of `X` or `X_flair`.

    Raises
    ------
    Rejected
        There is none.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    scans = [path for path in files if path.name.lower().endswith(ENDINGS)]
    masks = {(path.parent, _key(path)): path for path in scans if _is_mask(path)}
    cases = [Case(str(p.relative_to(folder)), p, masks.get((p.parent, _key(p)))) for p in scans if not _is_mask(p)]
    series = sorted({path.parent for path in files if path not in set(scans) and _is_dicom(path)})
    cases += [Case(str(path.relative_to(folder)), path, None) for path in series]
    if not cases:
        raise Rejected(f"{folder}: no NIfTI file and no DICOM file there")
    return cases


def _words(path: Path) -> list[str]:
    return path.name.lower().removesuffix(".gz").removesuffix(".nii").replace("-", "_").split("_")


def _is_mask(path: Path) -> bool:
    return _words(path)[-1] in MASKS


def _key(path: Path) -> tuple[str, ...]:
    """The name without what says mask or FLAIR."""
    return tuple(word for word in _words(path) if word not in {*MASKS, "flair"})


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def compare(
    cases: Sequence[Case],
    releases: tuple[Release, Release],
    engines: tuple[Engine, Engine],
    choose: Callable[[Path], Sequence[Path]],
) -> Iterator[Compared]:
    """Serve every case with both releases, one case after the other; a case that cannot be served says why and stops nothing.

    Parameters
    ----------
    choose : gives the files of the one series of a DICOM folder that is to be segmented, or raises Rejected
    """
    for case in cases:
        try:
            yield _compare_one(case, releases, engines, choose)
        except (Rejected, UnusableVolume) as error:
            yield Compared(case.name, problem=str(error))


def _compare_one(
    case: Case, releases: tuple[Release, Release], engines: tuple[Engine, Engine], choose: Callable[[Path], Sequence[Path]]
) -> Compared:
    volume = convert.read_series(choose(case.path)).volume if case.path.is_dir() else read_nifti(case.path)
    truth = None if case.mask is None else _read_mask(case.mask, volume)
    found, masks = [], []
    for release, engine in zip(releases, engines, strict=True):
        began = time.perf_counter()
        labels = _labels(volume, release, engine)
        seconds = time.perf_counter() - began
        lesion = labels == LESION
        masks.append(lesion)
        tumour_ml = float(np.count_nonzero(labels == TUMOUR_LIKE)) * volume.voxel_ml
        known = None if truth is None else dice(truth, lesion)
        found.append(Found(_ml(lesion, volume), round(tumour_ml, 3), round(seconds, 2), known))
    return Compared(case.name, found[0], found[1], dice(masks[0], masks[1]))


def _read_mask(path: Path, volume: Volume) -> Mask:
    mask = read_nifti(path)
    if mask.shape != volume.shape or not np.allclose(mask.affine_ras, volume.affine_ras, atol=0.1):
        raise Rejected(f"{path.name}: lies on another grid than its scan")
    return np.asarray(np.asarray(mask.data, np.float32) > 0.5)


def _labels(volume: Volume, release: Release, engine: Engine) -> npt.NDArray[np.uint8]:
    inputs = preprocess.prepare(volume, release.card.input)
    return postprocess.masks(predict.probability(inputs, engine, release.card), inputs, release.card).labels


def _ml(mask: Mask, volume: Volume) -> float:
    return round(float(np.count_nonzero(mask)) * volume.voxel_ml, 3)


def dice(first: Mask, second: Mask) -> float | None:
    """2 |A and B| / (|A| + |B|); None where both are empty."""
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return round(2.0 * np.count_nonzero(first & second) / total, 4) if total else None


def check_phantom(release: Release, engine: Engine) -> tuple[float, float | None]:
    """Lesion volume in the demo's phantom now, and the one in the card (None where the card has none).

    Raises
    ------
    Rejected
        They differ by more than engines do: this is not the release that was measured, or not the code that measured it.
    """
    scan = make_phantom(seed=DEMO_SEED).flair
    found = _ml(_labels(scan, release, engine) == LESION, scan)
    recorded = [row for name, row in release.card.figures.get("phantoms", {}).items() if name.startswith(f"phantom-{DEMO_SEED} ")]
    said = float(recorded[0]["lesion_ml"]) if recorded else None
    if said is not None and abs(found - said) > max(VOLUME_ML, VOLUME_SHARE * said):
        raise Rejected(f"{release.card.name} {release.card.version}: {found:.3f} ml of lesion in the phantom, the card says {said:.3f} ml")
    return found, said


def tabulate(rows: Sequence[Compared], names: tuple[str, str]) -> Table:
    """A line for every case and the means at the end, for the terminal."""
    table = Table("case", *(f"{what} {name}" for what in ("Dice", "ml", "s") for name in names), "difference ml", "Dice of the two")
    for row in rows:
        if row.first is None or row.second is None:
            table.add_row(row.case, row.problem, *[""] * 7)
            continue
        pair = (row.first, row.second)
        values = (*(one.dice for one in pair), *(one.lesion_ml for one in pair), *(one.seconds for one in pair))
        table.add_row(row.case, *map(_said, (*values, row.second.lesion_ml - row.first.lesion_ml, row.agreement)))
    pairs = [(row.first, row.second) for row in rows if row.first is not None and row.second is not None]
    scored = [[one.dice for one in pair] for pair in pairs if pair[0].dice is not None and pair[1].dice is not None]
    if scored:
        table.add_section()
        table.add_row(
            f"mean, n = {len(scored)} with a mask", *(_said(float(np.mean(column))) for column in zip(*scored, strict=True)), *[""] * 6
        )
    return table


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

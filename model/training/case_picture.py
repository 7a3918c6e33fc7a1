"""A picture of one case for a person who wants to know what is wrong: slices through the masks, and what was found."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.training.checks import Checked
from model.training.layouts import Mask, UnusableCase, read_scan, read_volume
from model.volume import Volume, canonical, resample

COLOURS = {"lesion": "lime", "second": "red", "tumour": "orange", "ignore": "cyan"}
COLUMNS = 4


def draw_case(checked: Checked, path: Path) -> bool:
    """Six axial slices, a sagittal and a coronal one, every mask where its own header puts it; False if the scan cannot be read."""
    from matplotlib.figure import Figure

    try:
        scan = canonical(_finite(checked))
    except (UnusableCase, np.linalg.LinAlgError):
        return False
    masks = {role: mask for role in COLOURS if (mask := _placed(checked, role, scan)) is not None}
    data = np.asarray(scan.data, np.float32)
    low, top = np.percentile(data, (1, 99.7))
    figure = Figure(figsize=(4 * COLUMNS, 9.2))
    panels = figure.subplots(2, COLUMNS)
    for panel, (axis, index) in zip(panels.flat, _slices(masks, data), strict=True):
        across, up = (one for one in range(3) if one != axis)
        aspect = float(scan.spacing_mm[up] / scan.spacing_mm[across])
        panel.imshow(np.take(data, index, axis).T, cmap="gray", origin="lower", vmin=low, vmax=max(top, low + 1e-6), aspect=aspect)
        for role, mask in masks.items():
            plane = np.take(mask, index, axis).T
            if plane.any():
                panel.contour(plane, [0.5], colors=COLOURS[role], linewidths=0.8)
        panel.axis("off")
    said = "\n".join(textwrap.wrap("; ".join(finding.text for finding in checked.findings), 150)[:3])
    legend = ", ".join(f"{role} {COLOURS[role]}" for role in masks)
    figure.suptitle(f"{checked.case.id}  ({checked.case.patient}, {checked.case.session})  {legend}\n{said}", fontsize=11)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60)
    return True


def _finite(checked: Checked) -> Volume:
    """The scan, also where it holds NaN: the holes are what a person looks for."""
    try:
        return read_scan(checked.case)
    except UnusableCase:
        import nibabel

        if not checked.case.flair.is_file():
            raise
        try:
            image = nibabel.load(checked.case.flair)
            data = np.nan_to_num(np.asarray(image.dataobj, np.float32), nan=0.0, posinf=0.0, neginf=0.0)  # type: ignore[attr-defined]
        except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError):
            raise UnusableCase("unreadable") from None
        if data.ndim != 3:
            raise
        return Volume(data, np.asarray(image.affine, np.float64))  # type: ignore[attr-defined]


def _placed(checked: Checked, role: str, scan: Volume) -> Mask | None:
    """A mask on the scan's grid by its own header, whether or not the grids are one."""
    path = getattr(checked.case, role)
    if path is None:
        return None
    try:
        mask = read_volume(path)
    except UnusableCase:
        return None
    values = {"lesion": checked.case.lesion_values, "second": checked.case.lesion_values, "tumour": checked.case.tumour_values}.get(
        role, checked.case.ignore_values
    )
    meant = np.isin(mask.data, list(values)) if values else np.asarray(mask.data, np.float32) > 0.5
    found: npt.NDArray[np.float32] = resample(mask.with_data(meant.astype(np.float32)), scan.affine_ras, scan.shape, "nearest")
    return np.asarray(found > 0.5)


def _slices(masks: dict[str, Mask], data: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """Six axial slices over the masks (or the scan), a sagittal and a coronal one through their middle."""
    marked = np.logical_or.reduce(list(masks.values())) if masks else np.zeros(data.shape, bool)
    if not marked.any():
        marked = data > np.percentile(data, 80)
    where = [np.flatnonzero(marked.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    axial = np.quantile(where[2], (0.1, 0.26, 0.42, 0.58, 0.74, 0.9)).astype(int)
    return [(2, int(index)) for index in axial] + [(0, int(np.quantile(where[0], 0.4))), (1, int(np.median(where[1])))]

"""What each arm found, on the same slices of the same scans. Which ones is decided by the reference alone, never by a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.postprocess import LESION, TUMOUR_LIKE
from model.training.charts import GREY, new_figure
from model.training.layouts import Case, Mask, read_role, read_scan
from model.training.results import Plan, Row, prediction_path, read_prediction
from model.training.tables import number, trained_on
from model.volume import Volume, canonical

REFERENCE, FOUND, TUMOUR = "#56B4E9", "#E69F00", "#CC79A7"
CHOICE = "Scans: those of the largest, median and smallest reference volume; slice: that with most reference lesion."
PADDING_MM = 6.0


@dataclass(frozen=True, eq=False)
class Scene:
    """One axial slice of a test scan, in radiological orientation: patient's right at the left, front at the top.

    Attributes
    ----------
    image, reference : (row, column)
    aspect : height of a voxel over its width
    """

    scan: str
    patient: str
    truth_ml: float
    image: npt.NDArray[np.float32]
    reference: Mask
    aspect: float
    grid: Volume
    index: int
    box: tuple[slice, slice]

    def cut(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The same piece of a label image on the scan's grid."""
        straight = canonical(self.grid.with_data(labels)).data
        return np.asarray(_radiological(straight[:, :, self.index])[self.box], np.uint8)


def choose_scans(rows: Sequence[Row], count: int = 3) -> list[str]:
    """Scans of different patients, from largest to smallest reference volume, evenly through the ranks; empty references come last."""
    largest: dict[str, tuple[float, str]] = {}
    for row in rows:
        largest[row.patient] = max(largest.get(row.patient, (-1.0, "")), (row.figures["truth_ml"], row.scan))
    ranked = sorted(largest.values(), key=lambda pair: (-pair[0], pair[1]))
    marked = [pair for pair in ranked if pair[0] > 0] or ranked
    ranks = np.linspace(0, len(marked) - 1, min(count, len(marked))).round().astype(int)
    return [marked[rank][1] for rank in ranks]


def read_scenes(cases: Mapping[str, Case], rows: Sequence[Row]) -> list[Scene]:
    """The slices that every figure shows."""
    return [_read_scene(name, cases[name]) for name in choose_scans(rows) if name in cases]


def _read_scene(name: str, case: Case) -> Scene:
    scan = read_scan(case)
    marked = read_role(case, "lesion", scan)
    lesion = np.zeros(scan.shape, bool) if marked is None else marked
    straight = np.asarray(canonical(scan).data, np.float32)
    reference = np.asarray(canonical(scan.with_data(lesion)).data, bool)
    per_slice = reference.sum(axis=(0, 1))
    index = int(per_slice.argmax()) if per_slice.any() else straight.shape[2] // 2
    image = _radiological(straight[:, :, index])
    spacing = canonical(scan).spacing_mm
    box = _head(image, spacing)
    top = float(np.percentile(straight[straight > 0], 99.7)) if (straight > 0).any() else 1.0
    return Scene(
        name,
        case.patient,
        float(lesion.sum()) * scan.voxel_ml,
        np.clip(image[box] / top, 0, 1),
        _radiological(reference[:, :, index])[box],
        float(spacing[1] / spacing[0]),
        scan,
        index,
        box,
    )


def _radiological(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return plane[::-1, ::-1].T


def _head(image: npt.NDArray[np.float32], spacing: npt.NDArray[np.float64]) -> tuple[slice, slice]:
    """The part of a slice that holds the head, with a margin."""
    seen = image > 0.05 * float(image.max(initial=0.0))
    box = []
    for axis, step in ((0, spacing[1]), (1, spacing[0])):
        where = np.flatnonzero(seen.any(axis=1 - axis))
        low, high = (int(where[0]), int(where[-1])) if where.size else (0, image.shape[axis] - 1)
        margin = round(PADDING_MM / float(step))
        box.append(slice(max(0, low - margin), min(image.shape[axis], high + margin + 1)))
    return box[0], box[1]


def draw_found(axes: Any, scene: Scene, labels: npt.NDArray[np.uint8] | None, reference: bool = True) -> None:
    """One slice: found lesion filled, tumour-like filled in another colour, the reference outlined."""
    from matplotlib.colors import ListedColormap

    axes.imshow(scene.image, cmap="gray", vmin=0, vmax=1, aspect=scene.aspect, interpolation="nearest")
    if labels is not None:
        piece = scene.cut(labels)
        for label, colour in ((LESION, FOUND), (TUMOUR_LIKE, TUMOUR)):
            layer = np.ma.masked_where(piece != label, np.ones(piece.shape))
            axes.imshow(layer, cmap=ListedColormap([colour]), alpha=0.6, aspect=scene.aspect, interpolation="nearest")
    if reference and scene.reference.any():
        axes.contour(scene.reference, [0.5], colors=REFERENCE, linewidths=1.1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def draw_arm(axes: Any, folder: Path, scene: Scene, arm: str, seed: int, rows: Sequence[Row]) -> None:
    """An arm's finding in a scene with its scores over the whole scan, or why there is none."""
    path = prediction_path(folder, arm, seed, scene.scan)
    row = next((row for row in rows if (row.arm, row.seed, row.scan) == (arm, seed, scene.scan)), None)
    if row is None or not path.is_file():
        draw_found(axes, scene, None, reference=False)
        axes.set_xlabel("not run" if row is None else "no prediction kept", color=GREY)
        return
    draw_found(axes, scene, read_prediction(path, scene.grid.shape))
    axes.set_xlabel(f"Dice {number(row.figures['dice'])}, {number(row.figures['found_ml'])} ml", labelpad=2)


def draw_grid(panels: Any, folder: Path, scenes: Sequence[Scene], arms: Sequence[str], seed: int, rows: Sequence[Row]) -> None:
    """Scans side by side, an arm per line; over it the scan, its reference volume and the patient."""
    for line, arm in enumerate(arms):
        for column, scene in enumerate(scenes):
            axes = panels[line][column]
            draw_arm(axes, folder, scene, arm, seed, rows)
            if line == 0:
                axes.set_title(f"{scene.patient}\nreference {number(scene.truth_ml)} ml")
            if column == 0:
                axes.set_ylabel(arm)
    _key(panels[0][0])


def _key(axes: Any) -> None:
    axes.text(0.03, 0.97, "R", color="white", fontsize=7, ha="left", va="top", transform=axes.transAxes)


def key_handles() -> list[Any]:
    """What the colours mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Line2D([], [], color=REFERENCE, label="reference (outline)"),
        Patch(color=FOUND, alpha=0.6, label="found: lesion"),
        Patch(color=TUMOUR, alpha=0.6, label="found: tumour-like"),
    ]


def make_paper_figure(folder: Path, plan: Plan, scenes: Sequence[Scene], arms: Sequence[str], rows: Sequence[Row], title: str) -> Any:
    """One of the two figures of the founding abstract."""
    figure = new_figure(max(2.3 * len(scenes), 4.6), 2.8 * len(arms) + 1.0)
    panels = figure.subplots(len(arms), len(scenes), squeeze=False)
    draw_grid(panels, folder, scenes, arms, plan.seeds[0], rows)
    for line, arm in zip(panels, arms, strict=True):
        line[0].set_ylabel(f"{arm}\ntarget patients (scans): {trained_on(plan, rows, arm)}")
    _frame(figure, plan, f"{title}: {counted(scenes, rows)}")
    return figure


def make_examples(folder: Path, plan: Plan, scenes: Sequence[Scene], rows: Sequence[Row]) -> Any:
    """Every arm side by side: a scan per line, the bare slice first."""
    figure = new_figure(1.4 * (len(plan.arms) + 1), 1.85 * len(scenes) + 0.8)
    panels = figure.subplots(len(scenes), len(plan.arms) + 1, squeeze=False)
    for line, scene in enumerate(scenes):
        draw_found(panels[line][0], scene, None, reference=False)
        panels[line][0].set_ylabel(f"{scene.patient}\nreference {number(scene.truth_ml)} ml")
        for column, arm in enumerate(plan.arms, start=1):
            draw_arm(panels[line][column], folder, scene, arm, plan.seeds[0], rows)
        for axes, name in zip(panels[line], ("FLAIR", *plan.arms), strict=True):
            if line == 0:
                axes.set_title(name)
    _key(panels[0][0])
    _frame(figure, plan, f"The same slices by every arm: {counted(scenes, rows)}")
    return figure


def counted(scenes: Sequence[Scene], rows: Sequence[Row]) -> str:
    """Of how many patients a scan is shown."""
    return f"n = {len(scenes)} of {len({row.patient for row in rows})} patients"


def _frame(figure: Any, plan: Plan, title: str) -> None:
    figure.suptitle(f"{title}, seed {plan.seeds[0]}")
    figure.legend(handles=key_handles(), loc="outside lower center", ncols=3, frameon=False)

"""Charts of an experiment: every patient's point, units on the axes, colours that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np

from model.training.results import Bin, Plan, Row
from model.training.statistics import Agreement, Reliability, Summary, bland_altman, reliability, summarise

# Okabe and Ito 2008, https://jfly.uni-koeln.de/color/, yellow left out: too pale on white
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
GREY = "#6e6e6e"
BOX_WIDTH = 0.56
DPI = 150


@dataclass(frozen=True)
class Metric:
    """A figure of `Scores` as readers know it."""

    key: str
    name: str
    unit: str = ""
    bounded: bool = True

    @property
    def label(self) -> str:
        """Name and unit, for an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


DICE = Metric("dice", "Dice")
LESION_F1 = Metric("lesion_f1", "Lesion-wise F1")
METRICS = (
    DICE,
    LESION_F1,
    Metric("sensitivity", "Sensitivity"),
    Metric("precision", "Precision"),
    Metric("hausdorff_mm", "Hausdorff distance", "mm", bounded=False),
    Metric("hausdorff95_mm", "Hausdorff distance, 95 %", "mm", bounded=False),
)


def colour_of(plan: Plan, arm: str) -> str:
    """The same colour for an arm in every chart."""
    return COLOURS[plan.arms.index(arm) % len(COLOURS)]


def marker_of(plan: Plan, arm: str) -> str:
    """The same marker for an arm in every chart."""
    return MARKERS[plan.arms.index(arm) % len(MARKERS)]


def draw_boxes(axes: Any, plan: Plan, arms: Sequence[str], rows: Sequence[Row], metric: Metric, ceiling: Mapping[str, float]) -> None:
    """Median, quartiles and range of each arm, every patient's point, thin lines joining a patient's points.

    Parameters
    ----------
    ceiling : agreement of two raters by patient, drawn as a column of its own; empty where nobody rated twice
    """
    summaries = {arm: summarise([row for row in rows if row.arm == arm], metric.key) for arm in arms}
    offsets = _offsets({row.patient for row in rows} | set(ceiling))
    _join_patients(axes, summaries, offsets)
    for place, (arm, summary) in enumerate(summaries.items()):
        if summary is None:
            words = "nothing to score" if any(row.arm == arm for row in rows) else "not run"
            axes.text(place, 0.5, words, rotation=90, ha="center", va="center", color=GREY, transform=axes.get_xaxis_transform())
        else:
            _box(axes, place, summary.points, offsets, colour_of(plan, arm), marker_of(plan, arm))
    ticks = [f"{_broken(arm)}\nn = {summary.n if summary else 0}" for arm, summary in summaries.items()]
    if ceiling:
        _box(axes, len(arms), ceiling, offsets, GREY, "X")
        axes.axhline(float(np.median(list(ceiling.values()))), color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        ticks.append(f"two\nraters\nn = {len(ceiling)}")
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    axes.set_ylabel(metric.label)
    if metric.bounded:
        axes.set_ylim(-0.03, 1.03)
    else:
        highest = max((max(summary.points.values()) for summary in summaries.values() if summary), default=0.0)
        axes.set_ylim(0, 1.06 * highest or 1.0)
    bare(axes)


def _broken(arm: str) -> str:
    """A long name on two lines, so that neighbours do not meet."""
    for sign in ("+", "-", " ", "_"):
        if len(arm) > 7 and sign in arm[1:]:
            head, tail = arm.split(sign, 1)
            return f"{head}{sign}\n{_broken(tail)}" if sign != " " else f"{head}\n{_broken(tail)}"
    return arm


def _offsets(patients: Iterable[str]) -> dict[str, float]:
    """Points side by side, the same patient at the same side in every column."""
    names = sorted(patients)
    steps = np.linspace(-0.17, 0.17, len(names)) if len(names) > 1 else [0.0]
    return {name: float(step) for name, step in zip(names, steps, strict=True)}


def _box(axes: Any, place: int, points: Mapping[str, float], offsets: Mapping[str, float], colour: str, marker: str) -> None:
    axes.boxplot(
        [list(points.values())],
        positions=[place],
        widths=BOX_WIDTH,
        whis=(0, 100),
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": colour, "alpha": 0.22, "edgecolor": colour},
        whiskerprops={"color": colour},
        capprops={"color": colour},
        medianprops={"color": "black", "linewidth": 1.6},
    )
    places = [place + offsets[patient] for patient in points]
    axes.scatter(places, points.values(), s=20, c="white", edgecolors=colour, marker=marker, linewidths=1.1, zorder=3)


def _join_patients(axes: Any, summaries: Mapping[str, Summary | None], offsets: Mapping[str, float]) -> None:
    where: dict[str, list[tuple[float, float]]] = {}
    for place, summary in enumerate(summaries.values()):
        for patient, offset in offsets.items():
            where.setdefault(patient, []).append((place + offset, summary.points.get(patient, nan) if summary else nan))
    for points in where.values():
        axes.plot(*zip(*points, strict=True), color=GREY, alpha=0.45, linewidth=0.6, zorder=2)


def draw_bland_altman(axes: Any, plan: Plan, arm: str, agreement: Agreement | None) -> None:
    """Difference against mean of found and true volume: small points per scan and seed, large ones per patient."""
    axes.set_xlabel("Mean of found and true volume (ml)")
    axes.set_ylabel("Found − true (ml)")
    bare(axes)
    if agreement is None:
        not_run(axes, arm)
        return
    colour = colour_of(plan, arm)
    _, means, differences = zip(*agreement.measurements, strict=True)
    axes.scatter(means, differences, s=7, c=colour, alpha=0.45, linewidths=0)
    x, y = zip(*agreement.patients.values(), strict=True)
    axes.scatter(x, y, s=30, c="white", edgecolors=colour, marker=marker_of(plan, arm), linewidths=1.2, zorder=3)
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.axhline(agreement.bias, color=colour, linewidth=1.3)
    title = f"{arm}: bias {signed(agreement.bias)} ml"
    if not isnan(agreement.limits[0]):
        for limit in agreement.limits:
            axes.axhline(limit, color=colour, linewidth=1, linestyle=(0, (4, 3)))
        title += f"\nlimits {signed(agreement.limits[0])} to {signed(agreement.limits[1])} ml"
    axes.set_title(f"{title}; n = {len(agreement.patients)}")
    axes.margins(0.12)


def draw_reliability(axes: Any, plan: Plan, arm: str, curve: Reliability | None) -> None:
    """Share of lesion voxels against predicted probability; thin lines per patient."""
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel("Predicted probability")
    axes.set_ylabel("Share that is lesion")
    bare(axes)
    if curve is None:
        not_run(axes, arm)
        return
    colour = colour_of(plan, arm)
    for probability, frequency in curve.patients.values():
        axes.plot(probability, frequency, color=colour, alpha=0.35, linewidth=0.7)
    axes.plot(curve.probability, curve.frequency, color=colour, marker=marker_of(plan, arm), markersize=4, linewidth=1.6, clip_on=False)
    above = (
        f"{np.mean(list(curve.error_above.values())):.3f} above the lowest bin" if curve.error_above else "no voxel above the lowest bin"
    )
    axes.set_title(f"{arm}; n = {len(curve.error)}\ncalibration error {np.mean(list(curve.error.values())):.3f},\n{above}")


def signed(value: float) -> str:
    """With a sign and a digit less from ten on, for differences."""
    return f"{value:+.{1 if abs(value) >= 10 else 2}f}".replace("-", "−")


def not_run(axes: Any, arm: str) -> None:
    """Say in an empty panel why it is empty."""
    axes.set_title(f"{arm}: n = 0")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "not run", ha="center", va="center", color=GREY, backgroundcolor="white", transform=axes.transAxes)


def bare(axes: Any) -> None:
    """No frame above and at the right, faint lines behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)


def make_boxes(plan: Plan, arms: Sequence[str], rows: Sequence[Row], ceiling: Mapping[str, float], title: str) -> Any:
    """Box plots of every figure, as a matplotlib figure."""
    figure = new_figure(max(7.6, 1.1 * (len(arms) + 1.5)), 8.2)
    for axes, metric in zip(figure.subplots(3, 2).flat, METRICS, strict=True):
        draw_boxes(axes, plan, arms, rows, metric, ceiling if metric is DICE else {})
    counts = (len({row.patient for row in rows}), len({row.scan for row in rows}), len(plan.seeds))
    figure.suptitle("{}; {} patients, {} scans, {} seeds".format(title, *counts))
    return figure


def make_bland_altman(plan: Plan, rows: Sequence[Row]) -> Any:
    """Bland-Altman of every main arm, on common axes."""
    figure, panels = _panels(plan)
    for axes, arm in zip(panels, plan.main, strict=True):
        draw_bland_altman(axes, plan, arm, bland_altman([row for row in rows if row.arm == arm]))
    return figure


def make_reliability(plan: Plan, bins: Sequence[Bin]) -> Any:
    """Reliability curve of every main arm."""
    figure, panels = _panels(plan)
    for axes, arm in zip(panels, plan.main, strict=True):
        draw_reliability(axes, plan, arm, reliability([b for b in bins if b.arm == arm]))
    return figure


def _panels(plan: Plan) -> tuple[Any, list[Any]]:
    columns = min(3, len(plan.main))
    lines = -(-len(plan.main) // columns)
    figure = new_figure(2.75 * columns, 2.9 * lines)
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[len(plan.main) :]:
        axes.axis("off")
    return figure, panels[: len(plan.main)]


def new_figure(width: float, height: float) -> Any:
    """A figure in inches, laid out so that nothing is cut off."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)
    return figure


def style() -> AbstractContextManager[None]:
    """Small type that stays readable on A4."""
    import matplotlib as mpl

    settings: Any = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "figure.titlesize": 10}
    context: AbstractContextManager[None] = mpl.rc_context(settings)
    return context

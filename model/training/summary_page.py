"""The experiment on one sheet of A4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill, wrap
from typing import Any

from model.training.charts import DICE, GREY, LESION_F1, METRICS, draw_bland_altman, draw_boxes, draw_reliability
from model.training.paper_figures import CHOICE, Scene, counted, draw_grid, key_handles
from model.training.results import Bin, Plan, Row
from model.training.statistics import bland_altman, reliability, summarise
from model.training.tables import (
    NOTES,
    VOLUME,
    comparisons,
    mean_text,
    median_text,
    negatives_text,
    of_arm,
    state_of,
    statement,
    tested_on,
    trained_on,
)

A4_INCHES = (8.27, 11.69)
HEAD_INCHES, CHARTS_INCHES, LINE_INCHES, NOTES_INCHES = 0.65, 2.2, 0.165, 0.85
HEAD = (
    "arm",
    "trained on:\npatients\n(scans)",
    "tested on:\npatients\n(scans) × seeds",
    "Dice\nmedian [IQR]",
    "Dice mean\n(95 % interval)",
)
HEAD_MORE = ("lesion-wise F1\nmedian [IQR]", "HD 95 %\n(mm)\nmedian", "volume diff.\n(ml)\nmedian")
PLACES = (0.0, 0.16, 0.245, 0.36, 0.515, 0.67, 0.825, 0.91)
POINTS = "Volume: large points are patients, small ones scans and seeds; line: bias, dashed: limits of agreement; scales differ."
HAUSDORFF95 = METRICS[-1]


def make_page(
    folder: Path, plan: Plan, scenes: Sequence[Scene], rows: Sequence[Row], bins: Sequence[Bin], scans: int, ceiling: Mapping[str, float]
) -> Any:
    """Slices and box plots above, agreement and calibration in the middle, numbers and words below."""
    from matplotlib.figure import Figure

    page: Any = Figure(figsize=A4_INCHES, layout="constrained")
    page.get_layout_engine().set(w_pad=0.03, h_pad=0.03, rect=(0.04, 0.025, 0.92, 0.955))
    said = _sentences(plan, rows)
    low = (LINE_INCHES * (len(plan.arms) + 3.4), LINE_INCHES * (len(said) + 0.6) + NOTES_INCHES)
    left = A4_INCHES[1] * 0.955 - HEAD_INCHES - CHARTS_INCHES - sum(low)
    head, slices, charts, table, words = page.subfigures(5, 1, height_ratios=(HEAD_INCHES, left, CHARTS_INCHES, *low))
    _draw_head(head, plan, rows)
    _draw_slices(slices, folder, plan, scenes, rows, ceiling)
    _draw_charts(charts, plan, rows, bins)
    _draw_table(table, plan, rows, scans)
    _draw_words(words, plan, said)
    return page


def _draw_head(part: Any, plan: Plan, rows: Sequence[Row]) -> None:
    axes = _blank(part)
    patients, scans = {row.patient for row in rows}, {row.scan for row in rows}
    axes.text(0, 0.95, plan.name, fontsize=15, fontweight="bold", va="top")
    question = (
        "Does pre-training on tumour scans help to segment white-matter hyper-intensities on FLAIR when few scans are annotated? "
        f"{len(patients)} test patients ({len(scans)} scans), {len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''}."
    )
    axes.text(0, 0.42, fill(question, 125), fontsize=8.5, va="top", color="#333333")


def _draw_slices(part: Any, folder: Path, plan: Plan, scenes: Sequence[Scene], rows: Sequence[Row], ceiling: Mapping[str, float]) -> None:
    left, right = part.subfigures(1, 2, width_ratios=(1.25, 1))
    left.suptitle(f"The same slices of the same scans; {counted(scenes, rows)}, seed {plan.seeds[0]}", fontsize=8)
    arms = [*plan.classical, plan.transfer]
    draw_grid(left.subplots(len(arms), len(scenes), squeeze=False), folder, scenes, arms, plan.seeds[0], rows)
    left.legend(handles=key_handles(), loc="outside lower center", ncols=3, frameon=False, fontsize=7, handlelength=1.2, columnspacing=1.0)
    right.suptitle("Every patient's point; box: median and quartiles", fontsize=8)
    for axes, metric in zip(right.subplots(2, 1), (DICE, LESION_F1), strict=True):
        draw_boxes(axes, plan, plan.main, rows, metric, ceiling if metric is DICE else {})
        axes.tick_params(axis="x", labelsize=6.5)


def _draw_charts(part: Any, plan: Plan, rows: Sequence[Row], bins: Sequence[Bin]) -> None:
    first, second, third = part.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
    for axes, arm in ((first, [*plan.classical, plan.transfer][0]), (second, plan.transfer)):
        draw_bland_altman(axes, plan, arm, bland_altman(of_arm(rows, arm)))
    draw_reliability(third, plan, plan.transfer, reliability([one for one in bins if one.arm == plan.transfer]))


def _draw_table(part: Any, plan: Plan, rows: Sequence[Row], scans: int) -> None:
    axes = _blank(part)
    step = 1 / (len(plan.arms) + 3.2)
    for place, text in zip(PLACES, (*HEAD, *HEAD_MORE), strict=True):
        axes.text(place, 1 - 1.4 * step, text, fontsize=6.5, fontweight="bold", va="center")
    axes.axhline(1 - 2.8 * step, color="black", linewidth=0.8)
    for line, arm in enumerate(plan.arms):
        height = 1 - (line + 3.5) * step
        for place, text in zip(PLACES, _cells(plan, rows, scans, arm), strict=False):
            axes.text(place, height, text, fontsize=6.8, va="center", color="black" if of_arm(rows, arm) else GREY)


def _cells(plan: Plan, rows: Sequence[Row], scans: int, arm: str) -> list[str]:
    own, state = of_arm(rows, arm), state_of(plan, rows, scans, arm)
    if not own:
        return [arm, str(state)]
    dice, others = summarise(own, DICE.key), [summarise(own, metric.key) for metric in (HAUSDORFF95, VOLUME)]
    name = arm if state.done >= state.wanted else f"{arm}*"
    short = [median_text(one).split(" [")[0] for one in others]
    return [
        name,
        trained_on(plan, rows, arm),
        tested_on(own),
        median_text(dice),
        mean_text(dice),
        median_text(summarise(own, LESION_F1.key)),
        *short,
    ]


def _sentences(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """What is said of the numbers, a line each."""
    said = [statement(one) for one in comparisons(plan, rows)] or ["No comparison was declared, so nothing was tested."]
    if any(row.figures["truth_ml"] == 0 for row in rows):
        found = ", ".join(f"{arm} {negatives_text(of_arm(rows, arm))}" for arm in plan.main if of_arm(rows, arm))
        said.append(f"Runs on scans without lesion in which none was found: {found}.")
    return [line for one in said for line in wrap(one, 135, subsequent_indent="    ")]


def _draw_words(part: Any, plan: Plan, said: Sequence[str]) -> None:
    axes = _blank(part)
    axes.text(0, 1.0, "\n".join(said), fontsize=7.5, va="top", linespacing=1.35)
    notes = " ".join([*NOTES, f"Slices: seed {plan.seeds[0]}. {CHOICE}", POINTS, "* unfinished; see table.md."])
    axes.text(0, 0.0, fill(notes, 190), fontsize=5.8, va="bottom", color="#444444", linespacing=1.25)


def _blank(part: Any) -> Any:
    axes = part.subplots()
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return axes

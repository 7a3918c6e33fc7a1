"""Tables, figures and the one-page summary of an experiment, from the files it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.training.arms import TARGET, ExperimentConfig
from model.training.charts import DPI, make_bland_altman, make_boxes, make_reliability, style
from model.training.paper_figures import Scene, make_examples, make_paper_figure, read_scenes
from model.training.results import RESULTS, Bin, Plan, Row, UnusableResults, rater_agreement, read_cases, read_reliability, read_results
from model.training.summary_page import make_page
from model.training.tables import write_tables

CLASSICAL, TRANSFER = ("scratch", "source-only"), "transfer"


def write_summary(folder: Path, config: ExperimentConfig) -> list[Path]:
    """Write table.md, figures/*.png and summary.pdf beside results.csv, and say where they are.

    An arm that did not run, or not to its end, is shown as such. The same files give the same tables and pictures.

    Raises
    ------
    UnusableResults
        results.csv, reliability.csv or cases.json is missing, empty or damaged.
    """
    plan = plan_of(config)
    rows, bins, cases = read_results(folder), read_reliability(folder), read_cases(folder)
    if not rows:
        raise UnusableResults(f"{folder / RESULTS}: holds no result; run the experiment first")
    ceiling = rater_agreement(cases.values())
    scenes = read_scenes(cases, rows)
    table = folder / "table.md"
    table.write_text(write_tables(plan, rows, bins, len(cases), ceiling), encoding="utf-8")
    with style():
        pictures = _draw(folder, plan, rows, bins, scenes, ceiling)
        page = folder / "summary.pdf"
        drawn = make_page(folder, plan, scenes, rows, bins, len(cases), ceiling)
        drawn.savefig(page, metadata={"Title": plan.name, "Creator": "Leukoscope", "CreationDate": None})
    return [table, *pictures, page]


def plan_of(config: ExperimentConfig) -> Plan:
    """What the configuration promises; where it names no arms for the two figures, those of the founding abstract, else first and last."""
    main = [arm for arm in config.arms if arm not in config.ablations] or list(config.arms)
    transfer = config.transfer or (TRANSFER if TRANSFER in main else main[-1])
    classical = config.classical or tuple(arm for arm in CLASSICAL if arm in main) or tuple(main[:1])
    return Plan(
        config.name,
        tuple(config.arms),
        config.seeds,
        config.comparisons,
        tuple(arm for arm in classical if arm != transfer),
        transfer,
        config.ablations,
        tuple(arm for arm in config.arms if TARGET not in config.kinds(arm)),
    )


def _draw(
    folder: Path, plan: Plan, rows: Sequence[Row], bins: Sequence[Bin], scenes: Sequence[Scene], ceiling: Mapping[str, float]
) -> list[Path]:
    figures: dict[str, Any] = {
        "figure-2": make_paper_figure(folder, plan, scenes, (plan.transfer,), rows, f"Figure 2. {plan.transfer}"),
        "examples": make_examples(folder, plan, scenes, rows),
        "boxes": make_boxes(plan, plan.main, rows, ceiling, "Every patient's point; box: median and quartiles"),
        "bland-altman": make_bland_altman(plan, rows),
        "reliability": make_reliability(plan, bins),
    }
    if plan.classical:
        title = f"Figure 1. {' and '.join(plan.classical)}"
        figures["figure-1"] = make_paper_figure(folder, plan, scenes, plan.classical, rows, title)
    if plan.ablations:
        figures["ablations"] = make_boxes(plan, (plan.transfer, *plan.ablations), rows, ceiling, f"Ablations of {plan.transfer}")
    (folder / "figures").mkdir(exist_ok=True)
    paths = []
    for name, figure in sorted(figures.items()):
        paths.append(folder / "figures" / f"{name}.png")
        figure.savefig(paths[-1], dpi=DPI)
    return paths

"""`leukoscope train data`: which layout a folder has, what lies in it, and what of it cannot be trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from model.training.case_picture import draw_case
from model.training.checks import Checked, Severity, check_case, check_together, human_ceiling
from model.training.layouts import LAYOUTS, Found, UnusableCase, detect_layouts, find_cases, is_dicom, not_taken

DICOM = "dicom"
SEVERITIES: tuple[Severity, ...] = ("unusable", "suspicious")
REPORT = "data.json"
MOST_LISTED = 10
FILE_COLUMNS = 180  # of a table that goes into a file or a pipe, where nothing else says how wide it may be
Converter = Callable[[Path, Path], Path]  # folder of DICOM, folder to write to -> the manifest


def check_folder(folder: Path, layout: str | None, out: Path, convert: Converter | None, pictures: bool = True) -> list[Checked]:
    """Check every case of a folder, print the table, and write `data.json` and pictures of what looks wrong.

    Parameters
    ----------
    folder : or a CSV manifest
    layout : a name of `LAYOUTS` or `dicom`; None = find out
    convert : turns DICOM into a manifest and its files, below `out`

    Raises
    ------
    UnusableCase
        The layout cannot be told, or nothing is there.
    """
    told = Console(stderr=True)
    shown = Console() if Console().is_terminal else Console(width=FILE_COLUMNS)
    with Progress(console=told, transient=True) as progress:
        found = _find(folder, layout, out, convert, progress)
        for one in found:
            told.print(f"{one.layout}: {len(one.cases)} scan{'s' * (len(one.cases) != 1)} ({one.why})", highlight=False, markup=False)
        cases = [case for one in found for case in one.cases]
        bar = progress.add_task("check", total=len(cases))
        checked = []
        for case in cases:
            progress.update(bar, description=case.id)
            checked.append(check_case(case))
            progress.advance(bar)
        check_together(checked)
        drawn = _draw(checked, out / "pictures", progress) if pictures else 0
    shown.print(_tabulate(checked))
    left = [str(path.relative_to(folder)) for path in not_taken(folder, cases)]
    out.mkdir(parents=True, exist_ok=True)
    (out / REPORT).write_text(json.dumps(_report(folder, found, checked, left), indent=1, ensure_ascii=False))
    _tell(shown, checked, left)
    told.print(f"written: {out / REPORT}" + (f", {drawn} pictures in {out / 'pictures'}" if drawn else ""), highlight=False, markup=False)
    return checked


def _find(folder: Path, layout: str | None, out: Path, convert: Converter | None, progress: Progress) -> list[Found]:
    if layout is not None and layout != DICOM:
        return [Found(layout, f"named by you: {LAYOUTS[layout].signs}" if layout in LAYOUTS else "", tuple(find_cases(layout, folder)))]
    try:
        if layout is None:
            return detect_layouts(folder)
    except UnusableCase:
        if not folder.is_dir() or not is_dicom(folder):
            raise
    if convert is None:
        raise UnusableCase(f"{folder}: DICOM is read by `leukoscope train data`; here only NIfTI is")
    bar = progress.add_task("convert DICOM", total=None)
    manifest = convert(folder, out / "converted")
    progress.remove_task(bar)
    why = f"source series and the SEG objects drawn on them; now NIfTI, listed in {manifest}"
    return [Found(DICOM, why, tuple(find_cases("manifest", manifest)))]


def _draw(checked: Sequence[Checked], folder: Path, progress: Progress) -> int:
    wrong = [one for one in checked if one.findings]
    bar = progress.add_task("draw", total=len(wrong))
    drawn = 0
    for one in wrong:
        drawn += draw_case(one, folder / f"{one.case.id.replace('/', '-')}.png")
        progress.advance(bar)
    return drawn


def _tabulate(checked: Sequence[Checked]) -> Table:
    table = Table()
    for name in ("scan", "patient", "session"):
        table.add_column(name, overflow="fold")
    for name in ("spacing mm", "lesion ml", "lesions", "tumour ml"):
        table.add_column(name, justify="right")
    table.add_column("what is wrong", overflow="fold", min_width=24)
    for one in checked:
        spacing = "" if one.spacing_mm is None else " x ".join(f"{step:.2g}" for step in one.spacing_mm)
        figures = ("" if value is None else f"{value:.2f}" for value in (one.lesion_ml, one.tumour_ml))
        lesion, tumour = figures
        wrong = "\n".join(finding.text if finding.severity == "unusable" else f"look: {finding.text}" for finding in one.findings)
        style = "red" if one.has("unusable") else "yellow" if one.findings else None
        case = one.case
        cells = (
            case.id,
            case.patient,
            case.session,
            spacing,
            lesion,
            "" if one.lesions is None else str(one.lesions),
            tumour,
            wrong or "-",
        )
        table.add_row(*map(escape, cells), style=style)
    return table


def _report(folder: Path, found: Sequence[Found], checked: Sequence[Checked], left: Sequence[str]) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "layouts": [{"name": one.layout, "why": one.why, "scans": len(one.cases)} for one in found],
        "patients": len({one.case.patient for one in checked}),
        "unusable": sum(one.has("unusable") for one in checked),
        "suspicious": sum(one.has("suspicious") for one in checked),
        "human_ceiling_dice": human_ceiling(checked),
        "flair_files_not_taken": list(left),
        "scans": [one.as_dict() for one in checked],
    }


def _tell(shown: Console, checked: Sequence[Checked], left: Sequence[str]) -> None:
    ceiling = human_ceiling(checked)
    if ceiling:
        table = Table("patient", "Dice between raters", title=f"Human ceiling (n = {len(ceiling)} patients)")
        for patient, value in ceiling.items():
            table.add_row(patient, f"{value:.3f}")
        table.add_row("median", f"{np.median(list(ceiling.values())):.3f}")
        shown.print(table)
    for note in dict.fromkeys(note for one in checked for note in one.case.notes):
        shown.print(f"note: {note}", markup=False, highlight=False)
    if left:
        more = f" and {len(left) - MOST_LISTED} more" if len(left) > MOST_LISTED else ""
        shown.print(f"not taken, no mask was found for them: {', '.join(left[:MOST_LISTED])}{more}", markup=False, highlight=False)
    patients = len({one.case.patient for one in checked})
    unusable, suspicious = (sum(one.has(severity) for one in checked) for severity in SEVERITIES)
    shown.print(f"{len(checked)} scans of {patients} patients; {unusable} unusable, {suspicious} to look at", highlight=False)

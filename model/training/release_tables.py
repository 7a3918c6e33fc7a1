"""The figures of a release as tables: files beside its weights, and on the terminal. No scan of anybody, pictures of phantoms only."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

Row = Mapping[str, Any]
Rows = Sequence[Row]

LEFT_OUT = ("dice", "lesion_f1", "sensitivity", "precision", "hausdorff95_mm", "truth_ml", "found_ml", "truth_lesions", "found_lesions")
TUMOUR = ("tumour_ml", "tumour_like_ml", "tumour_dice", "tumour_called_lesion_percent")
KEPT = ("brain_dice", "lesion_ml", "lesion_outside_brain_ml", "changed_lesions", "changed_found", *TUMOUR)
ERRORS = ("expected_calibration_error", "expected_calibration_error_where_possible")
CALIBRATION = ("patient", "truth_ml", "by_threshold_ml", "by_probability_ml", *ERRORS)
BINS = ("patient", "scan", "bin_low", "bin_high", "voxels", "mean_probability", "positives")
OFF = "contrast_distance"


def tables_of(figures: Row) -> dict[str, tuple[tuple[str, ...], Rows]]:
    """Name of a table -> columns and rows."""
    found = {
        "left_out": (LEFT_OUT, figures["leave_one_patient_out"]["scans"]),
        "left_out_in_synthetic_head": (LEFT_OUT, figures["leave_one_patient_out_in_synthetic_head"]["scans"]),
        "kept_aside": ((*KEPT, OFF), figures["kept_aside"]),
        "phantoms": ((*LEFT_OUT, "brain_dice", OFF), figures["phantoms"]),
        "calibration": (CALIBRATION, figures["calibration"]),
    }
    tables = {
        name: (("scan", *columns), [{"scan": scan, **row} for scan, row in scans.items()]) for name, (columns, scans) in found.items()
    }
    bins = [{"scan": scan, "patient": row["patient"], **one} for scan, row in figures["calibration"].items() for one in row["bins"]]
    return {**tables, "reliability": (BINS, bins)}


def write_evidence(figures: Row, release: Path) -> None:
    """Write every table as CSV, and those a person reads as one page of Markdown, into the release's folder `evidence`."""
    folder = release / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    page = [f"# {release.name}: measured figures", "", f"Command: `{figures['command']}`. Engine: {figures['engine']}.", ""]
    for name, (columns, rows) in tables_of(figures).items():
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)
        if name != "reliability":
            page += [f"## {_title(name)} (n = {len(rows)} scans)", "", *_markdown(columns, rows), ""]
    page += ["## Engines and storage", "", *_markdown(("what", "measured"), _others(figures)), ""]
    (folder / "figures.md").write_text("\n".join(page))


def print_tables(figures: Row) -> Iterable[Table]:
    """The tables a person wants to see at the end, for a terminal."""
    for name, (columns, rows) in tables_of(figures).items():
        if name in {"left_out", "kept_aside", "calibration"}:
            table = Table(*map(_short, columns), title=f"measured on: {_title(name)}, n = {len(rows)} scans", title_justify="left")
            for row in rows:
                table.add_row(*(_value(row.get(column)) for column in columns))
            yield table
    other = Table("what", "measured", title="engines and storage", title_justify="left")
    for row in _others(figures):
        other.add_row(row["what"], row["measured"])
    yield other


def _others(figures: Row) -> list[dict[str, str]]:
    rows = [
        {"what": f"{engine} against torch float32, probability", "measured": f"largest {apart['largest']:.6f}, mean {apart['mean']:.8f}"}
        for engine, apart in figures["parity"].items()
    ]
    rows.append({"what": "weights", "measured": f"{figures['storage']['weights']}: {figures['storage']['reason']}"})
    chosen = figures["ensemble"]
    tried = "; ".join(f"{name}: {_pairs(row)}" for name, row in chosen.items() if name != "shipped")
    return [*rows, {"what": "network", "measured": f"{chosen['shipped']} shipped" + (f" ({tried})" if tried else "")}]


def _pairs(row: Row) -> str:
    return ", ".join(f"{_short(name)} {_value(value)}" for name, value in row.items())


def _markdown(columns: Sequence[str], rows: Rows) -> list[str]:
    lines = [[_short(column) for column in columns], ["---"] * len(columns), *([_value(row.get(c)) for c in columns] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
    return "–" if value is None else str(value)


def _short(column: str) -> str:
    units = column.replace("_percent", ", %").replace("_ml", ", ml").replace("_mm", ", mm")
    return units.replace("expected_calibration_error", "ECE").replace("hausdorff95", "HD95").replace("_", " ")


def _title(name: str) -> str:
    return {"left_out": "patients left out one by one", "kept_aside": "scans kept aside"}.get(name, name.replace("_", " "))

"""`make bench`: measures, prints, writes bench-results.json. A benchmark, never a timed test."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from model.release import RELEASES, load
from tests.bench import engines, storing, whole_way

RESULTS = Path("bench-results.json")


def main() -> None:
    console = Console()
    release = load(max(path.parent for path in RELEASES.glob("*/card.json")))
    results: dict[str, object] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "release": f"{release.card.name} {release.card.version}",
    }
    with tempfile.TemporaryDirectory(prefix="leukoscope-bench-", dir=".") as folder:
        for name, measure in (
            ("store", lambda: storing.measure(Path(folder))),
            ("engines, seconds", lambda: engines.measure(release)),
            ("whole way, seconds", lambda: whole_way.measure(Path(folder))),
        ):
            console.print(f"measuring: {name}", style="dim")
            results[name] = measure()
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    table = Table(title="Leukoscope bench", title_justify="left", show_header=False)
    _fill(table, results)
    console.print(table)


def _fill(table: Table, values: Mapping[str, object], depth: int = 0) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            table.add_row("  " * depth + name, "", style="bold" if not depth else None)
            _fill(table, value, depth + 1)
        else:
            table.add_row("  " * depth + name, f"{value:.2f}" if isinstance(value, float) else str(value))


if __name__ == "__main__":
    main()

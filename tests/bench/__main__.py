"""`make bench`: measures, prints, writes bench-results.json. A benchmark, never a timed test. `python -m tests.bench --help`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from model.release import RELEASES, Release, load
from tests.bench import day, engines, storing, whole_way, wire

RESULTS = Path("bench-results.json")
PARTS: dict[str, tuple[str, Callable[[Path, Release, str], dict[str, object]]]] = {
    "store": ("store", lambda folder, _release, _size: storing.measure(folder)),
    "engines": ("engines, seconds", lambda _folder, release, _size: engines.measure(release)),
    "whole-way": ("whole way, seconds", lambda folder, _release, _size: whole_way.measure(folder)),
    "wire": ("wire", lambda folder, _release, size: wire.measure(folder, size)),
    "day": ("day", lambda folder, _release, size: day.measure(folder, size)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all, where none is named")
    parser.add_argument("--size", choices=sorted(wire.SIZES), default="full", help="of wire and day; full wants a quiet machine")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    console = Console()
    release = load(max(path.parent for path in RELEASES.glob("*/card.json")))
    results: dict[str, object] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "release": f"{release.card.name} {release.card.version}",
        "size of wire and day": chosen.size,
    }
    for part in chosen.parts or PARTS:
        name, measure = PARTS[part]
        console.print(f"measuring: {name}", style="dim")
        with tempfile.TemporaryDirectory(prefix="leukoscope-bench-", dir=".") as folder:
            results[name] = measure(Path(folder), release, chosen.size)
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

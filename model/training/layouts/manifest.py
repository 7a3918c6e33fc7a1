"""A CSV manifest: the way in for whatever lies in no known layout, one row per scan.

| column | meaning |
| --- | --- |
| `patient`, `flair` | needed: who it is (one name per person, over all visits), and the NIfTI file |
| `scan`, `session`, `site` | the scan's own name (default: patient and session), the visit (default 1), where it was made |
| `lesion`, `tumour`, `second` | mask files on the scan's grid: lesions, whole tumour, a second rater's lesions |
| `ignore`, `brain` | mask files on the scan's grid: where nothing is known, the brain |
| `lesion_values`, `tumour_values`, `ignore_values` | the labels in that file that are meant, e.g. `1 3`; empty where it holds one label |
| `other_values` | labels that occur and mean background |
| `channel` | of a four-dimensional FLAIR file, which volume (from 0) |
| `healthy_tumour` | `yes`: this person has no tumour, which the tumour head learns |
| `provenance` | where the labels come from; kept in the release card |

Paths are relative to the manifest. Commas, semicolons and tabs all separate columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from model.training.layouts.case import Case, UnusableCase

NAME = "manifest.csv"
NEEDED = ("patient", "flair")
FILES = ("flair", "lesion", "tumour", "ignore", "second", "brain")
VALUES = ("lesion_values", "tumour_values", "ignore_values", "other_values")
COLUMNS = ("scan", "patient", "session", "site", *FILES, *VALUES, "channel", "healthy_tumour", "provenance")
_YES, _NO = {"yes", "true", "1"}, {"", "no", "false", "0"}


def manifest(root: Path) -> Iterator[Case]:
    """`manifest.csv` in the folder, or the path of a CSV file itself."""
    path = root / NAME if root.is_dir() else root
    if not path.is_file() or path.suffix.lower() != ".csv":
        return
    for number, row in _read_rows(path):
        yield _case(path, number, row)


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UnusableCase(f"{path}: not UTF-8; save it as CSV UTF-8") from None
    head = lines[0] if lines else ""
    reader = csv.DictReader(lines, delimiter=max(",;\t", key=head.count))
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    unknown = [name for name in names if name not in COLUMNS]
    missing = [name for name in NEEDED if name not in names]
    if unknown or missing:
        wrong = [f"unknown column {name!r}" for name in unknown] + [f"column {name!r} is missing" for name in missing]
        raise UnusableCase(f"{path}: {'; '.join(wrong)}. Columns: {', '.join(COLUMNS)}")
    reader.fieldnames = names
    for row in reader:
        if None in row:
            raise UnusableCase(f"{path}, line {reader.line_num}: more values than columns")
        yield reader.line_num, {name: (value or "").strip() for name, value in row.items()}


def _case(path: Path, line: int, row: dict[str, str]) -> Case:
    where = f"{path}, line {line}"
    for name in NEEDED:
        if not row[name]:
            raise UnusableCase(f"{where}: {name} is empty")
    session = row.get("session") or "1"
    file = {name: path.parent / row[name] if row.get(name) else None for name in FILES}
    values = {name: _read_values(where, name, row.get(name, "")) for name in VALUES}
    return Case(
        row.get("scan") or f"{row['patient']}-{session}",
        row["patient"],
        session,
        path.parent / row["flair"],
        site=row.get("site", ""),
        channel=_read_channel(where, row.get("channel", "")),
        healthy_tumour=_read_yes(where, row.get("healthy_tumour", "")),
        provenance=row.get("provenance", ""),
        lesion=file["lesion"],
        tumour=file["tumour"],
        ignore=file["ignore"],
        second=file["second"],
        brain=file["brain"],
        lesion_values=values["lesion_values"],
        tumour_values=values["tumour_values"],
        ignore_values=values["ignore_values"],
        other_values=values["other_values"],
    )


def _read_values(where: str, name: str, text: str) -> tuple[int, ...]:
    parts = [part for part in re.split(r"[\s,;|]+", text) if part]
    if not all(re.fullmatch(r"\d+", part) for part in parts):
        raise UnusableCase(f"{where}: {name} is {text!r}, expected whole numbers such as `1 3`")
    return tuple(int(part) for part in parts)


def _read_channel(where: str, text: str) -> int | None:
    if text and not text.isdigit():
        raise UnusableCase(f"{where}: channel is {text!r}, expected a number from 0")
    return int(text) if text else None


def _read_yes(where: str, text: str) -> bool:
    if text.lower() not in _YES | _NO:
        raise UnusableCase(f"{where}: healthy_tumour is {text!r}, expected yes or no")
    return text.lower() in _YES

"""`leukoscope corrections export`: what readers corrected, as folders of DICOM that `leukoscope train data` and `train adapt` read.

They hold names and identifiers as they came; training reads them into NIfTI files that hold none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from service.errors import Rejected
from service.records import Book, Case, OutputRow, ReaderVerdict
from service.store import Store

SEGMENTATION: Final = "segmentation"


@dataclass(frozen=True)
class Exported:
    """One correction: its case, and why it was left out, or nothing."""

    case_id: str
    why_not: str = ""


def export_corrections(book: Book, store: Store, folder: Path) -> Iterator[Exported]:
    """
    Write every correction that stands: `CASE/source/*.dcm`, `CASE/corrected.dcm`, `CASE/provenance.json`.

    One is left out where its series has changed since the reader saw it, and where files of it are gone.

    Raises
    ------
    Rejected
        The folder holds something already. Nothing was written.
    Unavailable
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Rejected(f"{folder}: not empty; give a new folder, so that no older correction lies beside these")
    for case_id in book.corrected_cases():
        case, verdict = book.case(case_id), book.correction_of(case_id)
        if case is None or verdict is None:  # removed, or rejected since
            continue
        yield Exported(case_id, _export(book, store, folder / case_id, case, verdict))


def _export(book: Book, store: Store, folder: Path, case: Case, verdict: ReaderVerdict) -> str:
    """Write one; gives why not."""
    paths = book.instance_paths(case.id)
    if sorted(row.sop_instance_uid for row in book.headers(case.id)) != sorted(verdict.seen):
        return "slices came after the reader had the series; correct it again"
    result = next((row for row in book.outputs(case.id) if row.kind == SEGMENTATION), None)
    mask = store.path_of(verdict.path or "")
    if result is None or not all(store.has_file(path) for path in (*paths, verdict.path or "", result.path)):
        return "files of it are not in the store"
    data = mask.read_bytes()
    as_sent = data[128:132] == b"DICM"
    (folder / "source").mkdir(parents=True)
    for number, path in enumerate(paths, 1):
        (folder / "source" / f"{number:04d}.dcm").write_bytes(store.path_of(path).read_bytes())
    (folder / "corrected.dcm").write_bytes(data if as_sent else store.path_of(result.path).read_bytes())
    told = _provenance(case, verdict, result, as_sent=as_sent)
    (folder / "provenance.json").write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return ""


def _provenance(case: Case, verdict: ReaderVerdict, result: OutputRow, *, as_sent: bool) -> dict[str, Any]:
    findings = case.findings or {}
    return {
        "case": case.id,
        "series_uid": case.series_uid,
        "reader": verdict.reader,
        "at": verdict.at.isoformat(),
        "comment": verdict.comment,
        "corrected_revision": verdict.revision,
        "corrected_release": verdict.model,
        "made_revision": verdict.made,
        "corrected.dcm": "as the reader sent it" if as_sent else "the reader sent NIfTI; made from it",
        "sent_sha256": verdict.digest,
        "segmentation_uid": result.sop_instance_uid,
        "lesion_volume_ml": findings.get("lesion_volume_ml"),
        "release_itself": findings.get("corrected"),
    }

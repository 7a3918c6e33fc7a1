"""Instances and finished cases for tests of the case book."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from service.records import Book, InstanceRow, OutputRow

SECRET = bytes(range(32))
START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def instance(number: int = 1, *, series: str = "1.2.3", study: str = "1.2", digest: str | None = None, **fields: Any) -> InstanceRow:
    values: dict[str, Any] = {
        "study_uid": study,
        "series_uid": series,
        "sop_instance_uid": f"{series}.{number}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.4",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "digest": digest or f"{number:064x}",
        "path": f"instances/{series}/{digest or number}.dcm",
        "size": 100 + number,
        "header": {"number": number},
        "patient_id": "P/1",
        "patient_issuer": "HOSPITAL",
        "series_description": "FLAIR 3D",
        "source": "SCANNER",
        "association": "association-1",
        "received_at": START,
    }
    return InstanceRow(**{**values, **fields})


def receive(book: Book, count: int = 3, **fields: Any) -> str:
    """Note a series and give its case."""
    return book.note_instances([instance(number, **fields) for number in range(1, count + 1)])[0].case_id


def queue(book: Book, count: int = 3, *, rank: tuple[int, ...] = (1,), **fields: Any) -> str:
    case_id = receive(book, count, **fields)
    assert book.queue_case(case_id, "flair", ("thick slices",), rank=rank)
    return case_id


def output(revision: int = 1, kind: str = "segmentation") -> OutputRow:
    return OutputRow(
        kind, "application/dicom", f"outputs/{kind}-{revision}", "a" * 64, 10, revision, "1.2.840.10008.5.1.4.1.1.66.4", f"2.25.{revision}"
    )


FINDINGS = {"lesion_count": 2, "lesion_volume_ml": 1.5, "tumour_like_volume_ml": 0.0}


def run(
    book: Book,
    case_id: str,
    *,
    owner: str = "worker-1",
    findings: dict[str, Any] | None = None,
    kinds: tuple[str, ...] = ("segmentation", "report.json"),
) -> None:
    """Work on a queued case until it is done."""
    lease = book.claim(case_id, owner)
    assert lease is not None
    book.finish(
        lease,
        outputs=[output(lease.revision, kind) for kind in kinds],
        findings=findings or FINDINGS,
        quality=("after contrast",),
        model={"name": "m"},
        stages={"convert": (1.0, 0.5)},
    )

"""Which series lie in a folder: its DICOM images grouped by SeriesInstanceUID. Which of them is the FLAIR is admission's to say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

_UNREADABLE = (InvalidDicomError, EOFError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError)
_TAGS = ["SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "SOPInstanceUID", "Modality"]


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one series.

    Attributes
    ----------
    files : sorted by path
    """

    series_uid: str
    description: str
    modality: str
    files: tuple[Path, ...]


def list_series(folder: Path) -> tuple[SeriesFiles, ...]:
    """Find the series in a folder and all folders below it, by SeriesNumber, then UID; other files are passed over.

    Raises
    ------
    NotADirectoryError
    """
    if not folder.is_dir():
        raise NotADirectoryError(folder)
    found: dict[str, list[tuple[Path, pydicom.Dataset]]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        header = _read_header(path)
        if header is not None:
            found.setdefault(str(header.SeriesInstanceUID), []).append((path, header))
    return tuple(
        SeriesFiles(uid, str(first.get("SeriesDescription", "")), str(first.get("Modality", "")), tuple(path for path, _ in entries))
        for uid, entries in sorted(found.items(), key=lambda item: (_number(item[1][0][1]), item[0]))
        for first in [entries[0][1]]
    )


def _read_header(path: Path) -> pydicom.Dataset | None:
    """The few elements needed, None for what is no instance of a series (DICOMDIR, other files)."""
    try:
        header = pydicom.dcmread(path, specific_tags=_TAGS, stop_before_pixels=True)
    except _UNREADABLE:
        return None
    return header if header.get("SeriesInstanceUID") and header.get("SOPInstanceUID") else None


def _number(header: pydicom.Dataset) -> int:
    try:
        return int(header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        return 0

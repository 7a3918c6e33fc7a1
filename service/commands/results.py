"""Results as files in a folder: a zip becomes a folder of its own, so that what is in it can be opened like the rest."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Final

_FOLDERS: Final = ("resampled",)


def clear_folders(results: Path) -> None:
    """Remove the DICOM files that an earlier case left in the folders made of zips: a series holds one case's images only."""
    for name in _FOLDERS:
        for path in (results / name).glob("*.dcm"):
            path.unlink()


def write_result(results: Path, filename: str, data: bytes) -> Path:
    """Write a result under its name, a zip's files into a folder of the zip's name without ``.zip``; give the file or folder."""
    path = results / filename
    if path.suffix != ".zip":
        path.write_bytes(data)
        return path
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(folder)
    return folder

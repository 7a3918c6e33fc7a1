"""Results as files: zips become folders, and what an earlier case left in them goes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from service.commands.results import clear_folders, write_result


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.dcm", data)
    return buffer.getvalue()


def test_a_file_is_written_and_a_zip_unpacked(tmp_path: Path) -> None:
    assert write_result(tmp_path, "report.json", b"{}") == tmp_path / "report.json"
    assert write_result(tmp_path, "resampled.zip", zipped(one=b"1", two=b"2")) == tmp_path / "resampled"
    assert {path.name: path.read_bytes() for path in (tmp_path / "resampled").iterdir()} == {"one.dcm": b"1", "two.dcm": b"2"}


def test_a_series_never_holds_images_of_two_cases(tmp_path: Path) -> None:
    write_result(tmp_path, "resampled.zip", zipped(one=b"1", two=b"2"))
    (tmp_path / "resampled" / "mine.txt").write_text("a note")
    (tmp_path / "source.dcm").write_bytes(b"3")
    clear_folders(tmp_path)
    write_result(tmp_path, "resampled.zip", zipped(one=b"4"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "resampled").iterdir()} == {"one.dcm": b"4", "mine.txt": b"a note"}
    assert (tmp_path / "source.dcm").exists()
    clear_folders(tmp_path / "nothing")

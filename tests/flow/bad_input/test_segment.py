"""The same table through `leukoscope segment`: one line that says why, exit code 1, and no folder of results."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest

from model.volume import Volume
from service.__main__ import main
from tests.flow.bad_input.rows import ROWS, Bench, Row

DONE = {"wrong sex and dates", "name in ISO 2022 IR 87"}
SELECTED = [row for row in ROWS if row.state != "done" or row.name in DONE]


@dataclass
class Said:
    code: int
    lines: list[str]
    files: set[str]


@pytest.fixture
def segment(tiny_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run the command in this process."""
    monkeypatch.setenv("LEUKOSCOPE_RELEASE", str(tiny_release))
    monkeypatch.setenv("LEUKOSCOPE_ENGINE", "onnxruntime-cpu")
    monkeypatch.setenv("COLUMNS", "250")

    def run(source: Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["leukoscope", "segment", str(source), "-o", str(tmp_path / "out")])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("leukoscope:") or "Traceback" in line]
        return Said(int(end.value.code or 0), said, {path.name for path in (tmp_path / "out").glob("*")})

    return run


@pytest.mark.parametrize("row", SELECTED, ids=str)
def test_segment_says_why_in_one_line(segment, small_volume: Volume, tmp_path: Path, row: Row) -> None:
    row.make(Bench(small_volume, tmp_path / "in", f"segment/{row.name}"))
    said = segment(tmp_path / "in")
    if row.state == "done":
        assert (said.code, said.lines) == (0, [])
        assert "segmentation.dcm" in said.files
        return
    assert (said.code, said.files) == (1, set())
    (line,) = said.lines
    assert re.search(row.reason.removeprefix("^"), line), line
    assert f"P-segment/{row.name}" not in line


def head(shape: tuple[int, ...], value: float = 100.0) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(np.full(shape, value, np.float32), np.diag([2.0, 2.0, 6.0, 1.0]))
    image.header.set_sform(image.affine, 1)
    return image


def with_nan() -> nibabel.Nifti1Image:
    image = head((90, 100, 30))
    image.dataobj[20:40, 20:40] = np.nan
    return image


NIFTI = {
    "all NaN": (lambda: head((90, 100, 30), np.nan), "intensities are not all finite numbers"),
    "some NaN": (with_nan, "intensities are not all finite numbers"),
    "infinite": (lambda: head((90, 100, 30), np.inf), "intensities are not all finite numbers"),
    "all zero": (lambda: head((90, 100, 30), 0.0), "every voxel has the same intensity"),
    "constant": (lambda: head((90, 100, 30), 7.0), "every voxel has the same intensity"),
    "1 × 1 × 1": (lambda: head((1, 1, 1)), "no head|small|voxel"),
}


@pytest.mark.parametrize("kind", NIFTI)
def test_segment_says_why_not_of_a_nifti_file(segment, tmp_path: Path, kind: str) -> None:
    make, reason = NIFTI[kind]
    nibabel.save(make(), tmp_path / "in.nii.gz")
    said = segment(tmp_path / "in.nii.gz")
    assert (said.code, said.files) == (1, set())
    (line,) = said.lines
    assert re.search(reason, line), line


def test_segment_refuses_a_huge_nifti_by_its_header(segment, tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((1024, 1024, 600))
    header.set_sform(np.eye(4), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "in.nii").write_bytes(header.binaryblock + bytes(4))
    said = segment(tmp_path / "in.nii")
    assert (said.code, said.lines) == (1, ["leukoscope: larger than 1024 x 1024 x 512 voxels"])


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x1f\x8b\x08\x00 cut short", bytes(400)])
def test_segment_says_what_is_no_nifti(segment, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.nii.gz").write_bytes(content)
    said = segment(tmp_path / "in.nii.gz")
    assert said.code == 1
    (line,) = said.lines
    assert "no readable NIfTI file" in line

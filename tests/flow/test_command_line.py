"""The console script: plain errors, quick starts, and segmentation without a server."""

from __future__ import annotations

import os
import subprocess
import sys

import nibabel
import numpy as np
import pydicom
import pytest

from tests.running import series_uid
from tests.service import wire


def leukoscope(*arguments, **environ):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LEUKOSCOPE_") or name == "LEUKOSCOPE_RELEASE"}
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    return subprocess.run(command, env=clean | environ, capture_output=True, text=True, timeout=150)


def test_help_loads_nothing_heavy():
    code = (
        "import sys, service.__main__; print(sorted({'torch', 'numpy', 'pydicom', 'celery', 'sqlalchemy', 'openvino'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    shown = leukoscope("--help").stdout
    assert all(name in shown for name in ("serve", "listen", "api", "worker", "push", "segment", "cases", "case", "demo", "train"))


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "says"),
    [
        (("serve",), {"LEUKOSCOPE_HTP_PORT": "1"}, 2, "LEUKOSCOPE_HTP_PORT is not a setting (did you mean LEUKOSCOPE_HTTP_PORT?)"),
        (("serve",), {"LEUKOSCOPE_HTTP_PORT": "many"}, 2, "LEUKOSCOPE_HTTP_PORT"),
        (("serve",), {"LEUKOSCOPE_RELEASE": "no-such-release"}, 2, "no-such-release"),
        (("push", ".", "--to", "nonsense"), {}, 1, "expected AE@HOST:PORT"),
        (("cases",), {"LEUKOSCOPE_DATA_DIR": "/nonexistent/folder"}, 1, "no case book"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, environ, code, says):
    done = leukoscope(*arguments, **environ)
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_push_tells_a_dead_peer_in_one_line(write_phantom, free_port):
    files = write_phantom("nobody", order=(0, 1, 2))
    done = leukoscope("push", files[0].parent, "--to", f"PACS@127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "no connection" in done.stderr
    assert "Traceback" not in done.stderr


def test_push_tells_a_caller_that_the_peer_does_not_know_to_name_itself(write_phantom):
    files = write_phantom("stranger", order=(0,))
    with wire.rejecting(1, 1, 3) as port:
        done = leukoscope("push", files[0].parent, "--to", f"PACS@127.0.0.1:{port}")
    assert done.returncode == 1
    assert "calling AE title not recognised" in done.stderr
    assert "we called from LEUKOSCOPE: name yourself with --from" in done.stderr


def test_push_sends_and_cases_tells(running, write_phantom):
    files = write_phantom("pushed", order=range(5))
    node = f"{running.ports['ae_title']}@127.0.0.1:{running.ports['dicom_port']}"
    done = leukoscope("push", files[0].parent, "--to", node)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 accepted" in done.stderr
    case = running.wait_until(series_uid(files), "rejected")
    shown = leukoscope("cases", **running.environ | {"COLUMNS": "250"}).stdout
    (line,) = [line for line in shown.splitlines() if case["id"] in line]
    assert "  2020-01-01  " in line, "the date of the study"
    told = leukoscope("case", case["id"], **running.environ | {"COLUMNS": "250"}).stdout
    assert case["reason"] in told
    assert f"2020-01-01 ({case['study_uid']})" in told


def test_segment_picks_the_flair_and_says_why(write_phantom, tmp_path):
    flair = write_phantom("choice-flair")
    t1 = {"InversionTime": "900", "EchoTime": "3", "RepetitionTime": "2300"}
    write_phantom("choice-t1", description="T1 MPRAGE", headers=t1)
    done = leukoscope("segment", tmp_path, "-o", tmp_path / "out", COLUMNS="250")
    assert done.returncode == 0, done.stderr
    assert f"series {series_uid(flair)}: named a FLAIR; 1 other series left out" in done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "segmentation.dcm",
        "structured-report.dcm",
        "rtstruct.dcm",
        "resampled",
        "report.dcm",
        "preview.dcm",
        "segmentation.nii.gz",
        "report.json",
        "report.pdf",
        "preview.png",
    }
    structures = pydicom.dcmread(tmp_path / "out/rtstruct.dcm")
    study = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    named = [item.ReferencedSOPInstanceUID for item in study.RTReferencedSeriesSequence[0].ContourImageSequence]
    beside = sorted((tmp_path / "out/resampled").iterdir())
    assert [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in beside] == named


def test_segment_asks_where_two_series_are_as_good(write_phantom, tmp_path):
    both = [series_uid(write_phantom(seed)) for seed in ("first", "second")]
    done = leukoscope("segment", tmp_path, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "name one with --series" in done.stderr
    assert all(uid in done.stderr for uid in both)
    assert not (tmp_path / "out").exists()


def test_segment_takes_nifti_and_gives_no_dicom(phantom, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.asarray(phantom.flair.data), phantom.flair.affine_ras), tmp_path / "head.nii.gz")
    done = leukoscope("segment", tmp_path / "head.nii.gz", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"segmentation.nii.gz", "report.json", "report.pdf", "preview.png"}
    assert nibabel.load(tmp_path / "out" / "segmentation.nii.gz").shape == phantom.flair.shape

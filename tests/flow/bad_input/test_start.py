"""What must not start does not: one line that says what to change, exit code 2 (settings) or 1, and nothing made or lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.volume import Volume
from service.__main__ import main
from tests.flow.bad_input.rows import Bench
from tests.running import Running, series_uid


def leukoscope(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LEUKOSCOPE_")}
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(command, env=clean | environ, capture_output=True, text=True, timeout=120)


def mismatched(release: Path, folder: Path) -> Path:
    shutil.copytree(release, folder)
    weights = folder / json.loads((folder / "card.json").read_text())["weights"]
    weights.write_bytes(weights.read_bytes() + b"\0")
    return folder


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run a command that ends before anything starts, in this process: its exit code and its one line."""

    def run(*arguments: str, **environ: str) -> tuple[int, str]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["leukoscope", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        (line,) = capfd.readouterr().err.strip().splitlines()
        return int(end.value.code or 0), line

    return run


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_card_that_does_not_match_its_weights_starts_nothing(tiny_release: Path, tmp_path: Path, command: str) -> None:
    release = mismatched(tiny_release, tmp_path / "release")
    done = leukoscope(command, LEUKOSCOPE_RELEASE=str(release), LEUKOSCOPE_DATA_DIR=str(tmp_path / "data"))
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert "weights have SHA-256" in line
    assert "the card says" in line
    assert not (tmp_path / "data").exists()


def test_a_card_that_does_not_match_its_weights_segments_nothing(told, tiny_release: Path, tmp_path: Path) -> None:
    release = mismatched(tiny_release, tmp_path / "release")
    code, line = told("segment", str(tmp_path), "-o", str(tmp_path / "out"), LEUKOSCOPE_RELEASE=str(release))
    assert code == 1
    assert "weights have SHA-256" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_an_engine_that_can_never_be_had_starts_nothing(tiny_release: Path, tmp_path: Path, command: str) -> None:
    settings = {"LEUKOSCOPE_ENGINE": "onnxruntime-cpu", "LEUKOSCOPE_PRECISION": "bf16", "LEUKOSCOPE_RELEASE": str(tiny_release)}
    done = leukoscope(command, LEUKOSCOPE_DATA_DIR=str(tmp_path / "data"), **settings)
    assert (done.returncode, done.stderr.strip()) == (
        2,
        "leukoscope: engine onnxruntime-cpu: onnxruntime-cpu runs in f32 only; bfloat16 needs openvino-cpu",
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["serve", "listen", "api", "worker", "migrate"])
@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("LEUKOSCOPE_ENGIN", "LEUKOSCOPE_ENGIN is not a setting (did you mean LEUKOSCOPE_ENGINE?)"),
        ("LEUKOSCOPE_ENGINE", "LEUKOSCOPE_ENGINE: "),
    ],
)
def test_an_unknown_key_or_engine_starts_nothing(told, tmp_path: Path, command: str, variable: str, says: str) -> None:
    code, line = told(command, LEUKOSCOPE_DATA_DIR=str(tmp_path / "data"), **{variable: "tensorrt"})
    assert code == 2
    assert says in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("quiet_tme_s = 3", "quiet_tme_s is not a setting (did you mean quiet_time_s?)"),
        ("[[calling_ae]]\ntitle = 'A'\nadress = '10.0.0.1'", "calling_ae.0.adress is not a setting"),
        ("quiet_time_s = 'soon'", "quiet_time_s: "),
        ("quiet_time_s = ", "Invalid value"),
    ],
)
def test_a_settings_file_with_an_unknown_key_starts_nothing(told, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "leukoscope.toml").write_text(text)
    code, line = told("serve", LEUKOSCOPE_CONFIG=str(tmp_path / "leukoscope.toml"), LEUKOSCOPE_DATA_DIR=str(tmp_path / "data"))
    assert code == 2
    assert says in line
    assert not (tmp_path / "data").exists()


def test_a_worker_whose_engine_does_not_open_ends_and_the_case_waits_unharmed(
    tiny_release: Path, small_volume: Volume, tmp_path: Path
) -> None:
    """It is installed, and cannot be loaded: only opening it shows."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "openvino.py").write_text("raise ImportError('libtbb.so.12: cannot open shared object file')")
    files = Bench(small_volume, tmp_path / "in", "engine").write()
    service = Running(tmp_path / "data", release=tiny_release, engine="openvino-cpu", precision="f32", quiet_time_s=1, sweep_s=1)
    service.extra["PYTHONPATH"] = str(tmp_path / "broken")
    service.start()
    try:
        service.push(files)
        deadline = time.monotonic() + 90
        while "engine not available, this worker ends" not in service.log.read_text():
            assert time.monotonic() < deadline, service.last_words()
            time.sleep(0.1)
        case = service.wait_until(series_uid(files), "queued")
        assert (case["attempts"], case["stages"]) == (0, {})
        assert "libtbb.so.12" in service.log.read_text()
        assert "case put back" not in service.log.read_text()
    finally:
        assert service.stop() == 0
    service.extra.clear()
    try:
        service.start()
        assert service.wait_until(series_uid(files), "done")["attempts"] == 0
    finally:
        assert service.stop() == 0

"""The containers' health checks, against real parts of the service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

PARTS = ("listener", "api")


@pytest.fixture
def ask(root):
    """Run the probe as a container's engine would; gives the finished process."""

    def run(part, *arguments, **variables):
        command = [sys.executable, str(root / "deploy/probe.py"), part, *arguments]
        return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60, cwd=root)

    return run


@pytest.fixture
def start(root, tmp_path, free_port):
    """Start one part on ports of its own and wait until its probe is content."""
    started = []

    def begin(command, ask, **variables):
        ports = {"LEUKOSCOPE_HTTP_PORT": str(free_port()), "LEUKOSCOPE_DICOM_PORT": str(free_port()), "PYTHONPATH": str(root)}
        environment = {"LEUKOSCOPE_DATA_DIR": str(tmp_path / "data"), **ports, **variables}
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([sys.executable, "-m", "service", command], env=os.environ | environment, stderr=log, cwd=tmp_path)
        started.append(process)
        part = {"listen": "listener", "api": "api"}[command]
        deadline = time.monotonic() + 60
        while (answer := ask(part, **environment)).returncode:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, answer.stderr
            time.sleep(0.2)
        return process, environment

    yield begin
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize(("command", "part"), [("listen", "listener"), ("api", "api")])
def test_a_part_that_hangs_is_told_from_one_that_answers(start, ask, command, part):
    process, environment = start(command, ask)
    process.send_signal(signal.SIGSTOP)
    hanging = ask(part, "--timeout", "1", **environment)  # the kernel still takes connections
    process.send_signal(signal.SIGCONT)
    assert hanging.returncode == 1
    assert hanging.stderr.startswith(f"{part}: ")
    assert ask(part, **environment).returncode == 0


def test_a_listener_that_refuses_the_probe_is_alive_and_one_that_knows_it_logs_nothing(start, ask, tmp_path):
    _, environment = start("listen", ask, LEUKOSCOPE_CALLING_AE='[{"title": "HEALTHCHECK", "address": "127.0.0.1"}]')
    assert "refused" not in (tmp_path / "log").read_text()
    assert ask("listener", **environment).returncode == 0
    _, environment = start("listen", ask, LEUKOSCOPE_CALLING_AE='[{"title": "SCANNER"}]', LEUKOSCOPE_DATA_DIR=str(tmp_path / "other"))
    assert ask("listener", **environment).returncode == 0
    assert "association refused" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_there_is_unwell(ask, free_port, part):
    port = str(free_port())
    answer = ask(part, LEUKOSCOPE_HTTP_PORT=port, LEUKOSCOPE_DICOM_PORT=port)
    assert answer.returncode == 1
    assert "refused" in answer.stderr


def test_the_wait_for_the_case_book_ends_when_the_migration_is_done(ask, root, tmp_path):
    variables = {"LEUKOSCOPE_DATABASE_URL": f"sqlite:///{tmp_path / 'book.sqlite'}", "PYTHONPATH": str(root)}
    early = ask("book", **variables)
    assert early.returncode == 1
    assert "leukoscope migrate" in early.stderr
    subprocess.run([sys.executable, "-m", "service", "migrate"], env=os.environ | variables, check=True, capture_output=True)
    assert ask("book", "--wait", "10", **variables).returncode == 0

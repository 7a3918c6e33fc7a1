"""The containers' health checks, against real parts of the service."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from deploy import probe
from service.records import upgrade

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
    """Start one part on ports of its own wait until it is ready, and demand that its probe is content."""
    started = []

    def begin(command, ask, **variables):
        ports = {"LEUKOSCOPE_HTTP_PORT": str(free_port()), "LEUKOSCOPE_DICOM_PORT": str(free_port()), "PYTHONPATH": str(root)}
        environment = {"LEUKOSCOPE_DATA_DIR": str(tmp_path / "data"), **ports, **variables}
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([sys.executable, "-m", "service", command], env=os.environ | environment, stderr=log, cwd=tmp_path)
        started.append(process)
        deadline = time.monotonic() + 60
        while not (tmp_path / "data" / "serve.json").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        answer = ask({"listen": "listener", "api": "api"}[command], **environment)
        assert answer.returncode == 0, answer.stderr
        return process, environment

    yield begin
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(75)  # past a minute the service ends itself by force


@pytest.mark.parametrize(("command", "part"), [("listen", "listener"), ("api", "api")])
def test_a_part_that_hangs_is_told_from_one_that_answers(start, ask, command, part, tmp_path):
    process, environment = start(command, ask, LEUKOSCOPE_CALLING_AE='[{"title": "HEALTHCHECK", "address": "127.0.0.1"}]')
    process.send_signal(signal.SIGSTOP)
    hanging = ask(part, "--timeout", "1", **environment)  # the kernel still takes connections
    assert hanging.returncode == 1
    assert hanging.stderr.startswith(f"{part}: ")
    assert "refused" not in (tmp_path / "log").read_text(), "a listener that knows the probe logs nothing of it"


def test_a_listener_that_refuses_the_probe_is_alive(ask):
    entity = AE(ae_title="LEUKOSCOPE")
    entity.add_supported_context(Verification)
    entity.require_calling_aet = ["SCANNER"]
    server = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        answer = ask("listener", LEUKOSCOPE_DICOM_PORT=str(server.server_address[1]))
    finally:
        server.shutdown()
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    "words", [b"SSH-2.0-OpenSSH_9.2\r\n", bytes.fromhex("07000000000400000200"), b""], ids=["SSH", "A-ABORT", "nothing"]
)
def test_something_else_on_the_port_is_no_listener(ask, words):
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=lambda: other.accept()[0].sendall(words))
        thread.start()
        answer = ask("listener", "--timeout", "1", LEUKOSCOPE_DICOM_PORT=str(other.getsockname()[1]))
        thread.join()
    assert answer.returncode == 1


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_there_is_unwell(ask, free_port, part):
    port = str(free_port())
    answer = ask(part, LEUKOSCOPE_HTTP_PORT=port, LEUKOSCOPE_DICOM_PORT=port)
    assert answer.returncode == 1
    assert "refused" in answer.stderr


def test_the_wait_for_the_case_book_ends_when_the_migration_is_done(monkeypatch, tmp_path):
    url = f"sqlite:///{tmp_path / 'book.sqlite'}"
    monkeypatch.setenv("LEUKOSCOPE_DATABASE_URL", url)
    monkeypatch.setenv("LEUKOSCOPE_DATA_DIR", str(tmp_path))
    with pytest.raises(probe.Unwell, match="leukoscope migrate"):
        probe.wait_for_book(0.0)
    migration = threading.Timer(0.3, upgrade, (url,))
    migration.start()
    probe.wait_for_book(60.0)
    migration.join()

"""Back-up and restore, by the commands of deploy/back-up.md as they stand there, of a service that goes on receiving."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.running import Running, series_uid

PAGE = (ROOT / "deploy" / "back-up.md").read_text(encoding="utf-8")
STEPS = dict(re.findall(r"^```sh ([a-z -]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def take(name, backup, data, database, **more):
    """Run the commands of one block of the page."""
    programs = Path(sys.executable).parent
    environ = os.environ | {
        "BACKUP": str(backup),
        "DATA": str(data),
        "DATABASE": database or "",
        "LEUKOSCOPE_DATA_DIR": str(data),
        "PATH": f"{programs}:{os.environ['PATH']}",
        **more,
    }
    done = subprocess.run(["bash", "-euc", STEPS[name]], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (name, done.stdout, done.stderr)
    return " ".join(done.stdout.split())


class Sending:
    """A modality that sends one series after the other until it is told to stop."""

    def __init__(self, service, series):
        self.acknowledged = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(service, series))
        self._thread.start()

    def _send(self, service, series):
        for files in series:
            if self._over.is_set():
                return
            service.push(files)
            self.acknowledged.append(files)

    def stop(self):
        self._over.set()
        self._thread.join()


@pytest.fixture
def make_running(tmp_path, tiny_release):
    made = []

    def make(name, **settings):
        service = Running(tmp_path / name, release=tiny_release, engine="onnxruntime-cpu", quiet_time_s=1, sweep_s=0.5, **settings)
        made.append(service)
        return service

    yield make
    for service in made:
        service.stop()


def facts(case):
    varying = {"deliveries", "received_at"}
    return {name: value for name, value in case.items() if name not in varying}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_back_up_taken_while_receiving_is_restored_elsewhere_and_completed(kind, request, peer, tmp_path, make_running, write_head):
    for program in ("rsync", "sqlite3") if kind == "sqlite" else ("rsync", "pg_dump", "pg_restore"):
        peer(program)
    server = request.getfixturevalue("postgresql") if kind == "postgresql" else None
    database = server.create_database("backup_old") if server else None
    settings = {"database_url": database} if database else {}
    old, backup = make_running("old", **settings), tmp_path / "backup"
    backup.mkdir()
    if database:
        subprocess.run([sys.executable, "-m", "service", "migrate"], env=old.environ, check=True, timeout=60, stdout=subprocess.DEVNULL)
    old.start()
    series = [write_head(f"backup-{kind}-{n}") for n in range(4)]
    old.push(series[0])
    first = old.wait_until(series_uid(series[0]), "done")
    outputs = old.outputs(first)

    sending = Sending(old, series[1:-1])
    try:
        take(f"{kind} back-up", backup, old.data, database)
        acknowledged = list(sending.acknowledged)
        take("files back-up", backup, old.data, database)
        take("files back-up", backup, old.data, database)  # the next day's
    finally:
        sending.stop()
    old.push(series[-1])  # in the case book that is lost, and in no copy
    last = old.wait_until(series_uid(series[-1]), "done")
    last_outputs = old.outputs(last)
    old.kill()

    data = tmp_path / "another-disk" / "data"
    moved = server.create_database("backup_new") if server else None
    more = {"LEUKOSCOPE_DATABASE_URL": moved} if moved else {}
    take("files restore", backup, data, moved)
    take(f"{kind} restore", backup, data, moved)
    said = take("check", backup, data, moved, **more)
    assert "files missing 0" in said
    new = make_running("another-disk/data", **({"database_url": moved} if moved else {}))
    new.start()
    case = new.case_of(series_uid(series[0]))
    assert facts(case) == facts(first), "what was done is as it was, at the same address"
    assert new.outputs(case) == outputs
    for files in acknowledged:
        case = new.wait_until(series_uid(files), "done")
        assert (case["instances"], case["revision"]) == (len(files), 1)
    for files in series:
        new.push(files)
    for files in series:
        assert new.wait_until(series_uid(files), "done")["instances"] == len(files)
    again = new.case_of(series_uid(series[-1]))
    assert (again["id"], again["revision"]) == (last["id"], 1)
    assert new.outputs(again) == last_outputs, "sent again, the same results under the same UIDs"


def test_a_file_that_is_written_anew_is_copied_anew(peer, tmp_path):
    peer("rsync")
    data, backup = tmp_path / "data", tmp_path / "backup"
    for folder in (data / "instances", data / "outputs", backup):
        folder.mkdir(parents=True)
    (data / "installation.key").write_text("x")
    (data / "instances" / "x.dcm").write_bytes(b"damaged")
    take("files back-up", backup, data, None)
    (data / "instances" / "x.dcm").write_bytes(b"whole again")
    take("files back-up", backup, data, None)
    assert (backup / "instances" / "x.dcm").read_bytes() == b"whole again"


def test_a_lost_database_is_made_anew_and_nothing_runs_again(tmp_path, make_running, write_head):
    service = make_running("data")
    service.start()
    done, late = write_head("rebuild-done"), write_head("rebuild-late")
    service.push(done)
    case = service.wait_until(series_uid(done), "done")
    outputs = service.outputs(case)
    service.push(late[:-3])
    command = [sys.executable, "-m", "service", "index", "rebuild"]
    refused = subprocess.run(command, env=service.environ, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "already runs on the data folder" in refused.stderr
    service.kill()
    for path in service.data.glob("leukoscope.sqlite*"):
        path.unlink()
    rebuilt = subprocess.run(command, env=service.environ, capture_output=True, text=True, timeout=120)
    assert rebuilt.returncode == 0, rebuilt.stderr
    service.start()
    again = service.case_of(series_uid(done))
    assert facts(again) == facts(case)
    assert service.outputs(again) == outputs
    service.push(late[-3:])
    assert service.wait_until(series_uid(late), "done")["instances"] == len(late)


def test_every_step_of_the_page_is_run_here():
    used = {"sqlite back-up", "postgresql back-up", "files back-up", "files restore", "sqlite restore", "postgresql restore", "check"}
    assert set(STEPS) == used

"""A real service as a child process, and what a test does with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pydicom

from worker.send import Answer, Peer, read_outgoing, send

START_LIMIT_S = 90.0
FINAL = ("done", "held", "rejected", "failed")


def series_uid(files: Sequence[Path]) -> str:
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


def assert_gone(processes: Sequence[psutil.Process], limit_s: float = 5.0) -> None:
    """None of them runs any more; one that only waits for its new parent to read its exit code is gone."""
    _, left = psutil.wait_procs(processes, timeout=limit_s)
    alive = [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"outlived the service: {[one.cmdline() for one in alive]}"


class Running:
    """`leukoscope serve` on free ports and a data folder of its own."""

    def __init__(self, data: Path, **settings: object) -> None:
        self.data = data
        self.settings = {f"LEUKOSCOPE_{name.upper()}": str(value) for name, value in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, Any] = {}
        self.client = httpx.Client()

    def start(self) -> Running:
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "serve.json").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_LIMIT_S
        while not (self.data / "serve.json").exists():
            assert self.process.poll() is None, self.last_words()
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.05)
        self.ports = json.loads((self.data / "serve.json").read_text())
        self.client.close()
        self.client = httpx.Client(base_url=self.ports["http"] or "", timeout=60.0)
        return self

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "service", "serve"]

    @property
    def environ(self) -> dict[str, str]:
        kept = {"LEUKOSCOPE_RELEASE", "LEUKOSCOPE_ENGINE", "LEUKOSCOPE_PRECISION", "LEUKOSCOPE_THREADS"}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LEUKOSCOPE_") or name in kept}
        ports = {"LEUKOSCOPE_HTTP_PORT": "0", "LEUKOSCOPE_DICOM_PORT": "0", "LEUKOSCOPE_DATA_DIR": str(self.data)}
        return clean | ports | self.settings

    @property
    def log(self) -> Path:
        return self.data.with_suffix(".jsonl")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-12:])

    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def kill(self) -> None:
        """SIGKILL the supervisor only; everything below it has to go with it."""
        assert self.process is not None
        family = self.family()
        self.process.kill()
        self.process.wait()
        assert_gone(family[1:])

    def stop(self, limit_s: float = 60.0) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.client.close()

    def push(self, files: Sequence[Path], title: str = "TEST") -> list[Answer]:
        peer = Peer(self.ports["ae_title"], self.ports["dicom_host"], self.ports["dicom_port"], title)
        answers = send(peer, read_outgoing(files))
        assert all(answer.status == 0 for answer in answers), answers
        return answers

    def cases(self, **query: object) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.client.get("/cases", params=query).raise_for_status().json()["items"]
        return items

    def case_of(self, series_uid: str) -> dict[str, Any]:
        items = self.cases(series_uid=series_uid)
        assert len(items) == 1, items
        return items[0]

    def wait_until(self, series_uid: str, *states: str, limit_s: float = 120.0, revision: int | None = None) -> dict[str, Any]:
        """Poll until the case is in one of the states; a final one that was not asked for fails at once."""
        deadline = time.monotonic() + limit_s
        case: dict[str, Any] = {}
        while time.monotonic() < deadline:
            items = self.cases(series_uid=series_uid)
            case = items[0] if items else {}
            right = revision is None or case.get("revision") == revision
            if case.get("state") in states and right:
                return case
            assert not right or case.get("state") not in {"failed", "rejected"}, (case, self.last_words())
            time.sleep(0.02)
        raise AssertionError((case, self.last_words()))

    def output(self, case: dict[str, Any], name: str) -> bytes:
        return self.client.get(case["outputs"][name]).raise_for_status().content

    def outputs(self, case: dict[str, Any]) -> dict[str, bytes]:
        return {name: self.output(case, name) for name in sorted(case["outputs"])}

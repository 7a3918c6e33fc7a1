"""A real service in processes of its own, on either set of parts, and what a test does with it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pydicom

from worker.send import Answer, Peer, read_outgoing, send

START_LIMIT_S = 90.0
FINAL = ("done", "held", "rejected", "failed")
_KEPT = {"LEUKOSCOPE_RELEASE", "LEUKOSCOPE_ENGINE", "LEUKOSCOPE_PRECISION", "LEUKOSCOPE_THREADS"}


def series_uid(files: Sequence[Path]) -> str:
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


def assert_gone(processes: Sequence[psutil.Process], limit_s: float = 5.0) -> None:
    """None of them runs any more; one that only waits for its new parent to read its exit code is gone."""
    _, left = psutil.wait_procs(processes, timeout=limit_s)
    alive = [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"outlived the service: {[one.cmdline() for one in alive]}"


class Service:
    """What a test does with a service, however its parts are run: push series, ask for cases, fetch outputs."""

    def __init__(self, data: Path, **settings: object) -> None:
        self.data = data
        self.settings = {f"LEUKOSCOPE_{name.upper()}": str(value) for name, value in settings.items()}
        self.extra: dict[str, str] = {}
        self.ports: dict[str, Any] = {}
        self.clients: list[httpx.Client] = []
        self._turn = itertools.count()

    def start(self) -> Service:
        raise NotImplementedError

    def stop(self, limit_s: float = 60.0) -> int:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def family(self) -> list[psutil.Process]:
        raise NotImplementedError

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Start again what dies, as an orchestrator would."""
        raise NotImplementedError
        yield

    @property
    def database(self) -> str:
        return self.settings.get("LEUKOSCOPE_DATABASE_URL") or f"sqlite:///{self.data / 'leukoscope.sqlite'}"

    @property
    def environ(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LEUKOSCOPE_") or name in _KEPT}
        return clean | {"LEUKOSCOPE_DATA_DIR": str(self.data)} | self.settings | self.extra

    @property
    def log(self) -> Path:
        return self.data.with_suffix(".jsonl")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-12:])

    @property
    def client(self) -> httpx.Client:
        """Each request goes to the next of the APIs."""
        return self.clients[next(self._turn) % len(self.clients)]

    def _connect(self, *addresses: str) -> None:
        self._disconnect()
        self.clients = [httpx.Client(base_url=address, timeout=60.0) for address in addresses]

    def _disconnect(self) -> None:
        for client in self.clients:
            client.close()

    def worker(self, queue: str) -> psutil.Process:
        """The (first) parent process of a queue's workers."""
        return self.workers(queue)[0]

    def workers(self, queue: str) -> list[psutil.Process]:
        found = []
        for one in self.family():
            try:
                line = one.cmdline()
            except psutil.NoSuchProcess:
                continue
            if "worker" in line and queue in line:
                found.append(one)
        return [one for one in found if one.ppid() not in {other.pid for other in found}]

    def child(self, queue: str = "inference", limit_s: float = 60.0) -> psutil.Process:
        """The process that does the work of the first worker of a queue, once there is one."""
        deadline = time.monotonic() + limit_s
        while not (children := self.worker(queue).children()):
            assert time.monotonic() < deadline, self.last_words()
            time.sleep(0.05)
        return children[0]

    @property
    def node(self) -> Peer:
        return Peer(self.ports["ae_title"], self.ports["dicom_host"], self.ports["dicom_port"], "TEST")

    def push(self, files: Sequence[Path]) -> list[Answer]:
        answers = send(self.node, read_outgoing(files))
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
            time.sleep(0.05)
        raise AssertionError((case, self.last_words()))

    def output(self, case: dict[str, Any], name: str) -> bytes:
        return self.client.get(case["outputs"][name]).raise_for_status().content

    def outputs(self, case: dict[str, Any]) -> dict[str, bytes]:
        return {name: self.output(case, name) for name in sorted(case["outputs"])}


class Running(Service):
    """`leukoscope serve` on free ports and a data folder of its own."""

    process: subprocess.Popen[bytes] | None = None

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
        self._connect(self.ports["http"] or "")
        return self

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "service", "serve"]

    @property
    def environ(self) -> dict[str, str]:
        return {"LEUKOSCOPE_HTTP_PORT": "0", "LEUKOSCOPE_DICOM_PORT": "0"} | super().environ

    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Start the service again whenever it has died; it needs ports of its own for that."""
        over = threading.Event()

        def keep() -> None:
            while not over.wait(0.1):
                if self.process is not None and self.process.poll() is not None:
                    with suppress(AssertionError):  # killed again while it started
                        self.start()

        thread = threading.Thread(target=keep, name="keeper")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

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
            self._disconnect()

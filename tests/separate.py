"""The full set: every part a process of its own, on PostgreSQL and Redis, kept alive as an orchestrator would."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.running import START_LIMIT_S, Service, assert_gone

PARTS = {
    "listener": ("listen",),
    "api-1": ("api",),
    "api-2": ("api",),
    "inference-1": ("worker", "--queue", "inference"),
    "inference-2": ("worker", "--queue", "inference"),
    "delivery": ("worker", "--queue", "delivery"),
}


def _end_with_the_tests() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Separate(Service):
    """Listener, two APIs, two inference workers and a delivery worker; one that ends is started again."""

    def __init__(self, data: Path, free_port: Callable[[], int], **settings: object) -> None:
        super().__init__(data, **settings)
        self._dicom_port = free_port()
        self._http_ports = {name: free_port() for name in PARTS if name.startswith("api")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._guard = threading.Lock()
        self._keeping = False
        self._keeper: threading.Thread | None = None
        self._over = threading.Event()

    def start(self) -> Separate:
        self.data.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "service", "migrate"], env=self.environ, check=True, timeout=60, stdout=subprocess.DEVNULL)
        self._keeping = True
        if self._keeper is None:
            # The parts die with the thread that forked them: the keeper, which lives as long as they should.
            self._keeper = threading.Thread(target=self._keep_alive, name="keeper", daemon=True)
            self._keeper.start()
        self.ports = {"ae_title": "LEUKOSCOPE", "dicom_host": "127.0.0.1", "dicom_port": self._dicom_port}
        for port in (self._dicom_port, *self._http_ports.values()):
            self._wait_for(port)
        self._connect(*(f"http://127.0.0.1:{port}" for port in self._http_ports.values()))
        return self

    def _wait_for(self, port: int) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self.last_words()
                time.sleep(0.05)

    def _keep_alive(self) -> None:
        while not self._over.wait(0.1):
            with self._guard:
                for name in PARTS if self._keeping else ():
                    if name not in self.processes or self.processes[name].poll() is not None:
                        self.processes[name] = self._spawn(name)

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        ports = {"LEUKOSCOPE_HTTP_PORT": str(self._http_ports.get(name, 0)), "LEUKOSCOPE_DICOM_PORT": str(self._dicom_port)}
        command = [sys.executable, "-m", "service", *PARTS[name]]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                env=self.environ | ports,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_the_tests,  # noqa: PLW1509
            )

    def family(self) -> list[psutil.Process]:
        found = []
        for process in list(self.processes.values()):
            try:
                parent = psutil.Process(process.pid)
                found += [parent, *parent.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        return found

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """They always are."""
        yield

    def kill(self) -> None:
        """SIGKILL every part; what they started has to go with them."""
        family = self.family()
        with self._guard:
            self._keeping = False
            for process in self.processes.values():
                process.kill()
                process.wait()
            self.processes.clear()
        assert_gone(family)

    def kill_part(self, name: str) -> None:
        """SIGKILL one part; it is started again."""
        self.processes[name].kill()

    def stop(self, limit_s: float = 60.0) -> int:
        if self._keeper is None:
            return 0
        codes = [0]
        with self._guard:
            self._keeping = False
        try:
            for process in self.processes.values():
                process.send_signal(signal.SIGTERM)
            codes += [process.wait(limit_s) for process in self.processes.values()]
        finally:
            for process in self.processes.values():
                process.kill()
                process.wait()
            self._over.set()
            self._keeper.join()
            self._keeper = None
            self._disconnect()
        return max(codes, key=abs)

"""Redis and PostgreSQL as real processes of the tests' own, that can be stopped, frozen, killed and started again."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import create_engine, text

Find = Callable[[str], str]
_GIVEN: set[int] = set()
_RANDOM = random.SystemRandom()  # Hypothesis seeds the other one, and tests run side by side


def find_program(name: str) -> str | None:
    """Give the path of a program; Debian keeps PostgreSQL's off PATH."""
    elsewhere = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or next((str(path) for path in elsewhere), None)


def find_port() -> int:
    """Give the number of a port nobody listens on, never the same twice, below those the system lends to outgoing connections."""
    while True:
        port = _RANDOM.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port


class RedisServer:
    """A broker that keeps nothing on disk."""

    def __init__(self, program: str, port: int) -> None:
        self._command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.url = f"redis://127.0.0.1:{port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, cwd="/tmp")
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        client.close()
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class PostgresServer:
    """A cluster in a temporary folder, reached over a socket in it."""

    def __init__(self, find: Find) -> None:
        self._programs = {name: find(name) for name in ("initdb", "pg_ctl")}
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid}
        self._call("initdb", "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8")

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://tester@/{database}?host={self.folder}"

    def start(self) -> PostgresServer:
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off -c shared_buffers=32MB"
        self._call("pg_ctl", "-w", "-l", f"{self.folder}/log", "-o", options, "start")
        return self

    def stop(self) -> None:
        """At once, as by a crash: recovery runs at the next start."""
        self._call("pg_ctl", "-m", "immediate", "-w", "stop")

    def freeze(self, frozen: bool) -> None:
        """Let every server process stand still, or go on."""
        postmaster = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        for pid in (
            postmaster,
            *(int(pid) for pid in subprocess.run(["pgrep", "-P", str(postmaster)], capture_output=True).stdout.split()),
        ):
            os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def create_database(self, name: str) -> str:
        engine = create_engine(self.url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url_of(name)

    def remove(self) -> None:
        try:
            self.stop()
        except subprocess.CalledProcessError:
            pass  # it was stopped already
        shutil.rmtree(self.folder, ignore_errors=True)

    def _call(self, program: str, *arguments: str) -> None:
        command = [self._programs[program], "-D", f"{self.folder}/data", *arguments]
        silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(command, check=True, cwd=self.folder, timeout=60, **silent, **self._as_user)

"""Child processes that do the heavy work: started, restarted with back-off, and never left behind."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

LOG = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_HEALTHY_AFTER_S = 20.0
PARENT_VARIABLE = "CHILD_OF_LEUKOSCOPE"


def die_with_parent(environ: Mapping[str, str]) -> None:
    """Ask the kernel to kill this process when the one that started it dies, however that happens.

    Called first thing in a child; a parent that died before this line is noticed by the changed parent id.
    """
    expected = environ.get(PARENT_VARIABLE)
    if expected is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(expected):
        sys.exit(1)


@dataclass
class Child:
    """One supervised process. Start and check it from one thread that lives as long as the children should.

    The kernel ties a death signal to the thread that forked, so a short-lived one would take the child with it.
    """

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started_at: float = 0.0
    next_start_at: float = field(default=0.0)
    on_end: Callable[[int], None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def start(self) -> None:
        """Start the process in a session of its own, so that a terminal's Ctrl-C reaches only the supervisor."""
        environ = {**self.environ, PARENT_VARIABLE: str(os.getpid())}
        command = [sys.executable, "-m", "service", *self.arguments]
        # Its log goes to our standard error; Celery's greetings on standard output go nowhere.
        self.process = subprocess.Popen(command, env=environ, start_new_session=True, stdout=subprocess.DEVNULL)
        self.started_at = time.monotonic()
        LOG.info("child started", extra={"part": self.name, "pid": self.process.pid})

    def check(self) -> None:
        """Restart the process if it ended; wait longer each time it ends soon after its start."""
        if self.process is not None and self.process.poll() is None:
            return
        now = time.monotonic()
        if self.process is not None:
            self._note_end(now)
        if now >= self.next_start_at:
            self.start()

    def _note_end(self, now: float) -> None:
        assert self.process is not None
        self.failures = 0 if now - self.started_at > _HEALTHY_AFTER_S else self.failures + 1
        pause_s = min(_FIRST_PAUSE_S * 2**self.failures, _LONGEST_PAUSE_S) if self.failures else 0.0
        LOG.error("child ended", extra={"part": self.name, "status": self.process.returncode, "seconds": pause_s})
        self._kill_group()
        pid, self.process = self.process.pid, None
        self.next_start_at = now + pause_s
        if self.on_end is not None:
            self.on_end(pid)

    def stop(self, deadline: float) -> None:
        """Wait for a process that was asked to end; past the deadline (monotonic seconds) its whole group is killed."""
        if self.process is None:
            return
        try:
            self.process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            LOG.warning("child killed", extra={"part": self.name})
        self._kill_group()
        self.process.wait()

    def terminate(self) -> None:
        """Ask for an orderly end: a worker finishes the case in hand."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """End a process that does not react; `check` notices and starts it again."""
        if self.process is not None:
            self._kill_group()

    def _kill_group(self) -> None:
        assert self.process is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

"""A process that does the heavy work for this one: kept, replaced when lost, killed when late, and gone when this one is.

Celery's own prefork pool shares locks with its children: an idle child that is killed takes the queue's lock with it and its
successor waits for ever (deploy/decisions/0005-own-child.md). Here parent and child share one pipe and nothing else.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

LOG = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_FORK = multiprocessing.get_context("fork")

Work = Callable[[Any, Callable[[Any], None]], None]
"""Called with what is to be done, and with a function that says a word to the parent meanwhile (never None)."""


class ChildLost(Exception):
    """The child died while it worked, or was killed because it was late; it has been replaced."""

    def __init__(self, reason: str, *, late: bool) -> None:
        super().__init__(reason)
        self.late = late


class WorkChild:
    """Keeps one child.

    Parameters
    ----------
    prepare : called in the child once, gives what is called there for every job

    Attributes
    ----------
    forking : held while a child is made; whoever holds it has something open that must not be carried across a fork
    """

    def __init__(self, prepare: Callable[[], Work]) -> None:
        self._prepare = prepare
        self._guard = threading.Lock()
        self.forking = threading.Lock()
        self._process: Any = None
        self._line: Connection | None = None
        self._ready = False

    def start(self) -> None:
        """Fork the child, if there is none that lives. The thread that does must live as long as the child should."""
        if self._process is not None and self._process.is_alive():
            return
        self._forget()
        ours, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_attend, args=(theirs, ours, os.getpid(), self._prepare), name="child", daemon=True)
        with self.forking:
            self._process.start()
        theirs.close()
        self._line, self._ready = ours, False
        LOG.info("child started", extra={"pid": self._process.pid})

    def work_on(self, job: Any, limit_s: float, heard: Callable[[Any], None] | None = None) -> None:
        """Have the child do a job, one at a time.

        Parameters
        ----------
        limit_s : seconds it may take, and may let pass after each word that it says; a new child has as long again to make itself ready
        heard : told each word

        Raises
        ------
        ChildLost
            With the reason, for the case's record.
        """
        with self._guard:
            self.start()
            assert self._line is not None
            try:
                if not self._ready:
                    self._hear(self._line, limit_s)
                    self._ready = True
                self._line.send(job)
                while (word := self._hear(self._line, limit_s)) is not None:
                    if heard is not None:
                        heard(word)
                return
            except TimeoutError:
                lost = ChildLost(f"not {'done' if self._ready else 'ready'} within {limit_s:g} s", late=True)
            except (EOFError, OSError):
                lost = ChildLost(f"its process died while {'working on it' if self._ready else 'it started'}", late=False)
            self._replace()
        raise lost

    def _hear(self, line: Connection, limit_s: float) -> Any:
        """Wait for the child's next word. Raises TimeoutError; EOFError when the child is dead."""
        ready = wait([line, self._process.sentinel], timeout=limit_s)
        if not ready:
            raise TimeoutError
        if line not in ready:
            raise EOFError
        return line.recv()

    def _replace(self) -> None:
        self._process.kill()
        self._process.join()
        LOG.error("child lost", extra={"pid": self._process.pid, "status": self._process.exitcode})
        self.start()

    def _forget(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


def _attend(line: Connection, other_end: Connection, parent: int, prepare: Callable[[], Work]) -> None:
    """Run in the child: work on what comes through the line, until its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the parent ends in good order and takes this process along
    other_end.close()
    try:
        work = prepare()
        line.send(None)
        while True:
            work(line.recv(), line.send)
            line.send(None)
    except EOFError:
        os._exit(0)
    except BaseException:
        LOG.exception("the child ends by a defect")
        os._exit(1)

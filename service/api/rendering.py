"""Has frames drawn by a child process (worker.render), one at a time; the API itself decodes nothing."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from typing import Any, Final

from service.errors import Rejected

LOG = logging.getLogger(__name__)
LIMIT_S: Final = 20.0


class Renderer:
    """The child is started with the first picture, kept, and replaced when it dies or hangs.

    It ends by itself when this process does: its input is over then.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def draw(self, **wish: Any) -> bytes:
        """
        Draw one frame; the arguments are those of `worker.render.Wish`.

        Raises
        ------
        Rejected
            It cannot be shown, or not within the limit.
        """
        with self._lock:
            process = self._child()
            timer = threading.Timer(self._limit_s, process.kill)
            timer.start()
            try:
                return _exchange(process, json.dumps(wish).encode() + b"\n")
            except OSError:
                return self._lost(process)
            finally:
                timer.cancel()

    def stop(self) -> None:
        """End the child."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            _close(process)

    def _child(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "worker.render"]
            environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # its threads would take address space, which the child limits
            self._process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        return self._process

    def _lost(self, process: subprocess.Popen[bytes]) -> bytes:
        process.kill()
        LOG.error("the child that draws was lost", extra={"pid": process.pid, "status": process.wait()})
        _close(process)
        self._process = None
        raise Rejected(f"its pixels could not be decoded within {self._limit_s:g} s, or the decoder died of them")


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Raises Rejected, and OSError where the child is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    head = process.stdout.readline()
    if not head.endswith(b"\n"):
        raise BrokenPipeError
    told = json.loads(head)
    if "refused" in told:
        raise Rejected(str(told["refused"]))
    picture = process.stdout.read(int(told["size_bytes"]))
    if len(picture) != told["size_bytes"]:
        raise BrokenPipeError
    return picture


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                pass

"""Writing that is durable when it returns, and shares its waiting for the disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.errors import Unavailable

_BLOCK = 1 << 20


def write_durably(path: Path, parts: tuple[bytes, ...], mode: int = 0o640) -> None:
    """Write a new file and wait until the disk has it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give_to_owner(target: Path | int, folder: Path) -> None:
    """What a command of root wrote belongs to whom `folder` belongs: the service must be able to use it. `target` may be a descriptor."""
    if os.getuid() == 0:
        whose = folder.stat()
        with suppress(PermissionError):  # an export that takes root for nobody
            os.chown(target, whose.st_uid, whose.st_gid)


def holds(path: Path, parts: tuple[bytes, ...]) -> bool:
    """Tell whether a file is there with exactly these bytes: one that was damaged since is to be written again."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != sum(map(len, parts)):
                return False
            return all(file.read(len(block)) == block for part in parts for block in _blocks(part))
    except FileNotFoundError:
        return False


def _blocks(part: bytes) -> Iterator[memoryview]:
    view = memoryview(part)
    return (view[start : start + _BLOCK] for start in range(0, len(view), _BLOCK))


def fsync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_trouble() -> Iterator[None]:
    """Turn a disk that is full, read-only, failing or away into Unavailable; whether a missing file is a trouble, the caller knows."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unavailable(f"the object store: {error.strerror}") from error


_TICK_NS = 20_000_000
_KNOWN_AT_MOST = 10_000


class FolderSync:
    """One fsync of a folder serves every rename that finished before it began (group commit)."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._turns: dict[Path, _Turn] = {}
        self._known: dict[Path, int] = {}

    def sync(self, folder: Path) -> None:
        """Return when every entry that is in `folder` now is durable."""
        with self._guard:
            turn = self._turns.setdefault(folder, _Turn())
            turn.waiting += 1
            ticket = turn.started + 1  # the next fsync to start covers this rename
        try:
            with turn.lock:
                if turn.finished < ticket:
                    turn.started += 1
                    mine = turn.started
                    fsync_folder(folder)
                    turn.finished = mine
        finally:
            with self._guard:
                turn.waiting -= 1
                if not turn.waiting:
                    self._turns.pop(folder, None)

    def sync_once(self, parent: Path, folder: Path) -> None:
        """Make the entry of `folder` in `parent` durable, unless this process did, and `parent` is unchanged since.

        Call it when something is in `folder` already: from then on nobody removes it and makes another of its name.
        """
        stamp = parent.stat().st_mtime_ns
        if self._known.get(folder) == stamp:
            return
        self.sync(parent)
        # Changes within one tick of the file system's clock look like one: remember only what is older than any tick.
        if time.time_ns() - stamp > _TICK_NS:
            if len(self._known) >= _KNOWN_AT_MOST:
                self._known.clear()
            self._known[folder] = stamp


class _Turn:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting = 0
        self.started = 0
        self.finished = 0

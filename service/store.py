"""DICOM objects and results on disk: written whole or not at all, durable when a call returns, named by their content.

Layout below the root (the data folder)::

    instances/<series key>/<sha256>.dcm     Part-10 files, exactly the data set that came in
    outputs/<case id>/<kind>-<sha256>       results
    incoming/<host>-<pid>-<random>          half-written files of living processes

All paths handed out are relative to the root, so that a moved or restored data folder is found again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service.durable import FolderSync, disk_trouble, give_to_owner, holds, write_durably
from service.errors import Unavailable

INSTANCES = "instances"
OUTPUTS = "outputs"
INCOMING = "incoming"

# A leftover of another host is rubbish when it is older than any upload may last.
LEFTOVER_AGE_S = 24 * 3600.0
_RENAMES = 5

_IMPLEMENTATION_CLASS_UID = "2.25.264893416718291652817734018201574120413"
_IMPLEMENTATION_VERSION = b"LEUKOSCOPE"
_LONGEST_VALUE = 0xFFFE


@dataclass(frozen=True)
class StoredInstance:
    """A durable Part-10 file: `path` relative to the root, `digest` the SHA-256 of the file, `size` in bytes."""

    path: str
    digest: str
    size: int


class Store:
    """The object store of one data folder; any number of threads and processes may share it."""

    def __init__(self, root: Path, minimum_free_mb: int = 0) -> None:
        self.root = root.absolute()
        self._minimum_free = minimum_free_mb * 1024 * 1024
        self._folders = FolderSync()
        with disk_trouble():
            for name in (INSTANCES, OUTPUTS, INCOMING):
                (self.root / name).mkdir(parents=True, exist_ok=True)

    def put_instance(
        self, dataset: bytes, *, series_uid: str, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> StoredInstance:
        """Keep one encoded data set as a Part-10 file; the same bytes again are the same file.

        Parameters
        ----------
        dataset
            The encoded data set as received, without preamble and file meta information.

        Raises
        ------
        Unavailable
            The disk is full, read-only or failing. Nothing was stored; the sender may repeat.

        References
        ----------
        PS3.10 7.1
        """
        head = encode_file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        digest = hashlib.sha256(head)
        digest.update(dataset)
        name = digest.hexdigest()
        folder = f"{INSTANCES}/{series_key(series_uid)}"
        self._put(folder, f"{name}.dcm", (head, dataset))
        return StoredInstance(f"{folder}/{name}.dcm", name, len(head) + len(dataset))

    def put_output(self, case_id: str, kind: str, data: bytes) -> str:
        """Keep one result and return its path; the same bytes again are the same file. Raises Unavailable."""
        folder = f"{OUTPUTS}/{_safe(case_id)}"
        name = f"{_safe(kind)}-{hashlib.sha256(data).hexdigest()}"
        self._put(folder, name, (data,))
        return f"{folder}/{name}"

    def rename_output(self, path: str, to: str) -> None:
        """Give a result in the same folder another name, whole and durably. Raises FileNotFoundError, Unavailable."""
        with disk_trouble():
            target = self.path_of(path).replace(self.path_of(to))
            self._folders.sync(target.parent)

    def every_instance(self) -> Iterator[Path]:
        """Walk over all stored instances, series by series (to make the index anew)."""
        for folder in sorted((self.root / INSTANCES).iterdir()):
            yield from sorted(folder.glob("*.dcm"))

    def every_output(self, kind: str = "") -> Iterator[Path]:
        """Walk over all stored results, of one kind or all, case by case."""
        for folder in sorted((self.root / OUTPUTS).iterdir()):
            yield from sorted(folder.glob(f"{_safe(kind)}-*" if kind else "*"))

    def path_of(self, relative: str) -> Path:
        """Give the file of a path handed out earlier; ValueError for one that leads outside."""
        path = self.root / relative
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError("a path outside the store")
        return path

    def relative(self, path: Path) -> str:
        """Give the form in which the case book keeps `path`."""
        return path.absolute().relative_to(self.root).as_posix()

    def open_output(self, path: str) -> BinaryIO:
        """Open a result for reading; FileNotFoundError when it was cleaned away."""
        return self.path_of(path).open("rb")

    def upload_file(self) -> Path:
        """Name a new file for an upload in progress, on the store's own file system; the caller removes it."""
        return self.root / INCOMING / _temporary_name()

    def free_bytes(self) -> int:
        """Bytes an unprivileged process can still write here. Raises Unavailable."""
        with disk_trouble(), _away():
            return shutil.disk_usage(self.root).free

    def demand_instances(self) -> None:
        """Raise Unavailable where the folder of all instances is away: what is missing then comes back with it."""
        with disk_trouble(), _away():
            os.close(os.open(self.root / INSTANCES, os.O_RDONLY | os.O_DIRECTORY))

    @property
    def reserve_bytes(self) -> int:
        """Nothing is written when less than this is free."""
        return self._minimum_free

    def check_space(self) -> None:
        """Raise Unavailable when less than the configured reserve is free, or the folder is away."""
        free = self.free_bytes()
        if free < self._minimum_free:
            raise Unavailable(f"disk nearly full: {free // 1024**2} MiB free, {self._minimum_free // 1024**2} MiB kept in reserve")

    def remove(self, paths: Sequence[str]) -> int:
        """Unlink files, and their folders where these are empty then; gives how many files there were. Raises Unavailable."""
        count = 0
        with disk_trouble():
            for path in map(self.path_of, paths):
                with suppress(FileNotFoundError):
                    path.unlink()
                    count += 1
            for folder in {(self.root / path).parent for path in paths}:
                with suppress(FileNotFoundError), _unless_filled():
                    folder.rmdir()
        return count

    def has_file(self, path: str) -> bool:
        """Tell whether a file is there; it is opened, since a shared file system may answer a mere look from memory."""
        try:
            os.close(os.open(self.root / path, os.O_RDONLY))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unavailable(f"the object store: {error.strerror}") from error
        return True

    def clean_leftovers(self) -> int:
        """Remove half-written files of processes that are gone; living processes keep theirs. Returns how many."""
        count = 0
        for path in (self.root / INCOMING).iterdir():
            if _is_abandoned(path):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    count += 1
        return count

    def _put(self, folder: str, name: str, parts: tuple[bytes, ...]) -> None:
        for _ in range(_RENAMES):
            with disk_trouble(), suppress(FileNotFoundError):  # the retention removes files and folders at any moment
                self._put_once(self.root / folder / name, parts)
                return
        raise Unavailable("the object store: its folders vanish")

    def _put_once(self, target: Path, parts: tuple[bytes, ...]) -> None:
        if not holds(target, parts):
            self.check_space()
            temporary = self.upload_file()
            try:
                write_durably(temporary, parts)
                give_to_owner(temporary, self.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                give_to_owner(target.parent, self.root)
                temporary.rename(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        # Also of a file that was there: another process may have renamed it a moment ago.
        self._folders.sync(target.parent)
        self._folders.sync_once(target.parent.parent, target.parent)


def encode_file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode preamble, prefix and file meta information; the same for the same three UIDs (PS3.10 7.1)."""
    elements = b"".join(
        (
            _element(0x0001, b"OB", b"\x00\x01"),
            _element(0x0002, b"UI", _uid(sop_class_uid)),
            _element(0x0003, b"UI", _uid(sop_instance_uid)),
            _element(0x0010, b"UI", _uid(transfer_syntax_uid)),
            _element(0x0012, b"UI", _uid(_IMPLEMENTATION_CLASS_UID)),
            _element(0x0013, b"SH", _IMPLEMENTATION_VERSION),
        )
    )
    return b"\x00" * 128 + b"DICM" + _element(0x0000, b"UL", struct.pack("<I", len(elements))) + elements


def _element(number: int, representation: bytes, value: bytes) -> bytes:
    """Encode one element of group 0002, always explicit little endian (PS3.5 7.1.2)."""
    length = struct.pack("<HI", 0, len(value)) if representation == b"OB" else struct.pack("<H", len(value))
    return struct.pack("<HH", 0x0002, number) + representation + length + value


def _uid(uid: str) -> bytes:
    value = uid.encode("ascii", "replace")[:_LONGEST_VALUE]
    return value + b"\x00" * (len(value) % 2)


def series_key(series_uid: str) -> str:
    """Name the folder of a series: no UID, however odd, leads anywhere else."""
    return hashlib.sha256(series_uid.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def _safe(name: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80]
    if not cleaned.strip("."):
        raise ValueError("not a name for a file")
    return cleaned


@contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable("the object store: its folder is away") from error


@contextmanager
def _unless_filled() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise


def _temporary_name() -> str:
    return f"{_host()}-{os.getpid()}-{secrets.token_hex(8)}"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname()) or "host"


def _is_abandoned(path: Path) -> bool:
    host, _, rest = path.name.partition("-")
    pid = rest.partition("-")[0]
    try:
        if time.time() - path.stat().st_mtime > LEFTOVER_AGE_S:
            return True
    except FileNotFoundError:
        return False
    if host != _host() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False

"""The audit trail beside the database: a JSON object a line, a file for each month, host and user, only appended to (decision 0018)."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from service.durable import disk_trouble, fsync_folder, give_to_owner
from service.errors import Unavailable
from service.filed import canonical, why_not

FOLDER: Final = "audit"
_NAME: Final = re.compile(r"\d{4}-\d{2}\.[A-Za-z0-9-]+\.jsonl")
_Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # what every database takes
_TRIES, _PAUSE_S = 50, 0.1  # others hold the lock for the time of one fsync


class _Line(BaseModel):
    """What a line holds: the columns of the case book's table, but for the number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    at: AwareDatetime
    event: _Text = Field(max_length=64)
    what: _Text
    actor_kind: _Text = Field(max_length=16)
    actor: _Text
    address: _Text
    case_id: _Text | None = Field(max_length=40)
    study_uid: _Text | None
    patient_key: _Text | None = Field(max_length=64)
    outcome: _Text = Field(max_length=16)
    count: int = Field(ge=0, lt=2**31)


class AuditFile:
    """The files of one installation; any number of threads, processes and hosts may share them. Entries hold identifiers, no names."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER

    def append(self, rows: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """
        Write entries and wait until the disk has them; all of them, or none.

        Parameters
        ----------
        rows : as the case book has them, without their numbers

        Raises
        ------
        Unavailable
            The disk is full, read-only, failing or away, or another process does not let go of the file.
        """
        data = b"".join(_encode(row) for row in rows)
        with _named_trouble():
            with suppress(FileExistsError):
                self._folder.mkdir(mode=0o750)  # not its parents: a data folder that is not mounted must not be made
                give_to_owner(self._folder, self._folder.parent)
                fsync_folder(self._folder.parent)
            # of each user its own: one that root made, the service could not write
            path = self._folder / f"{now.astimezone(UTC):%Y-%m}.{_host()}-{os.getuid()}.jsonl"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
            try:
                give_to_owner(descriptor, self._folder.parent)
                _lock(descriptor)
                if _write(descriptor, data):
                    fsync_folder(self._folder)
            finally:
                os.close(descriptor)

    def read(self, damaged: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Give every entry, file by file; `damaged` is told by file how many lines are none, or why it cannot be read."""
        for path in self._files():
            bad = 0
            try:
                for entry in _entries(path):
                    if entry is not None:
                        yield entry
                    bad += entry is None
            except OSError as error:
                damaged[f"{FOLDER}/{path.name}"] = why_not(error)
            else:
                if bad:
                    damaged[f"{FOLDER}/{path.name}"] = f"{bad} lines are no entries"

    def forget(self, before: datetime) -> None:
        """Remove the files of months that were over before this moment. Raises Unavailable."""
        with _named_trouble():
            for path in self._files():
                year, month = map(int, path.name.partition(".")[0].split("-"))
                if datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC) <= before:
                    path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.jsonl") if _NAME.fullmatch(path.name))


def _encode(row: Mapping[str, Any]) -> bytes:
    values = dict(row) | {"at": row["at"].astimezone(UTC).isoformat()}
    return canonical(values) + b"\n"


def _entries(path: Path) -> Iterator[dict[str, Any] | None]:
    with path.open("rb") as lines:
        yield from map(_decode, lines)


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        return _Line.model_validate_json(line).model_dump()
    except ValidationError:
        return None


def _lock(descriptor: int) -> None:
    """Wait for the others, but not for one that hangs."""
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_PAUSE_S)
    raise Unavailable("the audit file: another process holds it")


def _write(descriptor: int, data: bytes) -> bool:
    """Append; gives whether that was the first of the file."""
    end = os.fstat(descriptor).st_size
    if end and os.pread(descriptor, 1, end - 1) != b"\n":  # what a loss of power left in the middle of a line
        data = b"\n" + data
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, end)
        raise
    return end == 0


@contextmanager
def _named_trouble() -> Iterator[None]:
    try:
        with disk_trouble():
            yield
    except FileNotFoundError as error:
        raise Unavailable("the audit file: the data folder is away") from error


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "", socket.gethostname()) or "host"

"""Files of TLS while the service runs: new ones are used for the next connection, and it is told some weeks before one ends."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from service.errors import Misconfigured
from service.sections import DicomTls, Secured, Trusting
from service.tls.contexts import check_call, door_context
from service.tls.dates import first_end

LOG = logging.getLogger(__name__)
LOOK_EVERY_S: Final = 1.0
TOLD_BEFORE: Final = timedelta(days=30)

Made = TypeVar("Made")


class Renewed(Generic[Made]):
    """
    What is made of files, made anew when they change on disk. New files that cannot be used leave what the old ones made.

    Parameters
    ----------
    where : what the settings call them together, for the log
    files : by what the settings call each; those whose end is told
    watched : all files that are looked at
    make : raises Misconfigured, which goes into the log
    at_start : what there is until files can be used; without it the first Misconfigured goes to the caller
    meanwhile : what the log says goes on while new files cannot be used

    Attributes
    ----------
    ends : when the certificates and revocation lists in use end, by what the settings call their files
    trouble : why the files that are on disk now are not used, empty where they are
    """

    def __init__(
        self,
        where: str,
        files: Mapping[str, Path],
        watched: Sequence[Path],
        make: Callable[[], Made],
        *,
        meanwhile: str,
        at_start: Made | None = None,
    ) -> None:
        self._where = where
        self._files = dict(files)
        self._watched = tuple(watched)
        self._make = make
        self._meanwhile = meanwhile
        self._lock = threading.Lock()
        self._seen = self._state()
        self._looked_at = time.monotonic()
        self._told_on: dict[str, date] = {}
        self.trouble = ""
        self.ends: dict[str, datetime] = {}
        try:
            self._made = make()
        except Misconfigured as error:
            if at_start is None:
                raise
            self._made = at_start
            self._tell_trouble(str(error))
        else:
            self.ends = self._read_ends()
            self._tell_ends()

    def get(self) -> Made:
        """Give what the newest files make that could be used; the disk is looked at once a second at most."""
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
                self._look()
                self._looked_at = time.monotonic()
            return self._made

    def _look(self) -> None:
        self._tell_ends()
        state = self._state()  # before the files are read: what changes meanwhile is seen with the next look
        if state == self._seen and not self.trouble:
            return
        try:
            self._made = self._make()
        except Misconfigured as error:
            self._seen = state
            self._tell_trouble(str(error))
            return
        self._seen, self.trouble = state, ""
        self.ends = self._read_ends()
        LOG.info("%s: new TLS files are used", self._where)
        self._tell_ends()

    def _tell_trouble(self, trouble: str) -> None:
        if trouble != self.trouble:
            LOG.error("new TLS files cannot be used, %s: %s", self._meanwhile, trouble)
        self.trouble = trouble

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_state_of(path) for path in self._watched]

    def _read_ends(self) -> dict[str, datetime]:
        ends = {}
        for name, path in self._files.items():
            try:
                end = first_end(path)
            except (OSError, ValueError):
                continue
            if end is not None:
                ends[name] = end
        return ends

    def _tell_ends(self) -> None:
        """Write a line of log a day for each that ends soon, or has ended."""
        today = datetime.now(UTC).date()
        for name, note in notes_of(self.ends):
            if self._told_on.get(name) != today:
                self._told_on[name] = today
                LOG.warning("%s", note)


def renewed_door(chosen: DicomTls) -> Renewed[ssl.SSLContext]:
    """Make the context of the TLS port, and keep it as new as its files. Raises Misconfigured as `door_context`."""
    files = {"dicom_tls.certificate_file": chosen.certificate_file}
    if chosen.crl_file is not None:
        files["dicom_tls.crl_file"] = chosen.crl_file
    watched = [chosen.key_file, chosen.client_ca_file, *files.values()]
    return Renewed("dicom_tls", files, watched, lambda: door_context(chosen), meanwhile="the old ones stay")


def renewed_call(where: str, called: Trusting) -> Renewed[object]:
    """Look after the files for calling a node or a web service; each call reads them anew."""
    node = called if isinstance(called, Secured) else Secured()
    named = {"certificate_file": node.certificate_file, "crl_file": called.crl_file}
    files = {f"{where}: {name}": path for name, path in named.items() if path is not None}
    more = [path for path in (called.ca_file, node.key_file) if path is not None]
    watched = [*more, *files.values()]
    return Renewed(where, files, watched, lambda: check_call(where, called), meanwhile="it is not called", at_start=False)


def tell_of(kept: Iterable[Renewed[Any]]) -> dict[str, Any]:
    """Look at the files, and give what a process tells of them in the case book: their ends, and whether new ones could not be used."""
    ends: dict[str, str] = {}
    troubled = False
    for one in kept:
        one.get()
        ends |= {name: end.isoformat() for name, end in one.ends.items()}
        troubled = troubled or bool(one.trouble)
    return {"ends": ends, "troubled": troubled}


def ends_told(detail: Mapping[str, Any]) -> dict[str, datetime]:
    """Read the ends that a process told of, by file."""
    return {name: datetime.fromisoformat(end) for name, end in detail.get("tls", {}).get("ends", {}).items()}


def is_troubled(detail: Mapping[str, Any]) -> bool:
    """Tell whether a process could not use new files."""
    return bool(detail.get("tls", {}).get("troubled"))


def notes_of(ends: Mapping[str, datetime]) -> Iterator[tuple[str, str]]:
    """Give a line for each file that ends within thirty days, or has ended; it names no path."""
    now = datetime.now(UTC)
    for name, end in ends.items():
        if end <= now:
            yield name, f"{name} ended at {end:%Y-%m-%d %H:%M} UTC"
        elif end - now < TOLD_BEFORE:
            yield name, f"{name} ends at {end:%Y-%m-%d %H:%M} UTC, in {(end - now).days} days"


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

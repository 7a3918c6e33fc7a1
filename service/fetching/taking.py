"""What a fetch takes in: instances of the series that was asked for, of one patient, no more than an upload may bring."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO, Final

from service.errors import Rejected, Unavailable
from service.headers import Header, read_file, read_header
from service.intake import Intake
from service.intake.handover import Announced, Asked, Source
from service.records import Case, Fetch
from service.records.fetches import OVER_OURS
from service.settings import HEADER_BYTES, Settings

OTHER_SERIES: Final = "an instance of another series"


class NotAsked(Rejected):
    """An instance that nobody asked for; it is not taken."""


class TooMuch(Rejected):
    """The series is larger than an upload may be."""


class Taking:
    """The sender of one fetch, as the intake sees it; instances come one at a time.

    Attributes
    ----------
    count : instances that the present way brought, known ones too
    total : those of all ways
    strangers : how many instances of the present way were not taken, by why
    excess : set when a limit was passed
    """

    def __init__(self, settings: Settings, intake: Intake, fetch: Fetch, case: Case | None, stop: threading.Event) -> None:
        self._intake = intake
        self._fetch = fetch
        self._stop = stop
        self._most_files, self._most_bytes = settings.maximum_upload_files, settings.maximum_upload_bytes
        self._patient = (case.patient_id, case.patient_issuer) if case is not None and case.instances else None
        self._most_of_one = settings.maximum_series_bytes + HEADER_BYTES
        self._bytes = 0
        self._trouble: Unavailable | None = None
        self.sender = Source(f"{OVER_OURS}{secrets.token_hex(8)}", fetch.source)
        self.count = self.total = 0
        self.strangers: dict[str, int] = {}
        self.excess: TooMuch | None = None

    def take(self, source: BinaryIO | Path, announced: Announced | None = None) -> None:
        """
        Take one instance, a file or the data set of a C-STORE; durable and indexed when this returns.

        Raises
        ------
        NotAsked, TooMuch
            Not taken; counted.
        Rejected, Unavailable
            As `Intake.receive`; Unavailable also while the service stops.
        """
        self.check_going_on()
        if isinstance(source, Path):
            with source.open("rb") as stream:
                self._take(stream, announced)
        else:
            self._take(source, announced)

    def _take(self, stream: BinaryIO, announced: Announced | None) -> None:
        start = stream.tell()
        size_bytes = stream.seek(0, SEEK_END) - start
        stream.seek(start)
        self.check_instance(size_bytes)
        self._bytes += size_bytes
        self.check_amount(self.count + sum(self.strangers.values()) + 1, self._bytes)
        try:
            header = self._look(stream, announced)
        except Rejected as error:
            self.strangers[error.reason] = self.strangers.get(error.reason, 0) + 1
            raise
        stream.seek(start)
        try:
            self._intake.receive(stream, self.sender, announced)
        except Unavailable as error:
            self._trouble = error
            raise
        self._patient = self._patient or (header.patient_id, header.patient_id_issuer)
        self._add(1)

    def begin(self) -> None:
        """Another way is tried: it is judged, and limited, by what it brings itself."""
        self.count = self._bytes = 0
        self.strangers = {}
        self._trouble = None

    def _add(self, instances: int) -> None:
        self.count += instances
        self.total += instances

    @contextmanager
    def moving(self, *originators: str) -> Iterator[int]:
        """While a C-MOVE with this Message ID goes on, the listener takes of what comes for it only instances of the series."""
        asked = Asked(self._fetch.series_uid, originators)
        number = secrets.randbelow(0xFFFF) + 1
        self._intake.moves[number] = asked
        try:
            yield number
        finally:
            del self._intake.moves[number]
            self._add(asked.came)
            if asked.strangers:
                self.strangers[OTHER_SERIES] = asked.strangers

    def check_going_on(self) -> None:
        """Raise Unavailable when the service stops."""
        if self._stop.is_set():
            raise Unavailable("the service stops")

    def check_amount(self, files: int, size_bytes: int = 0) -> None:
        """Raise TooMuch where a series has more instances or bytes than an upload may bring."""
        if files > self._most_files:
            self.excess = TooMuch(f"it has more than {self._most_files} instances (maximum_upload_files)")
        elif size_bytes > self._most_bytes:
            self.excess = TooMuch(f"it has more than {self._most_bytes} bytes (maximum_upload_bytes)")
        if self.excess is not None:
            raise self.excess

    def check_instance(self, size_bytes: int) -> None:
        """Raise TooMuch where one instance has more bytes than are taken of any; it would be held in memory."""
        if size_bytes > self._most_of_one:
            self.excess = TooMuch(
                f"an instance has more than {self._most_of_one} bytes (maximum_series_bytes and {HEADER_BYTES >> 20} MiB)"
            )
            raise self.excess

    def demand_sound(self) -> None:
        """Raise Unavailable where we could not keep what came, Rejected where it was too much or not what was asked for."""
        if self._trouble is not None:
            raise self._trouble
        if self.excess is not None:
            raise self.excess
        if self.strangers:
            raise Rejected("not taken: " + ", ".join(f"{count} × {why}" for why, count in sorted(self.strangers.items())))

    def close(self, *, clean: bool) -> None:
        """The fetch is over; `clean`: everything came."""
        self._intake.close_source(self.sender.association, clean)

    def _look(self, stream: BinaryIO, announced: Announced | None) -> Header:
        header = read_header(stream, announced.transfer_syntax_uid) if announced else read_file(stream)[0]
        if why := self._unasked(header):
            raise NotAsked(why)
        return header

    def _unasked(self, header: Header) -> str:
        if header.series_uid != self._fetch.series_uid:
            return OTHER_SERIES
        if header.study_uid != self._fetch.study_uid:
            return "an instance of another study"
        if self._patient not in {None, (header.patient_id, header.patient_id_issuer)}:
            return "an instance of another patient"
        return ""

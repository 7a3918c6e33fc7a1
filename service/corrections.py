"""Takes in masks that readers have corrected, over REST and over DICOM. Nothing is decoded here; a worker does that.

Over `POST /cases/{id}/verdict` a correction is always one. A segmentation that comes over DICOM is one where the settings ask for that,
it is about a series of ours, and it is not one that we made: else it is recorded and discarded as every unwanted class.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Final

from service.errors import Unavailable
from service.headers import Header
from service.headers.references import References, read_references
from service.records import Book, Correction, ReaderVerdict, UnknownCase, VerdictRefused
from service.settings import Settings
from service.sop_classes import SEGMENTATION_CLASSES
from service.store import Store
from service.verdicts import keep_words

LOG = logging.getLogger(__name__)

KIND: Final = "correction"
REST: Final = "rest"
LONGEST_READER: Final = 60
"""With the delimiters of a person's name it must not be longer than 64 characters (PS3.5 6.2)."""


@dataclass(frozen=True)
class Outcome:
    """The case that a segmentation corrects; or None, nothing was kept, and it is recorded as every unwanted class, `why_not` beside.

    `revision` is the one that it corrects; None where it could not be taken.
    """

    case_id: str | None = None
    why_not: str = ""
    revision: int | None = None


@dataclass(frozen=True)
class Corrections:
    """The way in for corrections. Any number of threads may call it.

    Parameters
    ----------
    submit : asks for a worker to look at the corrections of a case; may raise Unavailable
    """

    settings: Settings
    store: Store
    book: Book
    submit: Callable[[str], object]

    def take(self, case_id: str, data: bytes, reader: str, comment: str = "", *, revision: int | None = None) -> ReaderVerdict:
        """
        Keep a corrected mask and have a worker look at it; when this returns, it is durable.

        Raises
        ------
        UnknownCase, VerdictRefused
            Nothing was kept in the case book.
        Unavailable
            Send it again.
        """
        mask = self._keep(case_id, data)
        said = keep_words(self.book, self.store, case_id, reader, comment, revision, mask.path)
        verdict = self.book.note_correction(case_id, reader, replace(mask, said=said), comment, revision=revision)
        self.ask(case_id)
        return verdict

    def take_object(self, header: Header, dataset: bytes, file: Callable[[], bytes], calling_ae: str) -> Outcome:
        """
        Take a segmentation that came over DICOM as a correction, where it is one.

        One that is about a series of ours and cannot be taken now is recorded with the reason.

        Parameters
        ----------
        dataset : as it came, in the header's transfer syntax
        file : gives it as a Part-10 file
        calling_ae : the sender's title, or "rest"

        Raises
        ------
        Unavailable
        """
        if header.sop_class_uid not in SEGMENTATION_CLASSES or not self._wanted_from(calling_ae):
            return Outcome()
        named = read_references(BytesIO(dataset), header.transfer_syntax_uid)
        if self.book.is_result(header.sop_instance_uid):
            return Outcome(why_not="as we made it, not corrected")
        case_id = self.book.find_source(named.series, named.instances)
        if case_id is None:
            return Outcome(why_not="about a series that is not here")
        data, reader = file(), _reader(named, calling_ae)
        try:
            return Outcome(case_id, revision=self.take(case_id, data, reader).revision)
        except UnknownCase:  # removed meanwhile
            return Outcome(why_not="about a series that is not here")
        except VerdictRefused as error:
            self.book.note_refused_correction(case_id, reader, self._keep(case_id, data), str(error))
            return Outcome(case_id)

    def ask(self, case_id: str) -> bool:
        """Ask for a worker; where the broker is away, the sweep asks again."""
        try:
            self.submit(case_id)
            self.book.correction_submitted(case_id)
        except Unavailable:
            LOG.warning("the broker is away; the sweep will ask for the correction", extra={"case_id": case_id})
            return False
        return True

    def _wanted_from(self, calling_ae: str) -> bool:
        chosen = self.settings.corrections
        return chosen.http if calling_ae == REST else calling_ae in chosen.calling_ae

    def _keep(self, case_id: str, data: bytes) -> Correction:
        return Correction(self.store.put_output(case_id, KIND, data), hashlib.sha256(data).hexdigest())


def _reader(named: References, calling_ae: str) -> str:
    """Who drew it, by the object's own word, else the node that sent it."""
    return (named.creator.replace("\\", " ").strip() or f"unnamed, sent by {calling_ae}")[:LONGEST_READER]

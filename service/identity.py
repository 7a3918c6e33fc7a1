"""A patient's identity corrected by hand: what was typed is checked here, and what the series said before is read from its files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.charset import python_encoding
from pydicom.errors import InvalidDicomError

from service.errors import Rejected
from service.headers.elements import text
from service.identity_file import keep_identity
from service.records import Actor, AuditEvent, Book, Case, State
from service.store import Store

KEYWORDS: Final = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
_LONGEST_LO: Final = 64
_LONGEST_GROUP: Final = 64
_LONGEST_REASON: Final = 200
_SHORTEST_TELLING: Final = 3  # letters: fewer are found in any sentence


class BadIdentity(Rejected):
    """What was typed cannot be a patient's identity, or changes nothing; the message names the attribute, never the value."""


def check_identity(values: Mapping[str, str]) -> dict[str, str]:
    """
    Give the values as they go into objects.

    Parameters
    ----------
    values : by DICOM keyword, of KEYWORDS; an empty one blanks the attribute, but for the PatientID

    Raises
    ------
    BadIdentity
        PS3.5 6.2: not of the attribute's value representation.
    """
    checked = {keyword: unicodedata.normalize("NFC", value).strip(" ") for keyword, value in values.items()}
    for keyword, value in checked.items():
        if "\\" in value or any(unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"} for letter in value):
            raise BadIdentity(f"{keyword}: no backslash and no control character")
        _CHECKS[keyword](keyword, value)
    if not checked.get("PatientID"):
        raise BadIdentity("PatientID: must be given")
    return checked


def _long(keyword: str, value: str) -> None:
    if len(value) > _LONGEST_LO:
        raise BadIdentity(f"{keyword}: at most {_LONGEST_LO} characters")


def _name(keyword: str, value: str) -> None:
    groups = value.split("=")
    if len(groups) > 3 or any(len(group) > _LONGEST_GROUP or group.count("^") > 4 for group in groups):
        raise BadIdentity(f"{keyword}: at most three groups of {_LONGEST_GROUP} characters, each of at most five components")


def _birth_date(keyword: str, value: str) -> None:
    try:
        valid = not value or (re.fullmatch(r"[0-9]{8}", value) is not None and bool(date.fromisoformat(value)))
    except ValueError:
        valid = False
    if not valid:
        raise BadIdentity(f"{keyword}: a date as YYYYMMDD")


def _sex(keyword: str, value: str) -> None:
    if value not in {"", "M", "F", "O"}:
        raise BadIdentity(f"{keyword}: M, F or O")


_CHECKS: Final = {"PatientID": _long, "IssuerOfPatientID": _long, "PatientName": _name, "PatientBirthDate": _birth_date, "PatientSex": _sex}


def correct_identity(
    book: Book, store: Store, cases: list[Case], values: Mapping[str, str], by: str, reason: str, actor: Actor
) -> list[str]:
    """
    Correct the identity of cases: their results are made again, under new UIDs; gives the ids of those that changed.

    A withdrawn case, of which nothing is left, is passed over: what comes of it anew says itself whose it is.
    The case book, and a file beside the results, keep what was and what is; log and audit trail are told who and why.

    Raises
    ------
    BadIdentity
        Nothing was changed; also where a series is awaited and nothing of it is there yet.
    Unavailable
    """
    corrected = check_identity(values)
    by, reason = _words("by", by), _words("reason", reason)
    if any(not case.instances and case.state is not State.REJECTED for case in cases):
        raise BadIdentity("nothing of the series is there yet: what comes says whose it is")
    changes = []
    for case in cases:
        if not case.instances:
            continue
        before = current_identity(book, store, case)
        after = before | corrected
        if _repeats(f"{by} {reason}", before, after):
            raise BadIdentity("by and reason: they go into the audit trail and must not repeat the identity")
        if after != before:
            changes.append((case, before, after))
    if not changes:
        raise BadIdentity("that is the identity already")
    for case, before, after in changes:
        keep_identity(book, store, case, before, after, by, reason)
        what = f"identity corrected by {by}: {reason}"
        book.audit(AuditEvent.PATIENT_RECORD, what, actor, case_id=case.id, study_uid=case.study_uid)
    return [case.id for case, *_ in changes]


def _words(name: str, value: str) -> str:
    value = " ".join(value.split())
    if not value or len(value) > _LONGEST_REASON or not value.isprintable():
        raise BadIdentity(f"{name}: 1 to {_LONGEST_REASON} printable characters")
    return value


def _repeats(said: str, *identities: Mapping[str, str]) -> bool:
    values = {value for one in identities for keyword, value in one.items() if keyword not in {"PatientSex", "IssuerOfPatientID"}}
    telling = {part.casefold() for value in values for part in re.split(r"[\^= ]+", value) if len(part) >= _SHORTEST_TELLING}
    return any(part in said.casefold() for part in telling)


def current_identity(book: Book, store: Store, case: Case) -> dict[str, str]:
    """Give whose case it is: as it was corrected last, else as its first instance says."""
    if known := book.corrected_identity(case.id):
        return known
    said = dict.fromkeys(KEYWORDS, "")
    for path in book.instance_paths(case.id)[:1]:
        said |= _read(store.path_of(path))
    return said | {"PatientID": case.patient_id, "IssuerOfPatientID": case.patient_issuer}


def _read(path: Path) -> dict[str, str]:
    """Read as the intake reads; a file that is damaged or gone says nothing."""
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=["SpecificCharacterSet", *KEYWORDS])
    except (OSError, InvalidDicomError):
        return {}
    # pydicom has decoded this one element already
    terms = dataset.get("SpecificCharacterSet") or "ISO_IR 6"
    encodings = [python_encoding.get(term, "latin-1") for term in ([terms] if isinstance(terms, str) else terms)]
    return {keyword: text(dataset, keyword, encodings) for keyword in KEYWORDS}

"""Identities corrected by hand in a clinic, and by the sender."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset

from service.identity import correct_identity, current_identity
from service.identity_file import KIND
from service.records import Actor, Case, Judged, Verdict
from tests.service.rebuild.conftest import Clinic

RIGHT = {"PatientID": "RIGHT 7", "PatientName": "Zhāng^Wěi", "PatientBirthDate": "19610203"}


def correct(clinic: Clinic, case: Case, **values: str) -> None:
    known = clinic.book.case(case.id)
    assert known is not None
    correct_identity(clinic.book, clinic.store, [known], RIGHT | values, "dr who", "mix-up", Actor("command", "root"))


def run_again(clinic: Clinic) -> None:
    clinic.wait(40)
    clinic.work()


def take_copies(clinic: Clinic, case: Case) -> int:
    """The copies that the sender corrected are compared, and taken."""
    return clinic.book.judge_resends(case.id, [Judged(one, Verdict.CORRECTED, ("PatientID",)) for one in clinic.book.uncompared(case.id)])


def files(clinic: Clinic) -> list[Path]:
    return list(clinic.store.every_output(KIND))


def whose(clinic: Clinic, series: list[Dataset]) -> tuple[str, str]:
    """By the case, and as it goes into the next results."""
    case = clinic.case_of(series)
    return case.patient_id, current_identity(clinic.book, clinic.store, case)["PatientName"]

"""A series that names two patients is nobody's: it is held, and nobody is named."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pytest

from service.admission import Hold, Refuse, Run, Wait, examine
from service.headers import Header, read_file
from service.settings import Settings
from tests.service.series import flair_series, part10

REASON = "instances of more than one patient in one series"


def headers(**changes: object) -> list[Header]:
    return [read_file(BytesIO(part10(one)))[0] for one in flair_series(20, **changes)]


@pytest.mark.parametrize("other", [{"patient_id": "Mustermann-2"}, {"patient_id": ""}, {"patient_id_issuer": "OTHER HOSPITAL"}])
def test_instances_of_two_patients_are_held_and_nobody_is_named(other: dict[str, str]) -> None:
    mixed = headers()
    mixed[7] = replace(mixed[7], **other)
    assert examine(mixed, Settings(), final=False) == Wait(REASON)
    assert examine(mixed, Settings(), final=True) == Hold("flair-by-name", REASON)


def test_one_patient_runs_and_what_is_no_flair_is_refused_before_anybody_asks_whose_it_is() -> None:
    assert isinstance(examine(headers(), Settings(), final=True), Run)
    other = headers(SeriesDescription="T2 TSE", InversionTime=None)
    other[3] = replace(other[3], patient_id="somebody else")
    assert isinstance(examine(other, Settings(), final=True), Refuse)

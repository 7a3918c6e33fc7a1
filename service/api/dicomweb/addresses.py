"""The addresses of DICOMweb's resources; PS3.18 10.1.1."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import Path, Request

from service.api.problems import Problem

PREFIX: Final = "/dicomweb"
STUDY: Final = "/studies/{study_uid}"
SERIES: Final = STUDY + "/series/{series_uid}"
INSTANCE: Final = SERIES + "/instances/{sop_instance_uid}"

Uid = Annotated[str, Path()]
_UID: Final = re.compile(r"[0-9.]{1,64}")


def demand_uids(*uids: str | None) -> None:
    """Raise a 400 problem where a part of the address is no UID."""
    if not all(uid is None or _UID.fullmatch(uid) for uid in uids):
        raise Problem("bad-request", "A part of the address is no UID: at most 64 digits and dots.")


def service_url(request: Request) -> str:
    """Where this client finds the service, as it called it."""
    return f"{str(request.base_url).rstrip('/')}{PREFIX}"


def instance_url(base: str, study_uid: str, series_uid: str, sop_instance_uid: str) -> str:
    """The address of one instance below `base`."""
    return f"{base}/studies/{study_uid}/series/{series_uid}/instances/{sop_instance_uid}"

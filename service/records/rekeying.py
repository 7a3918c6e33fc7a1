"""Patient keys and the secret they hang on: checked when a book is opened, written anew when the secret is another."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, column, select, table, update

from service.errors import Misconfigured
from service.records.noting import patient_key

# Only the columns needed, and not the schema's table: a migration runs on the tables as they were at its revision.
_CASES = table("cases", column("id"), column("patient_id"), column("patient_issuer"), column("study_uid"), column("patient_key"))
_BATCH = 1000
_SAMPLE = 20


def rekey(connection: Connection, secret: bytes | None) -> int:
    """
    Write every patient's key anew; gives how many cases were changed.

    Raises
    ------
    Misconfigured
        There are cases, and no secret.
    """
    rows = connection.execute(select(_CASES)).mappings().all()
    if rows and secret is None:
        raise Misconfigured("the patients' keys need the installation's secret: run `leukoscope migrate` with this case book's data folder")
    changed = [{"b_id": row["id"], "b_key": key} for row in rows if (key := _key(secret or b"", row)) != row["patient_key"]]
    for start in range(0, len(changed), _BATCH):
        one = update(_CASES).where(_CASES.c.id == bindparam("b_id")).values(patient_key=bindparam("b_key"))
        connection.execute(one, changed[start : start + _BATCH])
    return len(changed)


def check_secret(connection: Connection, secret: bytes) -> None:
    """
    Make sure that the book's patients were named with this secret.

    Raises
    ------
    Misconfigured
        They were not: a database and a data folder that do not belong together, or a lost key.
    """
    rows = connection.execute(select(_CASES).limit(_SAMPLE)).mappings().all()
    if rows and not any(_key(secret, row) == row["patient_key"] for row in rows):
        raise Misconfigured(
            "the data folder's installation.key is not the one this case book was made with: restore that file from the back-up; "
            "if it is lost, `leukoscope migrate --new-keys` gives every patient a new key"
        )


def _key(secret: bytes, row: Any) -> str:
    return patient_key(secret, row["patient_id"], row["patient_issuer"], row["study_uid"])

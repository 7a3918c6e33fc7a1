"""The tables of the settings file that say who may come in: the TLS port, calling AE titles, API tokens."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator

from service.rule import Name
from service.sections.section import AETitle, Port, Section

# The line that `openssl x509 -noout -fingerprint -sha256` prints, or the digits alone, with colons or without.
Fingerprint = Annotated[
    str,
    BeforeValidator(lambda value: value.rpartition("=")[2].replace(":", "").strip().lower() if isinstance(value, str) else value),
    Field(pattern=r"^[0-9a-f]{64}$"),
]


class DicomTls(Section):
    """The listener's TLS port: our certificate (with its chain) and key, and who vouches for those who call; all PEM.

    Attributes
    ----------
    host : where it listens; without it where the other port does
    client_ca_file : certificates of authorities, or of the devices themselves
    crl_file : revocation lists of every authority of a chain; without it no certificate is looked up
    """

    port: Port = 2762
    host: str | None = None
    certificate_file: Path
    key_file: Path
    client_ca_file: Path
    crl_file: Path | None = None


class CallingAE(Section):
    """A peer that may send: its AE title, optionally only from one address or with one certificate.

    Attributes
    ----------
    certificate_sha256 : of the certificate that this title must show, and no other title may; then it may not come without TLS
    unwanted : what is done with classes nobody wants
    """

    title: AETitle
    address: str | None = None
    certificate_sha256: Fingerprint | None = None
    unwanted: Literal["refuse", "discard"] = "discard"

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        if value is not None:
            ipaddress.ip_network(value, strict=False)
        return value


class Token(Section):
    """An API token, kept only as the SHA-256 of its text."""

    name: Name
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Literal["read", "submit", "admin"], ...] = ("read", "submit")

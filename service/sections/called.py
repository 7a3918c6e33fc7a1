"""The tables of the settings file that say whom we call: destinations and sources, DICOM nodes and web services."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from service import sendable
from service.rule import Name
from service.sections.section import AETitle, Section


def _lower_scheme(url: Any) -> Any:
    """RFC 3986 3.1: it may be written in either case; whoever asks whether it is https compares with small letters."""
    scheme, colon, rest = url.partition(":") if isinstance(url, str) else ("", "", "")
    return scheme.lower() + colon + rest if colon else url


Url = Annotated[str, BeforeValidator(_lower_scheme)]


class Trusting(Section):
    """Who is called. `ca_file` vouches for its certificate, or is it; `crl_file` has the revocation lists of its authorities; PEM."""

    ca_file: Path | None = None
    crl_file: Path | None = None

    @model_validator(mode="after")
    def _check_trust(self) -> Self:
        if self.crl_file is not None and self.ca_file is None:
            raise ValueError("crl_file needs ca_file: the authorities whose lists it holds")
        return self


class Secured(Trusting):
    """A node that may be called with TLS.

    Attributes
    ----------
    certificate_file, key_file : what we show where the node demands a certificate
    """

    tls: bool = False
    certificate_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if self.tls and self.ca_file is None:
            raise ValueError("tls needs ca_file: who vouches for the node's certificate")
        if not self.tls and (self.certificate_file or self.key_file):
            raise ValueError("certificate_file and key_file need tls = true")
        if (self.certificate_file is None) is not (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        return self


class Recipient(Section):
    """Who is sent results: each of ``outputs`` of every primary case."""

    name: Name
    outputs: tuple[sendable.Sendable, ...] = sendable.DEFAULT
    empty_segmentation: bool = False  # viewers have hung on a SEG without a voxel
    rejection_notes: bool = False  # is it sent a Key Object Selection that withdraws what was superseded (IHE IOCM)
    character_set: Literal["ISO_IR 192", "source"] = "ISO_IR 192"  # of the text it is sent; "source": that of the series' own


class Destination(Recipient, Secured):
    """A DICOM node, which is sent them by C-STORE."""

    ae_title: AETitle
    host: Annotated[str, StringConstraints(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    calling_ae: AETitle | None = None
    storage_commitment: bool = False


class WebService(Trusting):
    """A DICOM web service, and what it is shown.

    Attributes
    ----------
    token_file : of a bearer token; or user and password_file. Read at each request
    """

    token_file: Path | None = None
    user: Annotated[str, StringConstraints(min_length=1, pattern=r"^[^:]+$")] | None = None
    password_file: Path | None = None

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        if (self.user is None) != (self.password_file is None) or (self.user is not None and self.token_file is not None):
            raise ValueError("give user and password_file together, or token_file, or neither")
        return self


class WebDestination(Recipient, WebService):
    """A DICOM web service, which is sent them by STOW-RS; `url` is where its ``/studies`` are."""

    url: Url

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("url: give the root of a DICOM web service, such as https://pacs.example/dicom-web")
        if parts.username is not None:
            raise ValueError("url: no user or password in it; give user and password_file, or token_file")
        _demand_address(self.url)
        return self


def _demand_address(url: str) -> None:
    """Raise ValueError where the client that is to call it would not take it."""
    import httpx

    try:
        httpx.URL(url).raw_host.decode("ascii").encode("idna")
        _ = urlsplit(url).port
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"url: {error}") from None


def _by_address(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "url" in value and {"ae_title", "host", "port"} & value.keys():
        raise ValueError("give a url, or ae_title, host and port, not both")
    return (WebDestination if "url" in value else Destination).model_validate(value)


AnyDestination = Annotated[Destination | WebDestination, BeforeValidator(_by_address)]


Way = Literal["C-GET", "C-MOVE", "WADO-RS"]


class Pacs(Secured, WebService):
    """A PACS that series are fetched from: a DICOM node, the root of its DICOMweb, or both; `ca_file` and `crl_file` are of both.

    Attributes
    ----------
    ways : those it offers, in the order in which they are tried; without it all that its addresses allow
    """

    name: Name
    ae_title: AETitle | None = None
    host: Annotated[str, StringConstraints(min_length=1)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    url: Annotated[Url, StringConstraints(pattern=r"^https?://[^\s/?#]+[^\s?#]*$")] | None = None
    ways: Annotated[tuple[Way, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check_ways(self) -> Self:
        node = (self.ae_title, self.host, self.port)
        if None in node and node != (None, None, None):
            raise ValueError("ae_title, host and port go together")
        if self.ae_title is None and self.url is None:
            raise ValueError("give ae_title, host and port of a DICOM node, or the url of a DICOMweb root")
        if self.url is not None:
            _demand_address(self.url)
        if lacking := set(self.ways or ()) - set(self.possible_ways):
            raise ValueError(f"{min(lacking)} needs {'url' if self.url is None else 'ae_title, host and port'}")
        return self

    @property
    def possible_ways(self) -> tuple[Way, ...]:
        """What its addresses allow, in the order of preference."""
        node: tuple[Way, ...] = () if self.ae_title is None else ("C-GET", "C-MOVE")
        return node if self.url is None else (*node, "WADO-RS")

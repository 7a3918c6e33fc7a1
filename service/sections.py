"""The tables of the settings file: TLS, destinations, senders, tokens, retention, segmentation, structure set."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from service import sendable
from service.rule import Name

# PS3.5 6.2, value representation AE: 16 characters, no backslash or control character, not only spaces.
AETitle = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$")]
Port = Annotated[int, Field(ge=0, le=65535)]
# The line that `openssl x509 -noout -fingerprint -sha256` prints, or the digits alone, with colons or without.
Fingerprint = Annotated[
    str,
    BeforeValidator(lambda value: value.rpartition("=")[2].replace(":", "").strip().lower() if isinstance(value, str) else value),
    Field(pattern=r"^[0-9a-f]{64}$"),
]


class Section(BaseModel):
    """Part of the settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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

    url: Annotated[str, StringConstraints(min_length=1)]

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
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#]+[^\s?#]*$")] | None = None
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


class Retention(Section):
    """When cases and their files are removed; what is not given is never a reason. service.retention has the rules.

    Attributes
    ----------
    keep_days : remove what was last touched so many days ago
    keep_refused_days : the same for series that were refused, which are most of what a PACS routes
    keep_free_mb : remove the oldest while less than this is free
    """

    keep_days: Annotated[float, Field(ge=1, le=36500)] | None = None
    keep_refused_days: Annotated[float, Field(ge=1, le=36500)] | None = None
    keep_free_mb: Annotated[int, Field(ge=1)] | None = None

    @property
    def asks(self) -> bool:
        """Tell whether anything is ever to be removed."""
        return any(value is not None for value in (self.keep_days, self.keep_refused_days, self.keep_free_mb))


class AuditTrail(Section):
    """How long the audit trail is kept.

    Attributes
    ----------
    keep_days : remove entries that are older; six years unless said otherwise, as 45 CFR 164.316(b)(2) wants of such records
    """

    keep_days: Annotated[float, Field(ge=1, le=36500)] = 2190.0


class RTStruct(Section):
    """How the structure set for radiotherapy planning is drawn.

    Attributes
    ----------
    holes : "keyhole" leads a cut from a hole to the outline, one contour; "xor" gives holes contours of their own (CLOSEDPLANAR_XOR)
    lesion_rois : so many of the largest lesions have an ROI of their own beside that of all; so many tumour-like ones too
    """

    holes: Literal["keyhole", "xor"] = "keyhole"
    lesion_rois: Annotated[int, Field(ge=0, le=200)] = 0


class Segmentation(Section):
    """How the segmentation object is encoded, and which segments it has.

    Attributes
    ----------
    encoding : "binary"; "labelmap", one frame a plane for all segments, which then cannot overlap; "fractional", lesions as probability
    lesion_segments : so many of the largest lesions are segments of their own, beside the rest as one; so many tumour-like ones too
    brain : the brain is a segment too
    """

    encoding: Literal["binary", "labelmap", "fractional"] = "binary"
    lesion_segments: Annotated[int, Field(ge=0, le=500)] = 0
    brain: bool = False


class Corrections(Section):
    """From whom a segmentation that comes over DICOM counts as a reader's correction of our result; by default from nobody.

    Attributes
    ----------
    calling_ae : titles of nodes whose segmentations about a series of ours are corrections
    http : those that come over STOW-RS or `POST /cases` are too
    """

    calling_ae: tuple[AETitle, ...] = ()
    http: bool = False

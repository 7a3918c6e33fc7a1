"""Settings: ``LEUKOSCOPE_…`` variables over the TOML file named by ``LEUKOSCOPE_CONFIG``, checked once at the start."""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from service.errors import Misconfigured
from service.rule import Rule
from service.sections import (
    AETitle,
    AnyDestination,
    AuditTrail,
    CallingAE,
    Corrections,
    DicomTls,
    Pacs,
    Port,
    Retention,
    RTStruct,
    Section,
    Segmentation,
    Token,
)

PREFIX = "LEUKOSCOPE_"
CONFIG = PREFIX + "CONFIG"
HEADER_BYTES = 64 << 20  # of one instance, on top of the pixels that are allowed


class SettingsError(Misconfigured):
    """An unknown key or a bad value; ``str()`` of it is one line for the administrator."""


class Settings(Section):
    """Everything an installation can choose, frozen. A relative data folder counts from the working folder at the start."""

    model_config = ConfigDict(validate_default=True)

    data_dir: Path = Path("leukoscope-data")
    database_url: str | None = None
    broker_url: str | None = None
    http_host: str = "127.0.0.1"
    http_port: Port = 8000
    dicom_host: str = "127.0.0.1"
    dicom_port: Port = 11112
    dicom_tls: DicomTls | None = None
    ae_title: AETitle = "LEUKOSCOPE"
    maximum_associations: Annotated[int, Field(ge=1, le=1000)] = 25
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    quiet_time_s: Annotated[float, Field(ge=0, le=86400)] = 30.0
    minimum_slices: Annotated[int, Field(ge=1, le=512)] = 12
    admission: tuple[Rule, ...] | None = None
    calling_ae: tuple[CallingAE, ...] = ()
    tokens: tuple[Token, ...] = ()
    destinations: tuple[AnyDestination, ...] = ()
    sources: tuple[Pacs, ...] = ()

    release: str | None = None
    engine: Literal["auto", "openvino-cpu", "onnxruntime-cpu", "onnxruntime-cuda"] = "auto"
    precision: Literal["auto", "bf16", "f32"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    time_limit_s: Annotated[float, Field(ge=1, le=86400)] = 600.0
    lease_s: Annotated[float, Field(ge=1, le=3600)] = 30.0
    sweep_s: Annotated[float, Field(gt=0, le=3600)] = 5.0

    segmentation: Segmentation = Segmentation()
    rtstruct: RTStruct = RTStruct()
    corrections: Corrections = Corrections()

    minimum_free_mb: Annotated[int, Field(ge=0)] = 512
    retention: Retention = Retention()
    audit: AuditTrail = AuditTrail()
    maximum_upload_bytes: Annotated[int, Field(ge=1)] = 2 * 1024**3
    maximum_upload_files: Annotated[int, Field(ge=1)] = 5000
    maximum_series_bytes: Annotated[int, Field(ge=1)] = 512 * 1024**2  # of a series once decoded, and of one instance as it arrives
    maximum_columns: Annotated[int, Field(ge=1)] = 1024
    maximum_rows: Annotated[int, Field(ge=1)] = 1024
    maximum_slices: Annotated[int, Field(ge=1)] = 512

    @field_validator("data_dir")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("destinations", "sources")
    @classmethod
    def _check_names(cls, value: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        names = [node.name for node in value]
        if len(set(names)) < len(names):
            raise ValueError(f"two {info.field_name} have the same name")
        return value

    @model_validator(mode="after")
    def _check_open_doors(self) -> Self:
        if not is_loopback(self.dicom_host) and not self.calling_ae:
            raise ValueError(f"dicom_host {self.dicom_host} is open to the network: list the senders under [[calling_ae]]")
        if self.dicom_tls is not None and not is_loopback(self.dicom_tls_host) and not self.calling_ae:
            raise ValueError(f"dicom_tls.host {self.dicom_tls_host} is open to the network: list the senders under [[calling_ae]]")
        if not is_loopback(self.http_host) and not self.tokens:
            raise ValueError(f"http_host {self.http_host} is open to the network: add API tokens under [[tokens]]")
        return self

    @model_validator(mode="after")
    def _check_certificates(self) -> Self:
        bound = {rule.title for rule in self.calling_ae if rule.certificate_sha256}
        if bound and self.dicom_tls is None:
            raise ValueError(f"calling_ae {min(bound)}: certificate_sha256 needs [dicom_tls]")
        if half := bound & {rule.title for rule in self.calling_ae if not rule.certificate_sha256}:
            raise ValueError(f"calling_ae {min(half)}: bound to a certificate in one entry and not in another")
        return self

    @model_validator(mode="after")
    def _check_retention(self) -> Self:
        wanted_mb = self.retention.keep_free_mb
        if wanted_mb is not None and wanted_mb <= self.minimum_free_mb:
            raise ValueError(
                f"retention.keep_free_mb {wanted_mb}: give more than minimum_free_mb {self.minimum_free_mb}, where nothing comes in"
            )
        return self

    @property
    def dicom_tls_host(self) -> str:
        """Where the TLS port listens, if there is one."""
        return (self.dicom_tls.host if self.dicom_tls else None) or self.dicom_host

    @property
    def database(self) -> str:
        """The SQLAlchemy URL of the case book."""
        return self.database_url or f"sqlite:///{self.data_dir / 'leukoscope.sqlite'}"

    @property
    def broker(self) -> str:
        """The Celery broker's URL."""
        return self.broker_url or f"sqla+sqlite:///{self.data_dir / 'broker.sqlite'}"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host` (a name other than localhost counts as open)."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of this process.

    Raises
    ------
    SettingsError
        One clear line: an unknown key or variable, a bad value, an unreadable file, an open door without a lock.
    """
    environ = os.environ if environ is None else environ
    values = _read_file(environ.get(CONFIG, "")) | _read_variables(environ)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, environ)) from None


def _read_file(name: str) -> dict[str, Any]:
    if not name:
        return {}
    try:
        return tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(f"{CONFIG}={name}: {_one_line(str(detail))}") from None


def _read_variables(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable == CONFIG:
            continue
        key = variable.removeprefix(PREFIX).lower()
        if key not in Settings.model_fields:
            raise SettingsError(f"{variable} is not a setting{_nearest(key)}")
        text = environ[variable]
        if text:  # compose files pass unset variables as empty ones
            values[key] = _parse_json(variable, text) if _is_composed(key) else text
    return values


def _is_composed(key: str) -> bool:
    """Tell whether a setting is a table, or a list of them: a variable gives it as JSON."""
    annotation = Settings.model_fields[key].annotation
    kinds = [get_origin(kind) or kind for kind in (annotation, *get_args(annotation))]
    return any(isinstance(kind, type) and issubclass(kind, tuple | Section) for kind in kinds)


def _parse_json(variable: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{variable} is not JSON: {error}") from None


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, Settings.model_fields, n=1)
    return f" (did you mean {PREFIX}{near[0].upper()}?)" if near else ""


def _explain(error: ValidationError, environ: Mapping[str, str]) -> str:
    first = error.errors(include_url=False)[0]
    loc = [str(part) for part in first["loc"]]
    if loc and environ.get(PREFIX + loc[0].upper()):
        loc[0] = PREFIX + loc[0].upper()
    elif loc and environ.get(CONFIG):
        loc[0] = f"{environ[CONFIG]}: {loc[0]}"
    where = ".".join(loc)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), Settings.model_fields, n=1) if len(loc) == 1 else []
        return _one_line(f"{where} is not a setting" + (f" (did you mean {near[0]}?)" if near else ""))
    message = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    secret = loc and "tokens" in loc[0].lower()
    shown = f" (given: {given!r})" if isinstance(given, str | int | float) and not secret else ""
    return _one_line(f"{where}: {message}{shown}" if where else message)


def _one_line(text: str) -> str:
    return " ".join(text.split())

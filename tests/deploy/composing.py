"""Reads a Compose file as Compose does: YAML merges, then variables put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:?[-?])([^}]*))?\})")


class VariableMissing(Exception):
    """What Compose says when a `:?` variable is not set."""


def read_compose(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Give the file as data with variables from `environ`; raises VariableMissing."""
    data: dict[str, Any] = _fill(yaml.safe_load(path.read_text(encoding="utf-8")), environ)
    return data


def _fill(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, environ) for item in value]
    return _VARIABLE.sub(lambda found: _value(found, environ), value) if isinstance(value, str) else value


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    dollar, name, operator, word = found.groups()
    if dollar:
        return "$"
    value = environ.get(name)
    if value or (value == "" and operator in {"-", "?"}):
        return value
    if operator in {":?", "?"}:
        raise VariableMissing(f"{name}: {word}")
    return word or ""


def read_env(path: Path) -> dict[str, str]:
    """Give the variables of an .env file."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def seconds(text: str) -> float:
    """Give a Compose duration such as 1m30s in seconds."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text))

"""Small JSON files beside the results: the same content is the same bytes, and a file's name ends with their SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Altered(ValueError):
    """The bytes are not those that the file's name tells of."""


def canonical(values: Mapping[str, Any]) -> bytes:
    """Encode as JSON: the same values are the same bytes."""
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def named_digest(path: str | Path) -> str:
    """Give the SHA-256, 64 hexadecimal digits, that the name of a stored result ends with."""
    return str(path).rpartition("-")[2]


def read_unaltered(path: Path) -> bytes:
    """Read a stored result whole. Raises OSError; Altered where its bytes are not those of its name."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != named_digest(path):
        raise Altered("not what its name says")
    return data


def why_not(error: Exception) -> str:
    """Say, without a path, why a file could not be used."""
    return error.strerror or "cannot be read" if isinstance(error, OSError) else str(error)

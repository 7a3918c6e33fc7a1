"""The installation's secret: what makes identifiers in addresses opaque, and the same again when the case book is made anew.

A file in the data folder, made by whichever process comes first. Whoever has it can try PatientIDs against patient keys; whoever
loses it gets other keys. It belongs in every back-up.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Final

from service.durable import disk_trouble, fsync_folder, write_durably
from service.errors import Misconfigured

KEY_FILE: Final = "installation.key"
_BYTES: Final = 32
_PATTERN: Final = re.compile(rf"[0-9a-f]{{{2 * _BYTES}}}")


def read_secret(folder: Path) -> bytes:
    """
    Give the secret of the installation whose data folder this is; the first call makes it.

    Raises
    ------
    Misconfigured
        The file holds something else, or this user may not read it.
    Unavailable
        The disk does not take a new one.
    """
    path = folder / KEY_FILE
    try:
        return _read(path)
    except FileNotFoundError:
        with disk_trouble():
            _make(path)
        return _read(path)


def _read(path: Path) -> bytes:
    try:
        text = path.read_text(encoding="ascii").strip()
    except PermissionError:
        raise Misconfigured(f"{path}: this user may not read it") from None
    except UnicodeDecodeError:
        text = ""
    if not _PATTERN.fullmatch(text):
        raise Misconfigured(f"{path}: not {2 * _BYTES} hexadecimal digits; restore it from a back-up")
    return bytes.fromhex(text)


def _make(path: Path) -> None:
    """Of several processes that come at once, one gives its file the name; the others take that one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        write_durably(part, (f"{secrets.token_hex(_BYTES)}\n".encode(),), mode=0o600)
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink(missing_ok=True)
    fsync_folder(path.parent)

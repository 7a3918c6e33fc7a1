"""UIDs that follow from what they name (decision 0002)."""

from __future__ import annotations

import uuid

# any fixed UUID will do; this one is UUIDv5 of the product's name under the URL namespace
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "leukoscope")


def name_uid(text: str) -> str:
    """Give the UID of what `text` describes: UUIDv5 under 2.25 (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, text).int}"

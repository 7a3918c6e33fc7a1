"""Where a list goes on: the moment and the number of the last item given, in a text that says nothing to its reader."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime


def encode_cursor(at: datetime, item: str) -> str:
    """Give the cursor of the page after this item."""
    raw = json.dumps([at.isoformat(), item]).encode()
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def decode_cursor(cursor: str) -> tuple[datetime, str]:
    """Undo `encode_cursor`. Raises ValueError for what is not one of ours."""
    try:
        at, item = json.loads(base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None or not isinstance(item, str) or not item.isprintable():
            raise ValueError("incomplete")
        moment = moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, binascii.Error, RecursionError):
        raise ValueError("not a cursor of this list") from None
    return moment, item

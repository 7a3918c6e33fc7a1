"""From what the intake raises to the status of a C-STORE: the one place where this is done."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from service.errors import Rejected, Unavailable
from service.headers import Mismatch
from service.intake.handover import Source

LOG = logging.getLogger(__name__)
_COMMENT_LENGTH: Final = 64  # PS3.7 C: Error Comment is LO


@dataclass
class Answer:
    """What goes out: 0x0000 unless something was raised."""

    code: int = 0x0000
    comment: str = ""

    def status(self) -> int | Dataset:
        """Give what pynetdicom sends (PS3.7 C: a failure may carry a comment)."""
        if not self.comment:
            return self.code
        status = Dataset()
        status.Status = self.code
        status.ErrorComment = self.comment[:_COMMENT_LENGTH]
        return status


@contextmanager
def answering(answer: Answer, sender: Source) -> Iterator[None]:
    """Turn what the intake raises inside the block into the status that goes out."""
    who = {"association": sender.association, "calling_ae": sender.calling_ae}
    try:
        yield
    except Mismatch as error:
        answer.code, answer.comment = 0xA900, error.reason
    except Rejected as error:
        answer.code, answer.comment = 0xC000, error.reason
    except Unavailable as error:
        answer.code, answer.comment = 0xA700, error.reason
    except Exception:
        answer.code, answer.comment = 0xC211, "internal error"
        LOG.exception("a C-STORE failed", extra={**who, "dimse_status": "0xC211"})
        return
    if answer.code:
        LOG.warning("a C-STORE was refused: %s", answer.comment, extra={**who, "dimse_status": f"0x{answer.code:04X}"})

"""What is written beside the results of a revision, so that the case book can be made anew from the files without running it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

from service.filed import canonical
from service.records.rows import OutputRow

RECORD: Final = "record"
"""The kind of such a file among a case's outputs; never offered, never sent."""

_FORM: Final = 1


class NotARecord(ValueError):
    """The bytes are no record, or one of a later version."""


@dataclass(frozen=True)
class ResultRecord:
    """One finished revision of a series: what it was made from and what came of it. No name, no PatientID.

    Attributes
    ----------
    digests : of the stored files that were segmented, sorted
    rule, rank, quality, findings, model, stages, series_shift, likeness, likened_to : as the case book has them
    correction : the reader's, where the results are made from one, as `told_correction` gives it
    identities : corrections of the patient's identity by hand that were known, as `told_identities` gives them
    """

    study_uid: str
    series_uid: str
    revision: int
    digests: tuple[str, ...]
    received_at: datetime
    rule: str | None
    rank: tuple[Any, ...] | None
    quality: tuple[str, ...]
    findings: Mapping[str, Any]
    model: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, float]]
    outputs: tuple[OutputRow, ...]
    series_shift: int | None = None
    likeness: int | None = None
    likened_to: str | None = None
    correction: Mapping[str, Any] | None = None
    identities: Mapping[str, bool] = field(default_factory=dict)

    def as_bytes(self) -> bytes:
        """Encode; the same record is the same bytes."""
        values = asdict(self) | {"form": _FORM, "received_at": self.received_at.astimezone(UTC).isoformat()}
        return canonical(values)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Undo `as_bytes`. Raises NotARecord."""
        try:
            values = json.loads(data)
            if values.pop("form") != _FORM:
                raise NotARecord("a record of another version")
            values["received_at"] = datetime.fromisoformat(values["received_at"])
            values["outputs"] = tuple(OutputRow(**one) for one in values["outputs"])
            for name in ("digests", "quality"):
                values[name] = tuple(values[name])
            values["rank"] = None if values["rank"] is None else tuple(values["rank"])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise NotARecord(str(error) if isinstance(error, NotARecord) else "damaged") from None

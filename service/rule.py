"""An admission rule as the settings write it: which series is taken, or refused, and what for."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints, field_validator

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
_FROZEN: Final = ConfigDict(frozen=True, extra="forbid")


class Span(BaseModel):
    """A closed interval; an end that is not given is open."""

    model_config = _FROZEN

    minimum: float | None = None
    maximum: float | None = None

    def holds(self, value: float) -> bool:
        """Tell whether `value` lies in the interval."""
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)


class Rule(BaseModel):
    """One admission rule; every field that is given must match. service.admission gives the semantics.

    Regular expressions are searched in the series description without regard to case.
    """

    model_config = _FROZEN

    name: Name
    accept: bool
    reason: str = ""
    modality: str | None = None
    description_matches: str | None = None
    description_lacks: str | None = None
    image_type_matches: str | None = None
    image_type_lacks: str | None = None
    sequence: tuple[str, ...] | None = None  # ScanningSequence values that must all be present, e.g. ["IR"]
    body_part: str | None = None
    repetition_time_ms: Span | None = None
    echo_time_ms: Span | None = None
    inversion_time_ms: Span | None = None

    @field_validator("description_matches", "description_lacks", "image_type_matches", "image_type_lacks", "body_part")
    @classmethod
    def _check_expression(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return value

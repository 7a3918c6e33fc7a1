"""The tables of the settings file that say how long what is kept: cases and their files, the audit trail."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from service.sections.section import Section


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

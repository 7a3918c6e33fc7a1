"""On which sets of parts a fault is struck: `make test` leaves to `make soak` what the other set has shown already."""

from __future__ import annotations

import pytest

_SOAK = pytest.mark.soak


def on(*sets: str, soak: str | None = None) -> pytest.MarkDecorator:
    """Run a test on these sets, and on one more in the soak."""
    cells = [*sets, *([pytest.param(soak, marks=_SOAK)] if soak else [])]
    return pytest.mark.parametrize("make_service", cells, indirect=True)

"""Which outputs can be sent to a destination: those that are DICOM objects, by the names they have everywhere."""

from __future__ import annotations

from typing import Final, Literal

Sendable = Literal[
    "segmentation",
    "structured-report",
    "rtstruct",
    "report.dcm",
    "preview.dcm",
]
# What goes before an output where a case has it: the axial MR series that a structure set refers to
COMPANION: Final = {"rtstruct": "resampled.zip"}
# A PACS that takes no segmentation still gets the page and the picture; the structure set is for planning systems, which ask for it
DEFAULT: Final[tuple[Sendable, ...]] = (
    "segmentation",
    "structured-report",
    "report.dcm",
    "preview.dcm",
)

"""Everything a case gives back: one module per output."""

from __future__ import annotations

from collections.abc import Callable

from worker.encode import nifti, pdf, preview, report_json, resampled, rtstruct, seg
from worker.encode.context import Context, Output

Encoder = Callable[[Context], Output | None]
"""Gives nothing where the case has no such thing."""

# What needs a DICOM series to refer to, and what every case gives
DICOM_ENCODERS: tuple[Encoder, ...] = (
    seg.encode,
    rtstruct.encode,
    resampled.encode,
)
ENCODERS: tuple[Encoder, ...] = (
    *DICOM_ENCODERS,
    nifti.encode,
    report_json.encode,
    pdf.encode,
    preview.encode,
)

__all__ = ["DICOM_ENCODERS", "ENCODERS", "Context", "Encoder", "Output"]

"""Everything a case gives back: one module per output."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from worker.encode import capture, document, nifti, pdf, preview, report_json, resampled, rtstruct, seg, sr
from worker.encode.context import Context, Corrected, Output, Predecessor

Encoder = Callable[[Context], Output]
PartialEncoder = Callable[[Context], Output | None]
Wrapper = Callable[[Context, Output], Output]

# What needs a DICOM series to refer to; one that has nothing to give for a case gives None
DICOM_ENCODERS: tuple[PartialEncoder, ...] = (
    seg.encode,
    sr.encode,
    rtstruct.encode,
    resampled.encode,
)
# What every case gives
PLAIN_ENCODERS: tuple[Encoder, ...] = (
    nifti.encode,
    report_json.encode,
    pdf.encode,
    preview.encode,
)
# What goes out as a DICOM object too, by the kind of the plain output
WRAPPERS: Mapping[str, Wrapper] = {
    pdf.KIND: document.encode,
    preview.KIND: capture.encode,
}


def encode_all(context: Context) -> tuple[Output, ...]:
    """Give every output of a case: DICOM objects where its source was DICOM, and the plain files."""
    plain = [encode(context) for encode in PLAIN_ENCODERS]
    if context.series is None:
        return tuple(plain)
    wrapped = [WRAPPERS[output.kind](context, output) for output in plain if output.kind in WRAPPERS]
    objects = [output for encode in DICOM_ENCODERS if (output := encode(context)) is not None]
    return (*objects, *wrapped, *plain)


__all__ = [
    "DICOM_ENCODERS",
    "PLAIN_ENCODERS",
    "WRAPPERS",
    "Context",
    "Corrected",
    "Encoder",
    "Output",
    "PartialEncoder",
    "Predecessor",
    "Wrapper",
    "encode_all",
]

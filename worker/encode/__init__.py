"""Everything a case gives back: one module per output."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from worker.encode import capture, document, nifti, pdf, preview, report_json, seg, sr
from worker.encode.context import Context, Output

Encoder = Callable[[Context], Output]
Wrapper = Callable[[Context, Output], Output]

# What needs a DICOM series to refer to
DICOM_ENCODERS: tuple[Encoder, ...] = (
    seg.encode,
    sr.encode,
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
    return (*(encode(context) for encode in DICOM_ENCODERS), *wrapped, *plain)


__all__ = ["DICOM_ENCODERS", "PLAIN_ENCODERS", "WRAPPERS", "Context", "Encoder", "Output", "Wrapper", "encode_all"]

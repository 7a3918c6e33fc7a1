"""The mask as NIfTI: labels on the source grid, with the source's place in the patient."""

from __future__ import annotations

import gzip
from io import BytesIO

import nibabel
import numpy as np

from worker.encode.context import Context, Output

KIND = "segmentation.nii.gz"
_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT
_LEVEL = 3  # a label map is mostly zeros: higher levels cost time and save nothing


def encode(context: Context) -> Output:
    """Encode the label map: 0 background, 1 white-matter hyper-intensity, 2 tumour-like hyper-intensity.

    The affine of the source goes into sform and qform (the latter without shear, which a qform cannot hold); gzip carries neither
    name nor time.
    """
    image = nibabel.Nifti1Image(np.asarray(context.masks.labels, dtype=np.uint8), None)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"Leukoscope WMH {context.product_version} investigational".encode()[:79]
    image.set_qform(context.volume.affine_ras, code=_SCANNER)
    image.set_sform(context.volume.affine_ras, code=_SCANNER)
    buffer = BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=_LEVEL, mtime=0) as packed:
        packed.write(image.to_bytes())
    return Output(KIND, "application/gzip", KIND, buffer.getvalue())

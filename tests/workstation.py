"""Another maker's workstation: segmentations as a reader draws them there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid


def described(number: int, label: str, code: Any = codes.SCT.Tissue, algorithm: Any = SegmentAlgorithmTypeValues.MANUAL) -> Any:
    """A segment of something abnormal."""
    return SegmentDescription(number, label, codes.SCT.MorphologicallyAbnormalStructure, code, algorithm)


def drawn(sources: Sequence[Dataset], labels: Any, descriptions: Sequence[Any], kind: str = "BINARY", **options: Any) -> Any:
    """A SEG as the workstation makes it, with labels (i, j, k) over the source images along k: empty frames left out."""
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=np.ascontiguousarray(labels.transpose(2, 1, 0)),
        segmentation_type=SegmentationTypeValues[kind],
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=77,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Workstation",
        manufacturer_model_name="W",
        software_versions="1",
        device_serial_number="1",
        **options,
    )

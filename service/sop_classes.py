"""SOP classes by name, those too that pydicom does not know."""

from __future__ import annotations

from typing import Final

from pydicom.uid import UID

SEGMENTATION_CLASSES: Final = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
}


def class_name(sop_class_uid: str) -> str:
    """Give the standard's name of a SOP class, or the UID itself."""
    return SEGMENTATION_CLASSES.get(sop_class_uid) or str(UID(sop_class_uid).name)

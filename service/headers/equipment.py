"""By whose product an object says it was made (PS3.3 C.12.1.1.5, Contributing Equipment Sequence)."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

from service.headers.elements import sequence, text

MANUFACTURER: Final = "Leukoscope"
_PROCESSING_EQUIPMENT: Final = "109102"


def is_made_here(dataset: Dataset) -> bool:
    """Tell whether it is a result of this product, of whichever installation: processed by it, and not only read or sent."""
    return any(
        text(item, "Manufacturer") == MANUFACTURER
        and any(text(code, "CodeValue") == _PROCESSING_EQUIPMENT for code in sequence(item, "PurposeOfReferenceCodeSequence"))
        for item in sequence(dataset, "ContributingEquipmentSequence")
    )

"""Which presentation contexts the listener accepts."""

from __future__ import annotations

from typing import Final

from pydicom.uid import UID
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from service.admission.refusals import MR_IMAGE_CLASSES
from service.commitment import STORAGE_COMMITMENT
from service.rejecting import KEY_OBJECTS
from service.sop_classes import SEGMENTATION_CLASSES

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_SERVICE: Final = "1.2.840.10008.4.2"
STANDARD: Final = "1.2.840.10008."
# Uncompressed first: where a sender offers a choice it converts, and nobody has to decode. Then what keeps every value, then the rest.
TRANSFER_SYNTAXES: Final = {
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless, first-order prediction (SV1)",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 (lossless only)",
    "1.2.840.10008.1.2.4.201": "HTJ2K (lossless only)",
    "1.2.840.10008.1.2.4.202": "HTJ2K (lossless RPCL)",
    "1.2.840.10008.1.2.4.81": "JPEG-LS (near-lossless)",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
}


def supported_contexts(
    proposed: list[PresentationContext], *, unwanted: bool, reports: bool = False, corrections: bool = False
) -> list[PresentationContext]:
    """
    Give what we support of what is proposed: verification, MR images, key objects (rejection notes are among them), with `corrections`
    segmentations, and with `unwanted` every other storage class too.

    With `reports` also storage commitment, as a user of it: the peer proposes to be its provider (PS3.4 J.3.3).

    Private classes count as storage there: scanners put them beside the images (Siemens' CSA Non-Image, Philips' Series Data), and a
    PACS that cannot send one keeps the whole study in its queue.

    References
    ----------
    PS3.8 7.1.1.13, PS3.4 B.3
    """
    always = {*MR_IMAGE_CLASSES, KEY_OBJECTS, *(SEGMENTATION_CLASSES if corrections else ())}
    contexts = []
    for uid in {str(context.abstract_syntax) for context in proposed}:
        if uid == VERIFICATION:
            contexts.append(build_context(uid))
        elif uid == STORAGE_COMMITMENT and reports:
            context = build_context(uid)
            context.scu_role, context.scp_role = False, True
            contexts.append(context)
        elif uid in always or (unwanted and is_storage(uid)):
            contexts.append(build_context(uid, list(TRANSFER_SYNTAXES)))
    return contexts


def is_storage(uid: str) -> bool:
    """Tell whether the class is storage of a composite instance with a patient, or a private one."""
    return is_private(uid) or uid_to_service_class(uid) is StorageServiceClass


def is_private(uid: str) -> bool:
    """Tell whether the standard does not define the UID (PS3.5 9)."""
    return not uid.startswith(STANDARD)


def private_as_storage(proposed: list[PresentationContext]) -> dict[str, SOPClassCommonExtendedNegotiation]:
    """
    Name the storage service for private classes: pynetdicom knows none for them, and would abort.

    References
    ----------
    PS3.7 D.3.3.6 (what a sender may say itself)
    """
    items = {}
    for uid in {str(context.abstract_syntax) for context in proposed if is_private(str(context.abstract_syntax))}:
        item = SOPClassCommonExtendedNegotiation()
        item.sop_class_uid, item.service_class_uid = UID(uid), UID(STORAGE_SERVICE)
        items[uid] = item
    return items

"""Results of ours that come back: a PACS routes what it was sent. They are answered and discarded, and no case is opened for them."""

from __future__ import annotations

from service.headers import Header
from service.records import Book
from service.sop_classes import SEGMENTATION_CLASSES


def comes_back(header: Header, book: Book) -> bool:
    """
    Tell whether an instance is a result that nobody asked for. Raises Unavailable.

    A segmentation is one by its UID alone: a reader who draws on ours may leave the Contributing Equipment as it was. A series that has
    a case already, because it is fetched, keeps it, and is refused there.
    """
    ours = book.is_result(header.sop_instance_uid) if header.sop_class_uid in SEGMENTATION_CLASSES else header.made_here
    return ours and not book.find_cases(study_uid=header.study_uid, series_uid=header.series_uid, limit=1).items

"""A PACS as a DICOM node: who it is, what is asked of it, and whether it has a series.

References
----------
PS3.4 C.4.1 (C-FIND), C.6.2 (Study Root)
"""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset
from pynetdicom.presentation import build_context
from pynetdicom.status import code_to_category

from service.calling import Peer, Refused, associate
from service.errors import Rejected, Unavailable
from service.sections import Pacs
from service.settings import Settings
from service.tls import secure_call

FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root Query/Retrieve Information Model
MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
ANSWER_S: Final = 15.0


class NotThere(Rejected):
    """The PACS has no such series."""


def peer_of(settings: Settings, source: Pacs) -> Peer:
    """Who is called. Raises Unavailable where its TLS files cannot be used now."""
    assert source.ae_title is not None
    assert source.host is not None
    assert source.port is not None
    return Peer(source.ae_title, source.host, source.port, settings.ae_title, secure_call(f"source {source.name}", source))


def identify(series_uid: str, study_uid: str) -> Dataset:
    """Give the identifier of a series, for a query or a retrieval."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    identifier.StudyInstanceUID = study_uid
    identifier.SeriesInstanceUID = series_uid
    return identifier


def find_by_node(settings: Settings, source: Pacs, series_uid: str, study_uid: str = "") -> set[str]:
    """
    Give the studies in which the PACS has a series of this UID. Raises Unavailable.

    Without a study this is a relational query (PS3.4 C.4.1.3.2.1), which is not negotiated here: most PACS answer it all the same.
    """
    query = identify(series_uid, study_uid)
    found = set()
    with associate(peer_of(settings, source), [build_context(FIND)], answer_s=ANSWER_S) as association:
        if not association.accepted_contexts:
            raise Refused("it does not offer C-FIND")
        for status, match in association.send_c_find(query, FIND):
            if "Status" not in status:
                raise Unavailable("the association ended in the middle")
            category = code_to_category(status.Status)
            if category == "Pending" and match is not None and str(match.get("SeriesInstanceUID", "")) == series_uid:
                found.add(str(match.StudyInstanceUID))
            elif category == "Failure":
                raise Unavailable(f"status 0x{status.Status:04X}")
    return found

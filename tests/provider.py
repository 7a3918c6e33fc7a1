"""A destination: a storage provider that accepts, refuses, warns or is slow, and may commit to keep what it has."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
MR = "1.2.840.10008.5.1.4.1.1.4"
# What each output is that can be sent
CLASSES = {
    "segmentation": SEGMENTATION,
    "structured-report": "1.2.840.10008.5.1.4.1.1.88.34",
    "rtstruct": "1.2.840.10008.5.1.4.1.1.481.3",
    "report.dcm": "1.2.840.10008.5.1.4.1.1.104.1",
    "preview.dcm": "1.2.840.10008.5.1.4.1.1.7",
}


class Provider:
    """A storage provider (on a free port, unless one is given) that answers with one status, or hangs up at one class instead.

    Attributes
    ----------
    got : SOP Instance UIDs in the order of their arrival; associations : the classes proposed in each; refused : one it does not take
    """

    def __init__(
        self, status=0x0000, syntaxes=(ExplicitVRLittleEndian,), answer=None, classes=tuple(CLASSES.values()), hang_up_at=None, port=0
    ):
        self.got = []
        self.associations = []
        self.hang_up_at = hang_up_at
        self.refused = None
        self.answer = answer
        self.status = status
        entity = AE(ae_title="PACS")
        for sop_class in classes:
            entity.add_supported_context(sop_class, list(syntaxes))
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_REQUESTED, self._note), *self.more(entity)]
        self.server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]

    def more(self, _entity):
        return []

    def _note(self, event):
        proposed = event.assoc.requestor.primitive.presentation_context_definition_list
        self.associations.append({str(context.abstract_syntax) for context in proposed})

    def _store(self, event):
        if event.request.AffectedSOPClassUID == self.hang_up_at:
            event.assoc.abort()
            return 0x0110
        if self.answer is not None:
            self.answer.wait(20)
        if event.request.AffectedSOPInstanceUID == self.refused:
            return 0xC000
        self.got.append(str(event.request.AffectedSOPInstanceUID))
        return self.status


class Committing(Provider):
    """One that provides storage commitment too.

    Attributes
    ----------
    how : "same" reports over the association it was asked on, "new" calls `listener` (a port), anything else keeps silent
    lost : SOP Instance UID → Failure Reason; asked : (transaction, SOP Instance UIDs) in the order they came; answered : statuses of ours
    """

    def __init__(self, how="same", status=0x0000, **arguments):
        self.how, self.action_status = how, status
        self.lost, self.asked, self.answered, self.listener = {}, [], [], 0
        super().__init__(**arguments)

    def more(self, entity):
        entity.add_supported_context(StorageCommitmentPushModel)
        return [(evt.EVT_N_ACTION, self._asked)]

    def _asked(self, event):
        request = event.action_information
        named = [(item.ReferencedSOPClassUID, str(item.ReferencedSOPInstanceUID)) for item in request.ReferencedSOPSequence]
        self.asked.append((str(request.TransactionUID), [uid for _, uid in named]))
        if self.how == "same" and self.action_status == 0:
            threading.Thread(target=self._report_over, args=(event.assoc, str(request.TransactionUID), named)).start()
        return self.action_status, None

    def _report_over(self, association, transaction_uid, named):
        time.sleep(0.05)  # our answer to the request goes first
        self.answered.append(self._send(association, transaction_uid, named))

    def report(self, transaction_uid=None, *, title="PACS", role=True):
        """Call the listener with the report on the last request, or on an invented transaction."""
        asked, uids = self.asked[-1]
        named = [(SEGMENTATION, uid) for uid in uids]
        entity = AE(ae_title=title)
        entity.add_requested_context(StorageCommitmentPushModel)
        roles = [build_role(StorageCommitmentPushModel, scp_role=True)] if role else []
        association = entity.associate("127.0.0.1", self.listener, ext_neg=roles)
        if not association.is_established:
            return None
        try:
            return self._send(association, transaction_uid or asked, named)
        finally:
            association.release()

    def _send(self, association, transaction_uid, named):
        information = Dataset()
        information.TransactionUID = transaction_uid
        information.ReferencedSOPSequence = [_item(*one) for one in named if one[1] not in self.lost]
        if failed := [_item(*one, FailureReason=self.lost[one[1]]) for one in named if one[1] in self.lost]:
            information.FailedSOPSequence = failed
        status, _ = association.send_n_event_report(
            information, 2 if failed else 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        return status.get("Status")


def _item(sop_class_uid, sop_instance_uid, **elements):
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


@contextmanager
def provider(kind=Provider, **arguments):
    one = kind(**arguments)
    try:
        yield one
    finally:
        one.server.shutdown()

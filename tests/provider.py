"""A destination: a storage provider that accepts, refuses, warns or is slow."""

from __future__ import annotations

from contextlib import contextmanager

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
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
    got : SOP Instance UIDs in the order of their arrival; associations : the classes proposed in each
    """

    def __init__(
        self, status=0x0000, syntaxes=(ExplicitVRLittleEndian,), answer=None, classes=tuple(CLASSES.values()), hang_up_at=None, port=0
    ):
        self.got = []
        self.associations = []
        self.hang_up_at = hang_up_at
        self.answer = answer
        self.status = status
        entity = AE(ae_title="PACS")
        for sop_class in classes:
            entity.add_supported_context(sop_class, list(syntaxes))
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_REQUESTED, self._note)]
        self.server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]

    def _note(self, event):
        proposed = event.assoc.requestor.primitive.presentation_context_definition_list
        self.associations.append({str(context.abstract_syntax) for context in proposed})

    def _store(self, event):
        if event.request.AffectedSOPClassUID == self.hang_up_at:
            event.assoc.abort()
            return 0x0110
        if self.answer is not None:
            self.answer.wait(20)
        self.got.append(str(event.request.AffectedSOPInstanceUID))
        return self.status


@contextmanager
def provider(**arguments):
    one = Provider(**arguments)
    try:
        yield one
    finally:
        one.server.shutdown()

"""A destination: a storage provider that accepts, refuses, warns or is slow."""

from __future__ import annotations

from contextlib import contextmanager

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


class Provider:
    """A storage provider on a free port that answers with one status."""

    def __init__(self, status=0x0000, syntaxes=(ExplicitVRLittleEndian,), answer=None):
        self.got = []
        self.answer = answer
        self.status = status
        entity = AE(ae_title="PACS")
        entity.add_supported_context(SEGMENTATION, list(syntaxes))
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        self.port = self.server.socket.getsockname()[1]

    def _store(self, event):
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

"""A PACS that answers C-FIND, C-GET and C-MOVE as a test needs: with too much, with the wrong, or not to the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt

from service.fetching.node import FIND, GET, MOVE


class Pacs:
    """Gives `held` whatever it is asked for.

    Attributes
    ----------
    die_after : the association is lost after so many instances, as long as `deaths` lasts
    moves : C-MOVE finds only so many instances
    node : where C-MOVE sends to; None: no such destination is known
    """

    def __init__(self, held: Sequence[Dataset], *, offers: Sequence[str] = (GET, MOVE, FIND)) -> None:
        self.held = list(held)
        self.die_after: int | None = None
        self.deaths = 100
        self.moves: int | None = None
        self.node: tuple[str, int] | None = None
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        entity = AE(ae_title="PACS")
        for model in offers:
            entity.add_supported_context(model)
        entity.add_supported_context(MRImageStorage, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
        entity.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
        handlers = [(evt.EVT_C_GET, self._get), (evt.EVT_C_MOVE, self._move), (evt.EVT_C_FIND, self._find)]
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.settings: dict[str, Any] = {
            "name": "pacs",
            "ae_title": "PACS",
            "host": "127.0.0.1",
            "port": self.server.socket.getsockname()[1],
        }

    def _get(self, event: evt.Event) -> Iterator[Any]:
        self.asked.append("C-GET")
        yield len(self.held)
        yield from self._send(event)

    def _move(self, event: evt.Event) -> Iterator[Any]:
        self.asked.append("C-MOVE")
        yield self.node or (None, None)
        yield len(self.held[: self.moves])
        yield from self._send(event, self.moves)

    def _send(self, event: evt.Event, most: int | None = None) -> Iterator[Any]:
        for number, dataset in enumerate(self.held[:most]):
            if number == self.die_after and self.deaths > 0:
                self.deaths -= 1
                event.assoc.abort()
                return
            self.gate.wait(20)
            yield 0xFF00, dataset

    def _find(self, event: evt.Event) -> Iterator[Any]:
        wanted = event.identifier.SeriesInstanceUID
        for study_uid in sorted({dataset.StudyInstanceUID for dataset in self.held if dataset.SeriesInstanceUID == wanted}):
            match = Dataset()
            match.QueryRetrieveLevel, match.StudyInstanceUID, match.SeriesInstanceUID = "SERIES", study_uid, wanted
            yield 0xFF00, match


@contextmanager
def pacs(held: Sequence[Dataset], **arguments: Any) -> Iterator[Pacs]:
    one = Pacs(held, **arguments)
    try:
        yield one
    finally:
        threading.Thread(target=one.server.shutdown, daemon=True).start()  # it takes half a second to notice

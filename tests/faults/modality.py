"""A sender that behaves as a PACS does: what was not acknowledged is sent again until it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread

from service.errors import Unavailable
from tests.running import Service
from worker.send import Answer, read_outgoing, send


class Modality:
    """Sends series, and keeps what was acknowledged: SOP Instance UID → file."""

    def __init__(self, service: Service, limit_s: float = 150.0) -> None:
        self._service = service
        self._limit_s = limit_s
        self.acknowledged: dict[str, Path] = {}
        self.refusals = 0
        self.broken = 0
        self.errors: list[BaseException] = []

    def push(self, files: Sequence[Path]) -> None:
        """Send one series over as many associations as it takes; returns when every instance was acknowledged and the last one released."""
        names = {path: str(dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in files}
        waiting = list(read_outgoing(files))
        deadline = time.monotonic() + self._limit_s

        def on_answer(answer: Answer) -> None:
            if answer.status == 0:
                self.acknowledged[names[answer.path]] = answer.path
            else:
                self.refusals += 1

        while waiting:
            assert time.monotonic() < deadline, f"{len(waiting)} instances were never acknowledged: {self._service.last_words()}"
            try:
                send(self._service.node, waiting, on_answer)
            except (Unavailable, OSError, RuntimeError):
                self.broken += 1
                time.sleep(0.2)
            waiting = [file for file in waiting if names[file.path] not in self.acknowledged]
            if waiting:
                time.sleep(0.1)

    def push_all(self, series: Sequence[Sequence[Path]], senders: int) -> list[threading.Thread]:
        """Send many series from as many threads; `finish` waits for them."""

        def work(mine: Sequence[Sequence[Path]]) -> None:
            try:
                for files in mine:
                    self.push(files)
            except BaseException as error:
                self.errors.append(error)

        threads = [threading.Thread(target=work, args=(series[n::senders],), daemon=True) for n in range(senders)]
        for thread in threads:
            thread.start()
        return threads

    def finish(self, threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            thread.join(self._limit_s + 60)
            assert not thread.is_alive()
        assert not self.errors, self.errors

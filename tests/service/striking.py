"""Strikes the supervisor with SIGTERM at every line of its round, in a process of its own: `python -m tests.service.striking FOLDER`."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Final

from service import serve
from service.settings import Settings

LINES: Final = 80  # more than two rounds, with the locks they would take


def strike_all(folder: Path) -> None:
    """End a round at each of its lines; AssertionError where a signal was lost, and it stands still where one waits for itself."""
    serve._ROUND_S = 0.001
    settings, watchdog = Settings(data_dir=folder), SimpleNamespace(look=lambda _children: None)
    left = 0

    def strike(frame: FrameType, event: str, _what: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in {serve.__file__, threading.__file__}:
            return None
        left -= event == "line"
        if left == 0:
            signal.raise_signal(signal.SIGTERM)
        return strike

    for line in range(1, LINES):
        left, stop = line, serve._Stop()
        signal.signal(signal.SIGTERM, lambda *_, stop=stop: stop.ask())
        sys.settrace(strike)
        serve._supervise(settings, serve._Doors(), [], watchdog, stop)  # type: ignore[arg-type]
        sys.settrace(None)
        assert stop.asked
        assert not stop.failed


if __name__ == "__main__":
    strike_all(Path(sys.argv[1]))
    print("ended at every line")

"""The supervisor's own round: what a signal may interrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from service import serve
from service.settings import Settings


def test_a_listener_alone_loads_no_http_framework() -> None:
    loaded = "import sys, service.serve; print({'fastapi', 'starlette', 'uvicorn'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.timeout(30)
def test_a_signal_at_any_line_of_a_round_ends_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_ROUND_S", 0.001)
    settings, watchdog = Settings(data_dir=tmp_path), SimpleNamespace(look=lambda _children: None)
    left = 0

    def strike(frame: FrameType, event: str, _what: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in {serve.__file__, threading.__file__}:
            return None
        left -= event == "line"
        if left == 0:
            signal.raise_signal(signal.SIGTERM)
        return strike

    before, tracing = signal.getsignal(signal.SIGTERM), sys.gettrace()
    try:
        for line in range(1, 80):  # more than two rounds, with the locks they would take
            left, stop = line, serve._Stop()
            signal.signal(signal.SIGTERM, lambda *_, stop=stop: stop.ask())
            sys.settrace(strike)
            serve._supervise(settings, serve._Doors(), [], watchdog, stop)  # type: ignore[arg-type]
            sys.settrace(tracing)
            assert stop.asked
            assert not stop.failed
    finally:
        sys.settrace(tracing)
        signal.signal(signal.SIGTERM, before)

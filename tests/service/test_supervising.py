"""The supervisor's own round: what it loads, and what a signal may interrupt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_listener_alone_loads_no_http_framework() -> None:
    loaded = "import sys, service.serve; print({'fastapi', 'starlette', 'uvicorn'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_signal_at_any_line_of_a_round_ends_the_service(tmp_path: Path) -> None:
    striking = [sys.executable, "-X", "faulthandler", "-m", "tests.service.striking", str(tmp_path)]
    done = subprocess.run(striking, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ended at every line\n"), done.stderr

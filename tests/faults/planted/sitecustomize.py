"""Read by every Python process of a service under test (it is first on PYTHONPATH): breaks it at named places, each once.

The product knows nothing of this. PLANTED_FAULTS holds a JSON list of {"at": "module:Class.function", "when": "before" | "after", "do": …,
"flag": file made when it strikes, "armed_by": file that must be there, "call": at which call (of this process),
"role": words of the command line, "match": what the call's arguments hold, "always": strikes again and again}.
"""

from __future__ import annotations

import datetime as dt
import errno
import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FAULTS: list[dict[str, Any]] = json.loads(os.environ.get("PLANTED_FAULTS", "[]"))


def strike(do: str) -> None:
    if do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "kill parent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    elif do == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif do == "hang":
        time.sleep(3600)
    elif do == "no memory":
        raise MemoryError
    elif do == "defect":
        raise RuntimeError("planted: DOE^JANE")  # what an exception quotes must reach no log
    elif do == "disk full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif do == "slow":
        time.sleep(2)
    else:
        raise ValueError(do)


def take(fault: dict[str, Any], arguments: object) -> bool:
    """Each strikes once, whatever dies meanwhile, and not before it is armed."""
    if fault["match"] and fault["match"] not in repr(arguments):
        return False
    if not Path(fault["armed_by"]).exists():
        return False
    fault["calls"] = fault.get("calls", 0) + 1
    if fault["calls"] < fault["call"]:
        return False
    try:
        os.close(os.open(fault["flag"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return bool(fault["always"])
    return True


def wrap(function: Callable[..., Any], faults: Sequence[dict[str, Any]]) -> Callable[..., Any]:
    @functools.wraps(function)
    def broken(*arguments: Any, **named: Any) -> Any:
        for fault in faults:
            if fault["when"] == "before" and take(fault, arguments):
                strike(fault["do"])
        result = function(*arguments, **named)
        for fault in faults:
            if fault["when"] == "after" and take(fault, arguments):
                strike(fault["do"])
        return result

    return broken


def plant(module: ModuleType, faults: Sequence[dict[str, Any]]) -> None:
    for name in dict.fromkeys(fault["at"].partition(":")[2] for fault in faults):
        owner: Any = module
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, wrap(getattr(owner, last), [fault for fault in faults if fault["at"].partition(":")[2] == name]))


class Finder(importlib.abc.MetaPathFinder):
    """Lets a module load as ever, then plants its faults."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        faults = [fault for fault in FAULTS if fault["at"].partition(":")[0] == name]
        if not faults:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_plant(module: ModuleType) -> None:
            execute(module)
            plant(module, faults)

        spec.loader.exec_module = execute_and_plant  # type: ignore[method-assign]
        return spec


def shift_clock(offset: Path) -> None:
    """Let the time of day be off by the seconds in a file, from the moment they are written there (libfaketime breaks time.sleep)."""
    true_time, true_datetime = time.time, dt.datetime

    def shifted() -> float:
        return true_time() + float(offset.read_text())

    class Shifted(true_datetime):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Shifted:
            return cls.fromtimestamp(shifted(), tz)

    time.time = shifted
    dt.datetime = Shifted  # type: ignore[misc]


if "PLANTED_CLOCK" in os.environ:
    shift_clock(Path(os.environ["PLANTED_CLOCK"]))
if FAULTS:
    words = " ".join(sys.orig_argv)
    FAULTS = [fault for fault in FAULTS if fault["role"] in words]
    sys.meta_path.insert(0, Finder())

"""What goes on beside a block: again every few seconds, in a thread of its own, until the block is over."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from service.errors import Unavailable

LOG = logging.getLogger(__name__)
_AFTER_UNAVAILABLE_S: Final = 1.0


def end_process() -> None:
    """End this process at once; whoever supervises it starts it again, and nothing acknowledged depends on its end."""
    os._exit(1)


@contextmanager
def repeating(
    name: str,
    work: Callable[[], object],
    every_s: float,
    *,
    on_defect: Callable[[], None] = end_process,
    end_limit_s: float | None = None,
) -> Iterator[threading.Thread]:
    """
    Do some work again and again while the block runs; gives the thread that does it.

    Parameters
    ----------
    name : what the thread and the log call it
    work : may raise Unavailable, which is logged and tried again; any other exception is a defect
    on_defect : called after a defect is logged: a process without one of its parts would only look alive
    end_limit_s : how long the end of the block waits for what is still being done; None: until it is done
    """
    over = threading.Event()

    def go_on() -> None:
        try:
            while not over.wait(every_s):
                try:
                    work()
                except Unavailable as error:
                    LOG.warning("%s put off: %s", name, error)
                    over.wait(_AFTER_UNAVAILABLE_S)
        except BaseException:
            LOG.critical("a part of this process failed: %s", name, exc_info=True)
            on_defect()

    thread = threading.Thread(target=go_on, name=name, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join(end_limit_s)

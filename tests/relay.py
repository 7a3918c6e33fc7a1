"""A way to a port that can be slow, can lose the answers, and lets something happen once so many bytes have gone through."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress

PIECE = 8192


class Relay:
    """Carries connections from a free port to another until one of the sides ends.

    Attributes
    ----------
    pause_s : is waited before each piece towards the port; mute : what the port answers is lost
    """

    def __init__(self, target):
        self.target, self.pause_s, self.mute = target, 0.0, False
        self._left, self._strike = None, None
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def at(self, count, strike):
        """Call once, between two bytes, when `count` more have gone towards the port."""
        self._strike, self._left = strike, count

    def _accept(self):
        with suppress(OSError):  # the server is closed
            while True:
                near, _ = self.server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except ConnectionRefusedError:
                    near.close()
                    continue
                for side in (near, far):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for carry, *ends in ((self._there, near, far), (self._back, far, near)):
                    threading.Thread(target=_until_one_ends, args=(carry, *ends), name="relay", daemon=True).start()

    def _there(self, near, far):
        while piece := near.recv(PIECE):
            time.sleep(self.pause_s)
            if self._left is not None and len(piece) >= self._left:
                far.sendall(piece[: self._left])
                piece, self._left = piece[self._left :], None
                self._strike()
            elif self._left is not None:
                self._left -= len(piece)
            far.sendall(piece)

    def _back(self, far, near):
        lost = False
        while piece := far.recv(PIECE):
            lost = lost or self.mute  # to the end, or half an answer would come
            if not lost:
                near.sendall(piece)


def _until_one_ends(carry, one, other):
    with suppress(OSError):
        carry(one, other)
    for side in (one, other):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(target):
    made = Relay(target)
    try:
        yield made
    finally:
        made.server.shutdown(socket.SHUT_RDWR)
        made.server.close()

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
        self._left, self._strike, self._way = None, None, False
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def at(self, count, strike, *, back=False):
        """Call once, between two bytes, when `count` more have gone towards the port, or have come back; what else comes is lost."""
        self._strike, self._left, self._way = strike, count, back

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
                for one, other, back in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._carry, args=(one, other, back), name="relay", daemon=True).start()

    def _carry(self, one, other, back):
        with suppress(OSError):
            lost = False
            while piece := one.recv(PIECE):
                time.sleep(0.0 if back else self.pause_s)
                lost = lost or (back and self.mute)  # to the end, or half an answer would come
                if not lost:
                    other.sendall(self._count(piece, other) if back == self._way else piece)
        for side in (one, other):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _count(self, piece, other):
        """Give what is still to be passed on of a piece."""
        if self._left is None:
            return piece
        if len(piece) < self._left:
            self._left -= len(piece)
            return piece
        other.sendall(piece[: self._left])
        rest, self._left = piece[self._left :], None
        self._strike()
        if self._way:
            raise ConnectionAbortedError
        return rest


@contextmanager
def relay(target):
    made = Relay(target)
    try:
        yield made
    finally:
        made.server.shutdown(socket.SHUT_RDWR)
        made.server.close()

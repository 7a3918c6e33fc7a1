"""The sender of results and a destination that wants to end the association at the same moment."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from tests.service import wire
from tests.service.house import join_network_threads
from tests.service.series import flair_series, part10
from tests.service.wire import Wire
from worker.send import Peer, read_outgoing, send


def test_a_release_collision_loses_no_answer_and_leaves_nothing(tmp_path: Path) -> None:
    """PS3.8 7.2.2.3, table 9-10: the requestor answers the peer's release, then gets the answer to its own."""
    (dataset,) = flair_series(1)
    (tmp_path / "1.dcm").write_bytes(part10(dataset))
    kinds: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def receive() -> None:
            connection, _ = server.accept()
            with connection:
                peer = Wire(connection)
                assert peer.hear().kind == wire.REQUESTED
                peer.say(wire.ACCEPTANCE)
                while (heard := peer.hear()).kind == wire.DATA:
                    if heard.body[5] == 0x02:  # the last fragment of the data set
                        peer.say(wire.stored(dataset))
                kinds.append(heard.kind)
                peer.say(wire.RELEASE)
                kinds.append(peer.hear().kind)
                peer.say(wire.RELEASE_RESPONSE)
                kinds.extend(heard.kind for heard in peer.rest())

        receiver = threading.Thread(target=receive)
        receiver.start()
        answers = send(Peer("PACS", *server.getsockname()), read_outgoing([tmp_path / "1.dcm"]))
        receiver.join(wire.LIMIT_S)
    assert [answer.status for answer in answers] == [0x0000]
    assert kinds == [wire.RELEASING, wire.RELEASED]
    join_network_threads()  # their last step may still be under way
    assert not wire.network_threads()

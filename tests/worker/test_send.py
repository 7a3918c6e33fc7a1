"""The sender of results and a destination that wants to end the association at the same moment."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from pydicom import dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedMRImageStorage, ImplicitVRLittleEndian
from pynetdicom.dsutils import split_dataset

from tests.service import wire
from tests.service.house import House, files_of, join_network_threads, listening
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


def test_an_object_is_named_by_its_data_set_and_goes_out_as_it_is(tmp_path: Path) -> None:
    """PS3.4 B.2.3: the command names what the data set is; the file meta information of a PACS's export may name something else."""
    files = [tmp_path / f"{number}.dcm" for number in range(5)]
    syntaxes = (None, None, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, None)
    for file, dataset, syntax in zip(files, (series := flair_series(5)), syntaxes, strict=True):
        if file != files[0]:
            dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{file.stem}"
        if file == files[1]:
            dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
        if syntax is not None:
            dataset.file_meta.TransferSyntaxUID = syntax
        if file == files[4]:
            del dataset.SOPInstanceUID
        dataset.preamble = bytes(128)
        dcmwrite(file, dataset)

    described = read_outgoing(files)
    assert [one.sop_instance_uid for one in described] == [*(one.SOPInstanceUID for one in series[:4]), "1.2.3.4"]
    house = House(tmp_path / "data")
    with listening(house) as listener:
        answers = send(Peer("LEUKOSCOPE", "127.0.0.1", listener.port, "SCANNER"), described)
    assert [answer.status for answer in answers[:4]] == [0x0000] * 4
    kept = files_of(house.store, series[0].SeriesInstanceUID)
    house.book.close()
    assert sorted(map(body, kept)) == sorted(map(body, files[:4])), "the bytes of the data sets are those of the files"


def body(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]

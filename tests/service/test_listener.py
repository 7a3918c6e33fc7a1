"""The listener over real associations: pynetdicom's SCU, and raw bytes where a sender behaves badly."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from service.contexts import TRANSFER_SYNTAXES
from service.errors import Unavailable
from service.headers import read_file
from service.listener import STATUSES, Listener
from service.records import State
from tests.service.house import MR, VERIFICATION, House, associate, eventually, files_of, join_network_threads, listening, store_bytes
from tests.service.series import flair_series, part10


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.book.close()


@pytest.fixture
def listener(house: House) -> Iterator[Listener]:
    with listening(house) as running:
        yield running


def test_echo_and_a_series_from_the_first_slice_to_the_queue(house: House, listener: Listener) -> None:
    association = associate(listener, MR, VERIFICATION)
    assert association.send_c_echo().Status == 0x0000
    assert [association.send_c_store(dataset).Status for dataset in flair_series()] == [0x0000] * 20
    association.release()
    # judged before the release is answered
    assert house.case.state is State.QUEUED
    assert house.submitted == [house.case.id]


@pytest.mark.parametrize(
    "transfer_syntax_uid", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_uncompressed_transfer_syntaxes_are_kept_as_they_came(house: House, listener: Listener, transfer_syntax_uid: str) -> None:
    (dataset,) = flair_series(1)
    dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid
    if transfer_syntax_uid == ExplicitVRBigEndian:
        dataset["PixelData"].VR = "OW"
    association = associate(listener, (MRImageStorage, transfer_syntax_uid))
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()
    (path,) = files_of(house.store, dataset.SeriesInstanceUID)
    stored = dcmread(path)
    assert stored.file_meta.TransferSyntaxUID == transfer_syntax_uid
    assert stored.ImagePositionPatient == dataset.ImagePositionPatient


def test_every_transfer_syntax_is_accepted_for_every_mr_class(listener: Listener) -> None:
    for uid in TRANSFER_SYNTAXES:
        association = associate(listener, (MRImageStorage, uid), (EnhancedMRImageStorage, uid))
        assert len(association.accepted_contexts) == 2
        association.release()


@pytest.mark.parametrize("folder", ["compressed", "compressed_j2k", "compressed_jpeg", "compressed_jpegls", "compressed_rle"])
def test_compressed_series_are_kept_as_they_came(house: House, listener: Listener, shared_data: Path, folder: str) -> None:
    files = sorted((shared_data / "dicom" / "vendors" / "generic" / folder / "001").iterdir())
    first = dcmread(files[0])
    association = associate(listener, (MRImageStorage, first.file_meta.TransferSyntaxUID))
    assert [association.send_c_store(dcmread(file)).Status for file in files] == [0x0000] * len(files)
    association.release()
    assert {path.read_bytes()[-1000:] for path in files_of(house.store, first.SeriesInstanceUID)} == {
        part10(dcmread(file))[-1000:] for file in files
    }


def test_unreadable_cut_and_mismatched_data_sets_get_their_own_status(
    house: House, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    (dataset,) = flair_series(1)
    encoded = part10(dataset)
    with BytesIO(encoded) as file:
        body = encoded[read_file(file)[1] :]
    association = associate(listener, MR)
    uid = dataset.SOPInstanceUID
    assert store_bytes(association, b"this is no data set at all", MRImageStorage, uid) == 0xC000
    assert store_bytes(association, body[:-100], MRImageStorage, uid) == 0xC000
    assert store_bytes(association, body[:200], MRImageStorage, uid) == 0xC000
    assert store_bytes(association, body, MRImageStorage, "1.2.3.4") == 0xA900
    (*_, told) = [record for record in caplog.records if record.name == "service.answering"]
    assert told.getMessage() == "a C-STORE was refused: SOP Instance UID differs from the command's"
    assert (vars(told)["dimse_status"], vars(told)["calling_ae"]) == ("0xA900", "SCANNER")
    assert not house.cases
    assert store_bytes(association, body, MRImageStorage, uid) == 0x0000
    association.release()
    assert house.case.instances == 1


@pytest.mark.parametrize(("error", "status"), [(Unavailable("the disk is full"), 0xA700), (ZeroDivisionError(), 0xC211)])
def test_what_we_cannot_do_is_no_success(
    house: House, listener: Listener, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    (dataset,) = flair_series(1)
    association = associate(listener, MR)
    with monkeypatch.context() as patched:
        patched.setattr(house.store, "put_instance", fail)
        assert association.send_c_store(dataset).Status == status
    assert status in STATUSES
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()


def test_a_whole_study_is_answered_class_by_class(house: House, listener: Listener) -> None:
    study_uid = flair_series(1)[0].StudyInstanceUID
    flair = flair_series(20, study_uid=study_uid)
    scout = flair_series(3, study_uid=study_uid, SeriesDescription="localizer")
    t1 = flair_series(20, study_uid=study_uid, SeriesDescription="MPRAGE", EchoTime="3", InversionTime="900")
    ct = flair_series(2, study_uid=study_uid, SOPClassUID=CTImageStorage, Modality="CT", SeriesDescription="CT")
    report = flair_series(1, study_uid=study_uid, SOPClassUID=EnhancedSRStorage, Modality="SR", PixelData=None, SeriesDescription="SR")
    classes = [(uid, ExplicitVRLittleEndian) for uid in (MRImageStorage, CTImageStorage, EnhancedSRStorage)]
    association = associate(listener, *classes)
    for dataset in [*scout, *flair, *t1, *ct, *report]:
        assert association.send_c_store(dataset).Status == 0x0000
    association.release()
    found = {case.series_description: (case.state.value, case.rule) for case in house.cases}
    assert found == {
        "localizer": ("rejected", "localizer"),
        "AX T2 FLAIR": ("queued", "flair-by-name"),
        "MPRAGE": ("rejected", "t1"),
        "CT": ("rejected", "not-mr"),
        "SR": ("rejected", "not-mr"),
    }


def test_four_associations_with_four_series_at_once(house: House, listener: Listener) -> None:
    def push(series: list[object]) -> None:
        association = associate(listener, MR)
        statuses.extend(association.send_c_store(dataset).Status for dataset in series)
        association.release()

    statuses: list[int] = []
    senders = [threading.Thread(target=push, args=(flair_series(15),)) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert statuses == [0x0000] * 60
    assert [case.state for case in house.cases] == [State.QUEUED] * 4


def test_an_abort_in_the_middle_leaves_the_series_receiving(house: House, listener: Listener) -> None:
    association = associate(listener, MR)
    for dataset in flair_series(20):
        association.send_c_store(dataset)
    association.abort()
    join_network_threads()
    assert house.case.state is State.RECEIVING
    house.wait(31)
    assert house.case.state is State.QUEUED


def test_a_connection_lost_in_the_middle_of_an_object_keeps_what_was_acknowledged(house: House, listener: Listener) -> None:
    association = associate(listener, MR, steady=False)
    series = flair_series(20)
    for dataset in series[:15]:
        association.send_c_store(dataset)
    # half a P-DATA-TF of the next message, then nothing more
    connection = association.dul.socket.socket
    connection.send(struct.pack(">BBI", 4, 0, 10_000) + bytes(500))
    connection.shutdown(socket.SHUT_RDWR)
    assert eventually(lambda: not listener._lines)
    assert house.case.instances == 15
    assert house.case.state is State.RECEIVING
    join_network_threads()


@pytest.mark.parametrize(
    "bad", [b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\x00\x00\x00\x04junk", bytes(200), b"\xff" * 64, b"\x01\x00\xff\xff\xff\xff"]
)
def test_what_is_no_dicom_at_all_does_no_harm(house: House, listener: Listener, bad: bytes) -> None:
    with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as connection:
        connection.sendall(bad)
    association = associate(listener, VERIFICATION)
    assert association.send_c_echo().Status == 0x0000
    association.release()


def test_a_stop_lets_a_sender_finish_and_takes_nobody_new(house: House) -> None:
    with listening(house) as listener:
        association = associate(listener, MR)
        series = flair_series(16)
        assert association.send_c_store(series[0]).Status == 0x0000
        stopping = threading.Thread(target=listener.stop, args=(60.0,))
        stopping.start()
        assert eventually(lambda: listener._stopping)
        assert [association.send_c_store(dataset).Status for dataset in series[1:]] == [0x0000] * 15
        association.release()
        stopping.join()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", listener.port), timeout=1)
    assert house.case.state is State.QUEUED


def test_a_stop_ends_an_idle_association_and_does_not_wait_for_ever(house: House) -> None:
    with listening(house) as listener:
        association = associate(listener, VERIFICATION, steady=False)
        began = time.monotonic()
        listener.stop(5.0)
        assert time.monotonic() - began < 4.0
        assert eventually(lambda: not association.is_established)


@pytest.mark.parametrize("trouble", [FileNotFoundError(2, "No such file or directory"), Unavailable("away"), ZeroDivisionError()])
def test_a_request_that_cannot_be_looked_at_is_refused_for_now(
    house: House, listener: Listener, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """Accepted with Verification only, a modality would take it for a refusal of its classes for good."""

    def fail() -> None:
        raise trouble

    monkeypatch.setattr(listener._room, "why_not", fail)
    answer = associate(listener, MR, VERIFICATION).acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)
    monkeypatch.undo()
    association = associate(listener, MR, VERIFICATION)
    assert association.send_c_store(flair_series(1)[0]).Status == 0x0000
    association.release()


def test_with_the_data_folder_away_associations_are_refused_until_it_is_back(
    house: House, listener: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("service.listener.room.REMEMBERED_S", 0.0)
    house.store.root, root = tmp_path / "gone", house.store.root
    answer = associate(listener, MR, VERIFICATION).acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)
    assert "is away" in listener.describe()["refuses"]
    house.store.root = root
    association = associate(listener, MR, VERIFICATION)
    assert association.send_c_store(flair_series(1)[0]).Status == 0x0000
    association.release()
